"""What the routes answer: rows, archives, limits, errors; without a socket."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import ClassifierOptions
from runtime.errors import BackendError
from runtime.pipeline import Cell
from runtime.results import COLUMNS
from runtime.service.archives import cells_of_archive
from runtime.service.desk import Desk
from runtime.service.limits import Limits
from runtime.service.uploads import UploadForm
from runtime.shift import FEWEST_CELLS
from tests.runtime.service_help import Client, client_on, desk_on, form, noise_cell, p_all_of, zipped
from tests.runtime.tinted import tinted
from tests.tiny_bundle import SIZE, write_tiny_bundle

BOUNDARY = b"frontier"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("service") / "bundle")


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[Client]:
    with client_on(bundle) as made:
        yield made


def rows(client: Client, files: list[tuple[str, bytes]]) -> list[dict[str, Any]]:
    answer = client.post("/classify", files=form(files))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def detail(answer: Any, code: int) -> str:
    """The sentence of an error: one line, of one shape."""
    assert answer.status_code == code, answer.text
    assert list(answer.json()) == ["detail"]
    sentence: str = answer.json()["detail"]
    assert sentence
    assert "\n" not in sentence
    return sentence


# Rows


def test_the_rows_are_those_of_classify_in_the_order_sent(client: Client, bundle: Path, tmp_path: Path) -> None:
    files = {f"{number}.png": noise_cell(number) for number in (5, 3, 9, 1)}
    found = rows(client, list(files.items()))
    expected = p_all_of(bundle, files, tmp_path / "cells")
    assert [row["path"] for row in found] == list(files)
    assert [row["p_all"] for row in found] == [pytest.approx(expected[name], abs=2e-6) for name in files]
    assert all(tuple(row) == COLUMNS for row in found)
    assert all(row["label"] == ("ALL" if row["p_all"] >= 0.5 else "healthy") for row in found)


def test_a_bad_image_is_a_row_and_the_others_are_answered(client: Client) -> None:
    found = rows(client, [("a.png", noise_cell(1)), ("b.png", b""), ("c.png", b"no image"), ("d.png", noise_cell(2))])
    assert [row["status"] != "error" for row in found] == [True, False, False, True]
    assert [row["reason"] for row in found[1:3]] == [
        "the file is empty",
        "not an image that can be read (expected BMP, PNG, JPEG, TIFF)",
    ]
    assert [(row["label"], row["p_all"]) for row in found[1:3]] == [("", None)] * 2


def test_a_bomb_of_an_image_is_a_row(client: Client) -> None:
    head = struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + b"IHDR" + head
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + head)) + struct.pack(">I", 0) + b"IDAT"
    [row] = rows(client, [("bomb.png", bomb)])
    assert row["status"] == "error"
    assert "4096x4096" in row["reason"]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>.png",
        "\u202egnp.lla",
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\Windows\\system.ini",
        'a "quoted"; name="other".png',
        "x" * 10_000 + ".png",
        "\U0001f9eb cell é.png",
    ],
)
def test_a_name_is_a_label_and_comes_back_as_it_was_sent(client: Client, name: str) -> None:
    raw = b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--frontier--\r\n'
    answer = client.post("/classify", content=raw % (_quoted(name), noise_cell(1)), headers=FORM)
    assert [row["path"] for row in answer.json()["results"]] == [name]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content.isascii()


def _quoted(name: str) -> bytes:
    return name.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def test_a_name_with_a_null_or_bytes_that_are_no_text_costs_nothing(client: Client) -> None:
    head = b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="a\x00b\xff.png"\r\n\r\n'
    raw = head + b"%s\r\n--frontier--"
    answer = client.post("/classify", content=raw % noise_cell(1), headers=FORM)
    assert [row["path"] for row in answer.json()["results"]] == ["a\x00b\ufffd.png"]


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"filename*=utf-8''Zelle%20%C3%A4%22.png", 'Zelle ä".png'),  # older versions of requests
        (b"filename==?utf-8?B?WmVsbGUgw6QucG5n?=; filename*=utf-8''Zelle%20%C3%A4.png", "Zelle ä.png"),  # .NET
        (b"filename=\"a.png\"; filename*=UTF-8'de'%FF.png", "\ufffd.png"),
        (b"filename=\"a.png\"; filename*=utf-8''", "a.png"),
        (b'filename="a.png"; filename*=utf-8', "a.png"),
        (b"filename=\"a.png\"; filename*=koi8-r''%C1.png", "a.png"),
    ],
)
def test_a_name_beyond_ascii_is_read_as_other_clients_write_it(client: Client, sent: bytes, name: str) -> None:
    raw = b"--frontier\r\nContent-Disposition: form-data; name=files; %s\r\n\r\n%s\r\n--frontier--\r\n"
    answer = client.post("/classify", content=raw % (sent, noise_cell(1)), headers=FORM)
    assert [row["path"] for row in answer.json()["results"]] == [name]


def test_a_part_without_a_files_name_has_a_label_too(client: Client) -> None:
    raw = b'--frontier\r\nContent-Disposition: form-data; name="files"\r\n\r\n%s\r\n--frontier--'
    answer = client.post("/classify", content=raw % noise_cell(1), headers=FORM)
    assert [row["path"] for row in answer.json()["results"]] == ["unnamed"]


@pytest.mark.parametrize("slow", [b";" * 16_000, b"; a=b" * 3_000, b'; a="' + b'\\"' * 8_000])
def test_a_head_that_is_made_to_be_slow_to_read_is_not(slow: bytes) -> None:
    head = b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="x"%s\r\n\r\n\r\n' % slow
    upload_form = UploadForm(BOUNDARY, Limits())
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        upload_form.feed(head + b"--frontier--")
    finally:
        sys.setprofile(None)
    assert [upload.name for upload in upload_form.files()] == ["x"]
    assert calls < 2 * len(head), "a parser that takes a head apart piece by piece makes more"


# Archives


def test_an_archive_is_recognised_by_its_content_and_its_members_stand_in_its_place(client: Client) -> None:
    archive = zipped({"sub/b.png": noise_cell(2), "a.png": noise_cell(1), "bad.png": b"no image"})
    found = rows(client, [("first.png", noise_cell(1)), ("cells.dat", archive), ("last.png", noise_cell(2))])
    names = ["first.png", "cells.dat/sub/b.png", "cells.dat/a.png", "cells.dat/bad.png", "last.png"]
    assert [row["path"] for row in found] == names
    assert found[0]["p_all"] == pytest.approx(found[2]["p_all"], abs=2e-6)
    assert found[1]["p_all"] == pytest.approx(found[4]["p_all"], abs=2e-6)
    assert found[3]["status"] == "error"


def test_path_tricks_in_an_archive_are_labels(client: Client) -> None:
    tricks = ["../../../tmp/x.png", "/etc/cron.d/x.png", "..\\..\\x.png", "a/../../b.png", "<img src=x onerror=y>.png"]
    found = rows(client, [("z.zip", zipped({trick: noise_cell(1) for trick in tricks}))])
    assert [row["path"] for row in found] == [f"z.zip/{trick}" for trick in tricks]
    assert all(row["label"] for row in found)


def test_a_members_name_is_found_where_the_archive_does_not_say_how_it_is_written(client: Client) -> None:
    archive = zipped({"gr~~~~e.png": noise_cell(1), "f~r.png": noise_cell(2), "\u4e2d.png": noise_cell(3)})
    # As macOS and the `zip` of Linux write names, and as old programs do: one byte for each character.
    archive = archive.replace(b"gr~~~~e", "gr\u00f6\u00dfe".encode()).replace(b"f~r", b"f\x81r")
    found = rows(client, [("z.zip", archive)])
    assert [row["path"] for row in found] == ["z.zip/gr\u00f6\u00dfe.png", "z.zip/f\u00fcr.png", "z.zip/\u4e2d.png"]
    assert all(row["label"] for row in found)


def test_what_lies_beside_images_is_left_out_as_in_a_folder(client: Client) -> None:
    beside = {"labels.csv": b"x", "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "sub/": b"", "sub/.hidden.png": b"x"}
    found = rows(client, [("z.zip", zipped({**beside, "a.png": noise_cell(1), "notes.txt": b"a row that says so"}))])
    assert [(row["path"], bool(row["label"])) for row in found] == [("z.zip/a.png", True), ("z.zip/notes.txt", False)]


def test_an_archive_inside_an_archive_is_not_opened(client: Client) -> None:
    [row] = rows(client, [("z.zip", zipped({"inner.zip": zipped({"a.png": noise_cell(1)})}))])
    assert row["reason"] == "expected an image, found an archive inside the archive"


def test_damaged_encrypted_and_strangely_packed_members_are_rows(client: Client) -> None:
    members = {f"{name}.png": noise_cell(1) for name in ("good", "damaged", "encrypted", "lzma")}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, zipfile.ZIP_LZMA if name.startswith("lzma") else None)
        damaged, encrypted = archive.getinfo("damaged.png"), archive.getinfo("encrypted.png")
    content = bytearray(stream.getvalue())
    content[damaged.header_offset + 30 + len("damaged.png") + 20] ^= 0xFF
    entry = content.index(b"PK\x01\x02", content.index(b"encrypted.png", encrypted.header_offset + 100) - 60)
    content[entry + 8] |= 1
    content[encrypted.header_offset + 6] |= 1
    found = {row["path"]: row for row in rows(client, [("z.zip", bytes(content))])}
    assert found["z.zip/good.png"]["label"]
    assert "damaged member of an archive" in found["z.zip/damaged.png"]["reason"]
    assert found["z.zip/encrypted.png"]["reason"] == "expected a member that can be read, found it encrypted"
    assert "stored or deflated" in found["z.zip/lzma.png"]["reason"]


def test_an_archive_that_cannot_be_read_is_refused(client: Client) -> None:
    whole = zipped({"a.png": noise_cell(1)})
    for content in (whole[:-30], b"PK\x03\x04" + b"\0" * 50):
        assert "zip archive" in detail(client.post("/classify", files=form([("z.zip", content)])), 400)
    for members in ({}, {"labels.csv": b"x"}):
        answer = client.post("/classify", files=form([("z.zip", zipped(members))]))
        assert "expected one image or more in the field 'files', found none in archives" in detail(answer, 400)


def test_an_archive_without_an_image_is_told_also_beside_others(client: Client) -> None:
    others = [("a.png", noise_cell(1)), ("good.zip", zipped({"b.png": noise_cell(2)}))]
    answer = client.post("/classify", files=form([*others, ("empty.zip", zipped({".hidden.png": noise_cell(3)}))]))
    assert "found none in archives such as 'empty.zip'; leave it out" in detail(answer, 400)


def test_a_bomb_unpacks_no_more_than_its_limits(bundle: Path) -> None:
    limits = Limits(file_bytes=2**20, unpacked_bytes=3 * 2**20)
    members = {"large.png": b"\0" * (8 * 2**20), **{f"{number}.png": b"\0" * 2**20 for number in range(5)}}
    archive = zipped(members)
    assert len(archive) < 2**16
    with client_on(bundle, limits) as client:
        found = rows(client, [("bomb.zip", archive)])
    assert found[0]["reason"] == f"expected at most {2**20} bytes unpacked, found {8 * 2**20}"
    assert sum("the archive unpacks to more than" in row["reason"] for row in found) == 2
    assert sum("not an image" in row["reason"] for row in found) == 3


def test_a_bomb_in_several_archives_unpacks_no_more_than_in_one(bundle: Path) -> None:
    archive = zipped({f"{number}.png": b"\0" * 2**20 for number in range(2)})
    with client_on(bundle, Limits(file_bytes=2**20, unpacked_bytes=3 * 2**20)) as client:
        for _ in range(2):  # each request has as much
            found = rows(client, [(f"{number}.zip", archive) for number in range(3)])
            assert sum("the archive unpacks to more than" in row["reason"] for row in found) == 3
            assert sum("not an image" in row["reason"] for row in found) == 3


def test_a_member_that_is_larger_than_it_says_is_not_believed(client: Client) -> None:
    content = bytearray(zipped({"a.png": b"\0" * 2**20}))
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the sizes in both of its heads
        start = content.index(mark)
        content[start + place : start + place + 4] = struct.pack("<I", 100)
    [row] = rows(client, [("z.zip", bytes(content))])
    assert "damaged member" in row["reason"]


def test_an_archive_of_too_many_members_is_refused_before_it_is_opened(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError

    archive = zipped({f"{number}.png": b"" for number in range(41)})
    with client_on(bundle, Limits(request_files=10)) as client:
        monkeypatch.setattr(zipfile, "ZipFile", opened)
        answer = client.post("/classify", files=form([("z.zip", archive)]))
    assert "at most 10 more images" in detail(answer, 413)


def test_images_of_an_archive_are_counted_without_what_lies_beside_them(bundle: Path) -> None:
    def archive(count: int) -> bytes:
        names = [f"{number}.png" for number in range(count)]
        return zipped({f"{folder}{name}": noise_cell(1) for name in names for folder in ("", "__MACOSX/._")})

    with client_on(bundle, Limits(request_files=10)) as client:
        assert len(rows(client, [("z.zip", archive(10))])) == 10
        assert "at most 10 more images" in detail(client.post("/classify", files=form([("z.zip", archive(11))])), 413)


# What sets cells apart as a whole


def test_a_program_is_told_of_cells_that_look_unusual_as_a_whole(
    cell_file: Callable[[str], Path], tmp_path: Path
) -> None:
    cell = Path(tinted(cell_file("cell.png"), tmp_path / "bluish.png", (0.7, 0.9, 1.3))).read_bytes()
    files = [(f"{number}.png", cell) for number in range(FEWEST_CELLS)]
    with client_on(DEFAULT_BUNDLE) as client:
        few = client.post("/classify", files=form(files[1:])).json()
        enough = client.post("/classify", files=form([*files, ("no image", b"")])).json()
        rule = client.get("/about").json()["shift"]
    assert few["warnings"] == []
    [warning] = enough["warnings"]
    assert f"{FEWEST_CELLS} cells look unlike those of the 14 subjects" in warning
    assert "mean share of blue in the light" in warning
    assert enough["appearances"]["cells"] == FEWEST_CELLS
    [blue] = [each for each in rule["means"] if each["measure"] == "blue"]
    for answer in (few, enough):
        assert answer["appearances"]["sums"]["blue"] / answer["appearances"]["cells"] > blue["high"]
        assert all(tuple(row) == COLUMNS for row in answer["results"])


def test_a_bundle_of_unknown_subjects_has_no_rule_and_warns_of_nothing(client: Client) -> None:
    answer = client.post("/classify", files=form([("a.png", noise_cell(1))] * FEWEST_CELLS)).json()
    assert (answer["warnings"], answer["appearances"]["cells"]) == ([], FEWEST_CELLS)
    assert client.get("/about").json()["shift"] is None


# Limits


def test_too_many_files_are_refused(bundle: Path) -> None:
    files = [(f"{number}.png", noise_cell(number)) for number in range(4)]
    with client_on(bundle, Limits(request_files=3)) as client:
        assert len(rows(client, files[:3])) == 3
        assert "at most 3 files" in detail(client.post("/classify", files=form(files)), 413)
        archive = ("z.zip", zipped(dict(files[:2])))
        assert "at most 1 more images" in detail(client.post("/classify", files=form([archive, archive])), 413)
        assert "expected at most" in detail(client.post("/classify", files=form([archive, *files[:2]])), 413)


def test_a_large_file_is_refused_while_it_comes_and_an_archive_may_be_larger(bundle: Path) -> None:
    limits = Limits(file_bytes=4096, request_bytes=64 * 1024)
    many = zipped({f"{number}.png": noise_cell(number) for number in range(20)}, zipfile.ZIP_STORED)
    assert limits.file_bytes < len(many) < limits.request_bytes
    with client_on(bundle, limits) as client:
        assert "4096 bytes" in detail(client.post("/classify", files=form([("a.png", b"x" * 5000)])), 413)
        assert len(rows(client, [("z.zip", many)])) == 20


def test_a_large_request_is_refused_by_its_head_and_by_what_comes(bundle: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        while True:
            yield b"x" * 1000

    with client_on(bundle, Limits(request_bytes=10_000)) as client:
        answer = client.post("/classify", files=form([("a.png", b"x" * 20_000)]))
        assert "at most 10000 bytes" in detail(answer, 413)
        assert "at most 10000 bytes" in detail(client.post("/classify", content=endless(), headers=FORM), 413)


def test_no_more_is_kept_of_all_requests_together_than_is_allowed(bundle: Path) -> None:
    with desk_on(bundle, Limits(bytes_at_a_time=10_000)) as desk:
        client = Client(desk)
        answer = client.post("/classify", files=form([("a.png", b"x" * 20_000)]))
        assert "10000 bytes of all requests" in detail(answer, 503)
        assert answer.headers["retry-after"] == "1"
        assert desk.bytes_held == 0
        assert len(rows(client, [("a.png", noise_cell(1))])) == 1


def test_a_full_queue_is_said_with_a_time_to_come_back(bundle: Path) -> None:
    with desk_on(bundle, Limits(waiting_cells=0)) as desk:
        answer = Client(desk).post("/classify", files=form([("a.png", noise_cell(1))]))
    assert "waiting cells" in detail(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1


# Requests that are none


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut off"),
        (b"no form at all", "as its standard says"),
        (b"--frontier\r\n", "cut off"),
        (b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc', "cut off"),
        (b"--frontier--\r\n", "cut off|none"),
        (b'--frontier\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--frontier--\r\n', "'other'"),
        (b"--frontier\r\n\r\nabc\r\n--frontier--\r\n", "the field 'files', found ''"),
        (b"--frontier\r\nBad Header\r\n\r\nabc\r\n--frontier--\r\n", "as its standard says"),
        (b"--frontier\r\n" + b"X: y\r\n" * 50 + b"\r\nabc\r\n--frontier--\r\n", "header count"),
        (b"--frontier\r\nX: " + b"y" * 100_000 + b"\r\n\r\nabc\r\n--frontier--\r\n", "header size"),
    ],
)
def test_a_broken_form_is_refused(client: Client, content: bytes, said: str) -> None:
    sentence = detail(client.post("/classify", content=content, headers=FORM), 400)
    assert any(part in sentence for part in said.split("|")), sentence


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("", 415),
        ("image/png", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        (f"multipart/form-data; boundary={'x' * 1000}", 400),
        ("multipart/mixed; boundary=frontier", 415),
    ],
)
def test_another_media_type_is_refused(client: Client, content_type: str, code: int) -> None:
    detail(client.post("/classify", content=b"--frontier--", headers={"Content-Type": content_type}), code)


def test_an_encoded_body_is_refused(client: Client) -> None:
    headers = {**FORM, "Content-Encoding": "gzip"}
    assert "'gzip'" in detail(client.post("/classify", content=b"x", headers=headers), 415)


def test_other_paths_and_methods_are_refused_in_the_same_shape(client: Client) -> None:
    assert "GET /nothing" in detail(client.get("/nothing"), 404)
    assert "GET /classify" in detail(client.get("/classify"), 405)
    assert "DELETE /" in detail(client.request("DELETE", "/"), 405)
    assert client.get("/v2/nothing").json().keys() == {"error"}


@pytest.mark.parametrize("name", ["../app.py", "%2e%2e/app.py", "..%5capp.py", "/etc/passwd", "%00", "a" * 5000, ""])
def test_no_file_but_the_pages_own_is_served(client: Client, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


# What it says of itself


def test_the_page_and_its_files_are_served_with_what_browsers_are_told(client: Client) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "not a diagnosis" in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    assert client.get("/static/index.html").content == answer.content


@pytest.mark.parametrize("path", ["/classify", "/explain", "/v2/models/compact_fp32/infer"])
def test_who_was_told_of_another_model_or_threshold_gets_no_answer(path: str, bundle: Path) -> None:
    sent: dict[str, Any] = {"files": form([("a.png", noise_cell(1))])}
    if path.startswith("/v2"):
        cells = {"name": "cells", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "data": [0] * (SIZE * SIZE * 3)}
        sent = {"json": {"inputs": [cells]}}
    codes: list[int] = []
    identities: list[str] = []
    detail = "found that the service has restarted with others"
    for threshold in (None, 0.8):
        with Desk() as desk:
            desk.open(ClassifierOptions(bundle=bundle, backend="cpu", threshold=threshold))
            client = Client(desk)
            identities.append(client.get("/about").json()["identity"])
            answers = [client.post(path, headers={"If-Match": f'"{one}"'}, **sent) for one in identities]
            codes += [answer.status_code for answer in answers]
            assert all(detail in answer.text for answer in answers[:-1])
    assert codes == [200, 412, 200]


def test_about_names_the_bundle_the_threshold_and_the_limits(client: Client, bundle: Path) -> None:
    about = client.get("/about").json()
    assert about["threshold"] == 0.5
    assert about["precision"] == "fp32"
    assert len(about["bundle"]) == 64
    assert about["limits"]["request_files"] == Limits().request_files
    assert (about["curve"], about["explain"], about["watch"]) == ([], "occlusion", False)
    assert "not a diagnosis" in about["notice"]
    assert client.get("/model-card").text == (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_metrics_count_requests_cells_and_batches(bundle: Path) -> None:
    with desk_on(bundle) as desk:
        client = Client(desk)
        rows(client, [("a.png", noise_cell(1)), ("b.png", b"")])
        client.get("/nothing/at/all")
        text = client.get("/metrics").text
    assert 'allnet_requests_total{code="200",route="/classify"} 1.0' in text
    assert 'allnet_requests_total{code="404",route="other"} 1.0' in text
    assert 'allnet_cells_total{label="",status="error"} 1.0' in text
    assert "allnet_waiting_cells 0.0" in text
    assert "allnet_requests_in_flight 1.0" in text
    assert 'model="compact"' in text


def test_it_is_alive_but_not_ready_until_the_model_is_proved_and_while_it_stops(bundle: Path) -> None:
    with Desk() as desk:
        client = Client(desk)
        assert client.get("/healthz").status_code == 200
        for path in ("/readiness", "/about", "/model-card"):
            assert "being loaded" in detail(client.get(path), 503)
        assert "being loaded" in detail(client.post("/classify", files=form([("a", b"x")])), 503)
        desk.open(ClassifierOptions(bundle=bundle, backend="cpu"))
        assert client.get("/readiness").status_code == 200
        desk.is_stopping = True
        assert "stopping" in detail(client.get("/readiness"), 503)
        assert "stopping" in detail(client.post("/classify", files=form([("a", b"x")])), 503)
        assert client.get("/healthz").status_code == 200


def test_what_was_taken_when_it_is_told_to_stop_is_answered(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk_on(bundle) as desk:

        def stopped_meanwhile(*arguments: Any) -> list[Cell]:
            desk.is_stopping = True
            return cells_of_archive(*arguments)

        monkeypatch.setattr("runtime.service.uploads.cells_of_archive", stopped_meanwhile)
        [row] = rows(Client(desk), [("z.zip", zipped({"a.png": noise_cell(1)}))])
        assert row["label"]


def test_a_model_that_fails_its_self_test_later_answers_nothing_more(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **options: object) -> Any:
        raise BackendError("the device is gone")

    with desk_on(bundle) as desk:
        client = Client(desk)
        monkeypatch.setattr(desk.classifier.backend, "infer", fail)
        assert "the device is gone" in detail(client.post("/classify", files=form([("a.png", noise_cell(1))])), 503)
        monkeypatch.undo()
        assert "self-test" in detail(client.get("/healthz"), 503)
        assert "self-test" in detail(client.post("/classify", files=form([("a.png", noise_cell(1))])), 503)


def test_a_fault_of_one_batch_costs_its_requests_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk_on(bundle) as desk:
        client = Client(desk)
        real = desk.classifier.backend.infer
        faults = [BackendError("out of memory")]

        def infer(cells: Any, **options: Any) -> Any:
            if faults:
                raise faults.pop()
            return real(cells, **options)

        monkeypatch.setattr(desk.classifier.backend, "infer", infer)
        assert "out of memory" in detail(client.post("/classify", files=form([("a.png", noise_cell(1))])), 503)
        assert len(rows(client, [("a.png", noise_cell(1))])) == 1
        assert client.get("/healthz").status_code == 200


def test_the_classifier_needs_no_web_library() -> None:
    blocked = ("fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart", "pydantic", "anyio")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import runtime.classify, runtime.watch"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import runtime.serve as s; s.build_parser()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
