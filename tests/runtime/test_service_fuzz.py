"""Requests made from the service's own OpenAPI: never a 500, always one of the answers that it describes.

`ALLNET_FUZZ_EXAMPLES=1500 pytest tests/runtime/test_service_fuzz.py` makes so many for each operation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")
schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")

import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from runtime.bundle import Bundle
from runtime.service.limits import Limits
from runtime.service.watch_feed import WatchFeed
from tests.runtime.service_help import Running, form, noise_cell
from tests.runtime.watched import Watched
from tests.tiny_bundle import write_tiny_bundle

EXAMPLES = int(os.environ.get("ALLNET_FUZZ_EXAMPLES", "15"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("service")
    bundle = write_tiny_bundle(place / "bundle")
    watched = Watched(place)
    watched.cell("a.png")
    watched.add("a.png", "gone.png", bundle=Bundle.open(bundle).content_sha256)
    with Running(bundle, Limits(stall_s=2.0), feed=WatchFeed(watched.database, watched.folder)) as service:
        yield service


def ask_at_random(operation: Any, mode: Any, answers: set[int], codes: Counter[tuple[str, int]], url: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call(base_url=url, timeout=30)
        codes[operation.label, answer.status_code] += 1
        assert answer.status_code in answers, (answer.status_code, answer.text)
        if answer.status_code >= 400 and operation.method.upper() != "HEAD":
            assert list(answer.json()) in (["detail"], ["error"])

    with suppress(Unsatisfiable):  # an operation without parameters has nothing that could be wrong
        ask()


def described_by(running: Running) -> dict[str, Any]:
    """Its OpenAPI, in which the model's name is the one that it has: another is not found and finds nothing."""
    description: dict[str, Any] = httpx.get(f"{running.url}/openapi.json").json()
    known: dict[str, str | int] = {"name": "compact_fp32", "version": "1", "row": 1, "If-Match": "*"}
    for methods in description["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    parameter["schema"]["enum"] = [known[parameter["name"]]]
    return description


def test_no_request_of_its_own_description_breaks_it(running: Running) -> None:
    codes: Counter[tuple[str, int]] = Counter()
    schema = schemathesis.openapi.from_dict(described_by(running))
    for result in schema.get_all_operations():
        operation = result.ok()
        described = schema.raw_schema["paths"][operation.path][operation.method.lower()]["responses"]
        for mode in schemathesis.GenerationMode:
            ask_at_random(operation, mode, {int(code) for code in described}, codes, running.url)
    print(f"{sum(codes.values())} requests: {dict(codes)}")
    assert not any(code >= 500 for _, code in codes)
    answer = httpx.post(f"{running.url}/classify", files=form([("a.png", noise_cell(1))]))
    assert [row["path"] for row in answer.json()["results"]] == ["a.png"]
