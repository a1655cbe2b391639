from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

import httpx
from PIL import Image

from runtime.bundle import DEFAULT_BUNDLE
from runtime.demo import demo_cells
from runtime.errors import BackendError
from runtime.explanation import GRADIENT, OCCLUSION, PLACES, explain
from runtime.preprocessing import load_cell
from runtime.reading import Reading
from runtime.service.desk import Desk
from runtime.service.explaining import Explainer
from runtime.service.problems import BusyError
from tests.runtime.service_help import (
    PATIENCE_S,
    Client,
    Running,
    client_on,
    desk_on,
    form,
    noise_cell,
    wait_until,
    zipped,
)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with desk_on(DEFAULT_BUNDLE) as opened:
        yield opened


@pytest.fixture
def client(desk: Desk) -> Client:
    return Client(desk, None)


def sent(client: Client, *files: tuple[str, bytes]) -> Any:
    return client.post("/explain", files=form(files))


def test_the_answer_is_the_map_of_the_cell(client: Client, desk: Desk) -> None:
    path = Path(demo_cells()[0])
    answer = sent(client, ("cell.png", path.read_bytes())).json()
    cell = load_cell(path, desk.classifier.manifest.image)
    expected = explain(desk.classifier.backend, cell, 8)
    assert (answer["method"], answer["rows"], answer["columns"]) == (GRADIENT, *expected.heat.shape)
    assert answer["p_all"] == pytest.approx(expected.p_all, abs=1e-6)
    np.testing.assert_allclose(answer["heat"], expected.heat, atol=1e-6)


def test_a_graph_without_a_map_is_explained_by_covering(tiny_bundle: Path) -> None:
    with client_on(tiny_bundle) as client:
        answer = sent(client, ("cell.png", noise_cell(1))).json()
    assert (answer["method"], answer["rows"], answer["columns"]) == (OCCLUSION, PLACES, PLACES)
    assert np.abs(answer["heat"]).max() > 0


def test_a_picture_is_the_frame_that_the_model_sees_in_a_format_that_browsers_show(client: Client) -> None:
    wide = np.zeros((30, 60, 3), np.uint8)
    wide[:, 30:] = 255
    tiff = io.BytesIO()
    Image.fromarray(wide).save(tiff, "TIFF")
    answer = client.post("/picture", files=form([("cell.tif", tiff.getvalue())]))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (480, 480))
        assert [image.getpixel(place) for place in ((400, 60), (120, 240), (400, 240))] == [
            (0, 0, 0),
            (0, 0, 0),
            (255, 255, 255),
        ]


@pytest.mark.parametrize("path", ["/explain", "/picture"])
@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ([("a.png", noise_cell(1)), ("b.png", noise_cell(2))], 400, "expected one image"),
        ([("a.zip", zipped({"a.png": noise_cell(1)}))], 400, "expected one image"),
        ([("a.png", b"no image")], 422, "expected an image that can be read"),
        ([("a.png", b"")], 422, "the file is empty"),
    ],
)
def test_what_is_not_one_image_is_refused(
    client: Client, path: str, files: list[tuple[str, bytes]], status: int, detail: str
) -> None:
    answer = client.post(path, files=form(files))
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (BackendError("the device is lost"), 503, "the model could not explain the cell: the device is lost"),
        (ZeroDivisionError(), 500, "found a fault in the service; its log says more"),
    ],
)
def test_a_model_that_fails_is_said_in_the_shape_of_all_errors(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, detail: str
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr("runtime.service.explaining.explain", fails)
    answer = sent(client, ("a.png", noise_cell(1)))
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


def test_classifying_goes_on_while_explanations_wait(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()

    def slow(*arguments: Any) -> Any:
        may_go_on.wait(PATIENCE_S)
        return explain(*arguments)

    monkeypatch.setattr("runtime.service.explaining.explain", slow)
    monkeypatch.setattr("runtime.service.explaining.MOST_WAITING", 1)
    files = form([("cell.png", noise_cell(1))])
    with Running(tiny_bundle) as running, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.post, f"{running.url}/explain", files=files, timeout=PATIENCE_S) for _ in range(4)]
        wait_until(lambda: sum(each.done() for each in asked) == 2)  # one is at its turn, one waits
        assert httpx.post(f"{running.url}/classify", files=files, timeout=PATIENCE_S).status_code == 200
        may_go_on.set()
        assert sorted(each.result().status_code for each in asked) == [200, 200, 503, 503]


def test_a_model_that_turns_out_to_be_at_fault_explains_nothing_that_waited(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **options: Any) -> Any:
        raise BackendError("the device is gone")

    def explained_while_another_fails(*arguments: Any) -> Any:
        explanation = explain(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(own.classifier.backend, "infer", fails)
            Client(own).post("/classify", files=form([("b.png", noise_cell(2))]))
        return explanation

    monkeypatch.setattr("runtime.service.explaining.explain", explained_while_another_fails)
    with desk_on(tiny_bundle) as own:
        answer = sent(Client(own), ("a.png", noise_cell(1)))
    assert answer.status_code == 503
    assert "expected a model that passes its self-test, found: " in answer.json()["detail"]


def test_requests_that_come_at_once_are_counted_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.service.explaining.MOST_WAITING", 1)
    path = Path(demo_cells()[0])
    reading = Reading(load_cell(path, desk.classifier.manifest.image))

    async def ask_at_once() -> list[dict[str, Any] | BaseException]:
        explainer = Explainer()
        answers = (explainer.answer(desk, lambda: reading) for _ in range(4))
        return await asyncio.gather(*answers, return_exceptions=True)

    assert [isinstance(each, BusyError) for each in asyncio.run(ask_at_once())] == [False, False, True, True]
