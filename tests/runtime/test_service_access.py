"""Who may ask: tokens, names of the service, other sites' pages."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

from runtime.errors import UsageError
from runtime.serve import access_of, build_parser
from runtime.service.access import Access
from runtime.service.desk import Desk
from tests.runtime.service_help import Client

TOKEN = "a-token-of-some-length"  # noqa: S105


def asked(access: Access, path: str = "/metrics", **headers: str) -> int:
    with Desk() as desk:
        answer = Client(desk, access).get(path, headers=headers)
    if answer.status_code >= 400:
        assert answer.json().keys() == {"error" if path.startswith("/v2") else "detail"}
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    return answer.status_code


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        ("", 401),
        ("Bearer", 401),
        ("Bearer another-token-of-some-length", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer \u00e9" * 10, 401),
    ],
)
def test_a_request_needs_the_very_token(authorization: str, code: int) -> None:
    with Desk() as desk:
        headers = {b"authorization": authorization.encode("latin-1")} if authorization else {}
        answer = Client(desk, Access(TOKEN)).get("/metrics", headers=headers)
    assert answer.status_code == code
    if code == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["/about", "/model-card", "/metrics", "/openapi.json", "/classify", "/v2", "/nothing"])
def test_nothing_is_told_without_the_token(path: str) -> None:
    assert asked(Access(TOKEN), path) == 401


@pytest.mark.parametrize(
    ("path", "code"), [("/", 200), ("/static/index.html", 200), ("/healthz", 200), ("/readiness", 503)]
)
def test_the_page_and_the_probes_need_no_token(path: str, code: int) -> None:
    assert asked(Access(TOKEN), path) == code


def test_two_tokens_in_one_request_are_refused() -> None:
    with Desk() as desk:
        headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")]
        assert Client(desk, Access(TOKEN)).get("/metrics", headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:1234", 200),
        ("LOCALHOST", 200),
        ("localhost.", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:8000@localhost", 403),
        ("localhost@evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_on_this_machine_the_service_answers_to_its_own_names_alone(host: str, code: int) -> None:
    assert asked(Access(), host=host) == code


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://127.0.0.1:3000", 403),
        ("http://localhost:8000", 403),
        ("https://evil.example", 403),
        ("http://127.0.0.1:8000.evil.example", 403),
        ("null", 403),
        ("file://", 403),
    ],
)
def test_another_sites_page_is_refused(origin: str, code: int) -> None:
    assert asked(Access(), origin=origin) == code


@pytest.mark.parametrize(
    ("path", "site", "code"),
    [
        ("/metrics", "cross-site", 403),
        ("/watch/explanations/1", "same-site", 403),
        ("/metrics", "same-origin", 200),
        ("/metrics", "none", 200),  # typed by the user
        ("/", "cross-site", 200),
    ],
)
def test_an_image_or_a_link_on_another_sites_page_asks_for_nothing_but_the_page(
    path: str, site: str, code: int
) -> None:
    assert asked(Access(), path, **{"sec-fetch-site": site}) == code


def test_a_name_that_was_allowed_is_one_of_its_names_and_pages() -> None:
    access = Access("", allowed_names=frozenset({"lab.example"}))
    assert asked(access, host="lab.example") == 200
    assert asked(access, host="127.0.0.1:8000", origin="https://lab.example") == 200
    assert asked(access, host="other.example") == 403


# The command line


def access(*arguments: str) -> Access:
    return access_of(build_parser().parse_args(arguments))


def test_this_machine_needs_no_token_and_may_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLNET_TOKEN", raising=False)
    assert access() == Access()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert access("--token-file", str(file)).token == TOKEN
    monkeypatch.setenv("ALLNET_TOKEN", TOKEN)
    assert access().token == TOKEN


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "lab.example", "127.0.0.2", ""])  # noqa: S104
def test_any_other_address_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLNET_TOKEN", raising=False)
    with pytest.raises(UsageError, match="expected a token for the address"):
        access("--host", host)
    monkeypatch.setenv("ALLNET_TOKEN", TOKEN)
    assert access("--host", host) == Access(TOKEN, names=frozenset())
    with_a_name = access("--host", host, "--allow-host", "lab.example")
    assert [asked(with_a_name, "/healthz", host=name) for name in ("lab.example", "192.168.1.5:8000")] == [200, 200]


@pytest.mark.parametrize(
    "name", ["http://lab.example", "lab.example:8000", "lab.example/", "*.lab.example", "[::1]", ""]
)
def test_a_further_name_that_no_request_could_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a name such as lab\.example at --allow-host") as refused:
        access("--allow-host", name)
    assert f"received {name!r}" in str(refused.value)


@pytest.mark.parametrize("name", ["LAB.example", "10.0.0.3", "fe80::1"])
def test_a_further_name_is_answered_to(name: str) -> None:
    host = f"[{name}]:8000" if ":" in name else f"{name}:8000"
    assert asked(access("--allow-host", name), "/healthz", host=host) == 200


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("short", "5;"),
        ("with a space in it", "18, some of them others;"),
        ("é" * 20, "20, some of them others;"),
        ("tab\tinside-of-the-token", "23, some of them others;"),
    ],
)
def test_a_weak_token_is_refused_and_not_shown(token: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLNET_TOKEN", token)
    with pytest.raises(UsageError, match=f"16 or more ASCII characters without spaces, found {found}") as refused:
        access()
    assert token not in str(refused.value)


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found: No such file"):
        access("--token-file", str(tmp_path / "none"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="found nothing"):
        access("--token-file", str(tmp_path / "empty"))
    (tmp_path / "two").write_text(f"# the token\n{TOKEN}\n")
    with pytest.raises(UsageError, match=r"expected a token alone in the file .*two, found 2 lines"):
        access("--token-file", str(tmp_path / "two"))
