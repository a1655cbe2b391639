from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runtime.errors import UnreadableCellError
from runtime.pipeline import BATCHES_IN_FLIGHT, Scored, score_files
from runtime.schema import ImageSpec
from tests.runtime.fake_backend import SPEC, BrightnessBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load_number(path: str, spec: ImageSpec) -> NDArray[np.uint8]:
    """A path is a number: the brightness of its cell; "bad" cannot be read."""
    if path == "bad":
        raise UnreadableCellError("it is bad")
    return np.full((spec.height, spec.width, 3), int(path), np.uint8)


def load_slowly_at_random(path: str, spec: ImageSpec) -> NDArray[np.uint8]:
    time.sleep(hash(path) % 7 / 1000)
    return load_number(path, spec)


def scored(paths: list[str], backend: BrightnessBackend, batch_size: int = 4) -> list[Scored]:
    return list(score_files(paths, backend, SPEC, batch_size=batch_size, decode_threads=3, load=load_slowly_at_random))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 12, 13, 41])
def test_every_file_keeps_its_place_and_its_own_answer(count: int) -> None:
    rows = scored([str(number) for number in range(count)], BrightnessBackend())
    assert [row.path for row in rows] == [str(number) for number in range(count)]
    assert [row.p_all for row in rows] == [pytest.approx(number / 255) for number in range(count)]


def test_the_last_batch_is_as_short_as_it_falls() -> None:
    backend = BrightnessBackend()
    scored([str(number) for number in range(10)], backend)
    assert backend.batch_sizes == [4, 4, 2]


def test_a_bad_file_costs_its_own_row_alone() -> None:
    backend = BrightnessBackend()
    rows = scored(["1", "bad", "3", "4", "bad", "bad", "bad", "bad", "9"], backend)
    assert [row.p_all is None for row in rows] == [False, True, False, False, True, True, True, True, False]
    assert [row.reason for row in rows if row.p_all is None] == ["it is bad"] * 5
    assert [row.p_all for row in rows if row.p_all is not None] == [pytest.approx(n / 255) for n in (1, 3, 4, 9)]
    assert backend.batch_sizes == [3, 1], "a batch without a readable cell is not inferred"


def test_a_buffer_that_is_reused_leaves_nothing_behind() -> None:
    paths = [str(number % 250) for number in range(100)]
    paths[50] = "bad"
    rows = scored(paths, BrightnessBackend())
    assert [row.p_all for row in rows if row.path != "bad"] == [
        pytest.approx(int(path) / 255) for path in paths if path != "bad"
    ]


def test_no_more_is_read_ahead_than_the_buffers_hold() -> None:
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield str(number % 250)

    rows = score_files(paths(), BrightnessBackend(), SPEC, batch_size=4, decode_threads=2, load=load_number)
    for given in range(1, 60):
        next(rows)
        assert taken <= given + BATCHES_IN_FLIGHT * 4 + 4
    rows.close()  # type: ignore[attr-defined]


def test_reading_goes_on_while_the_model_infers() -> None:
    read_during_inference = threading.Event()

    def load(path: str, spec: ImageSpec) -> NDArray[np.uint8]:
        if path == "7":  # of the second batch
            read_during_inference.set()
        return load_number(path, spec)

    class WaitingBackend(BrightnessBackend):
        def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
            assert read_during_inference.wait(timeout=30)
            return super()._infer(cells)

    paths = [str(number) for number in range(8)]
    rows = list(score_files(paths, WaitingBackend(), SPEC, batch_size=4, decode_threads=1, load=load))
    assert len(rows) == 8


def test_a_bug_in_reading_is_raised_and_not_turned_into_a_row() -> None:
    def load(path: str, spec: ImageSpec) -> NDArray[np.uint8]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(score_files(["1"], BrightnessBackend(), SPEC, batch_size=4, decode_threads=1, load=load))


def test_stopping_early_ends_the_threads() -> None:
    rows = score_files(
        (str(number % 250) for number in range(10_000)), BrightnessBackend(), SPEC, batch_size=4, decode_threads=2
    )
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_seconds_count_reading_and_inference() -> None:
    class SlowBackend(BrightnessBackend):
        def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
            time.sleep(0.04)
            return super()._infer(cells)

    rows = list(score_files(["1", "2"], SlowBackend(), SPEC, batch_size=2, decode_threads=1, load=load_number))
    assert all(row.seconds >= 0.02 for row in rows)
