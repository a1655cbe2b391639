from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runtime.backends.base import Backend
from runtime.errors import BackendError
from runtime.pipeline import WAITING_BATCHES, BatchScorer, Cell, Read, Scored, score_files
from runtime.reading import ReadCell, Reading
from tests.runtime.fake_backend import SPEC, BrightnessBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORKERS = 3


def read_number(path: str) -> Reading:
    """A path is a number: the brightness of its cell; "bad" cannot be read."""
    if path == "bad":
        return Reading(None, "it is bad")
    return Reading(np.full((SPEC.height, SPEC.width, 3), int(path), np.uint8), concern=f"concern {path}", sha256=path)


def read_slowly_at_random(path: str) -> Reading:
    time.sleep(zlib.crc32(path.encode()) % 7 / 1000)
    return read_number(path)


def scorer(backend: Backend, prove: Callable[[], None] = lambda: None) -> BatchScorer:
    return BatchScorer(backend, prove)


def scored(paths: list[str], backend: BrightnessBackend, batch_size: int = 4) -> list[Scored]:
    return list(score_files(paths, scorer(backend), read_slowly_at_random, batch_size=batch_size, workers=WORKERS))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 41])
def test_every_file_keeps_its_place_and_its_own_answer(count: int) -> None:
    rows = scored([str(number) for number in range(count)], BrightnessBackend())
    assert [row.path for row in rows] == [str(number) for number in range(count)]
    assert [row.p_all for row in rows] == [pytest.approx(number / 255) for number in range(count)]
    assert [(row.concern, row.sha256) for row in rows] == [(f"concern {row.path}", row.path) for row in rows]


def test_batches_grow_up_to_the_size_and_the_last_is_as_short_as_it_falls() -> None:
    backend = BrightnessBackend()
    list(score_files(map(str, range(20)), scorer(backend), read_number, batch_size=6, workers=1))
    assert backend.batch_sizes == [1, 2, 4, 6, 6, 1]


@pytest.mark.parametrize(("reading_s", "expected"), [(0.0, 1), (0.15, 2), (10.0, 4)])
def test_a_batch_whose_cells_take_long_to_read_ends_early(reading_s: float, expected: int) -> None:
    def read() -> Reading:
        time.sleep(0.1)
        return read_number("9")

    found = scorer(BrightnessBackend()).score([Cell(name, read) for name in "abcd"], reading_s=reading_s)
    assert [one.path for one in found] == [*"abcd"][:expected]


def test_few_files_are_shared_out_among_the_workers() -> None:
    together = threading.Barrier(2, timeout=30)

    def read(path: str) -> Reading:
        if path in ("0", "1"):  # of the first and of the second batch
            together.wait()
        return read_number(path)

    rows = score_files(["0", "1", "2"], scorer(BrightnessBackend()), read, batch_size=16, workers=2)
    assert len(list(rows)) == 3


def test_a_bad_file_costs_its_own_row_alone() -> None:
    backend = BrightnessBackend()
    paths = ["1", "bad", "3", "4", "bad", "6", "bad", "bad", "bad", "bad", "bad", "12"]  # in batches of 1, 2, 4, 4, 1
    rows = list(score_files(paths, scorer(backend), read_number, batch_size=4, workers=1))
    assert [row.reason for row in rows if row.p_all is None] == ["it is bad"] * 7
    assert [row.path for row in rows if row.p_all is None] == ["bad"] * 7
    assert [row.p_all for row in rows if row.p_all is not None] == [pytest.approx(n / 255) for n in (1, 3, 4, 6, 12)]
    assert backend.batch_sizes == [1, 1, 2, 1], "a batch without a readable cell is not inferred"


def test_no_more_is_read_ahead_than_was_promised() -> None:
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield str(number % 250)

    rows = score_files(paths(), scorer(BrightnessBackend()), read_number, batch_size=4, workers=2)
    for given in range(1, 60):
        next(rows)
        assert taken <= given + (2 + WAITING_BATCHES) * 4
    rows.close()  # type: ignore[attr-defined]


def test_reading_goes_on_while_the_model_infers() -> None:
    read_during_inference = threading.Event()

    def read(path: str) -> Reading:
        if path == "7":  # of the fourth batch
            read_during_inference.set()
        return read_number(path)

    class WaitingBackend(BrightnessBackend):
        def _infer(self, cells: object) -> object:  # type: ignore[override]
            assert read_during_inference.wait(timeout=30)
            return super()._infer(cells)  # type: ignore[arg-type]

    rows = list(score_files(map(str, range(8)), scorer(WaitingBackend()), read, batch_size=4, workers=4))
    assert len(rows) == 8


@pytest.mark.parametrize("most", [1, 2])
def test_a_backend_bounds_how_many_infer_at_a_time(most: int) -> None:
    class CountingBackend(BrightnessBackend):
        def __init__(self) -> None:
            super().__init__(runs_at_a_time=most)
            self.running = 0
            self.largest = 0
            self.own = threading.Lock()

        def _infer(self, cells: object) -> object:  # type: ignore[override]
            with self.own:
                self.running += 1
                self.largest = max(self.largest, self.running)
            time.sleep(0.002)
            with self.own:
                self.running -= 1
            return super()._infer(cells)  # type: ignore[arg-type]

    backend = CountingBackend()
    list(score_files(map(str, range(100)), scorer(backend), read_number, batch_size=2, workers=4))
    assert backend.largest == most


def test_workers_that_read_beside_each_other_take_one_thread_each() -> None:
    class NotingBackend(BrightnessBackend):
        def infer(self, cells: object, *, beside_others: bool = False) -> object:  # type: ignore[override]
            noted.append(beside_others)
            return super().infer(cells, beside_others=beside_others)  # type: ignore[arg-type]

    noted: list[bool] = []
    list(score_files(["1", "2"], scorer(NotingBackend()), read_number, batch_size=4, workers=2))
    assert noted == [True, True]
    scorer(NotingBackend()).score_read([ReadCell("1", read_number("1"), 0.0)])
    assert noted[2:] == [False]


def raises(path: str) -> Reading:
    raise ZeroDivisionError(path)


def test_a_bug_in_reading_is_raised_and_not_turned_into_a_row() -> None:
    with pytest.raises(ZeroDivisionError):
        list(score_files(["1"], scorer(BrightnessBackend()), raises, batch_size=4, workers=1))


def test_an_error_of_the_model_ends_the_run_after_the_rows_before_it() -> None:
    class FailingBackend(BrightnessBackend):
        def _infer(self, cells: object) -> object:  # type: ignore[override]
            if len(self.batch_sizes) == 2:
                raise RuntimeError
            return super()._infer(cells)  # type: ignore[arg-type]

    rows = score_files(map(str, range(99)), scorer(FailingBackend()), read_number, batch_size=4, workers=1)
    with pytest.raises(RuntimeError):
        for expected in range(99):
            assert next(rows).path == str(expected)
    assert expected == 3


class UndefinedForOneCell(BrightnessBackend):
    """Gives no number for a cell of brightness 5, nor for any in its batch."""

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers = super()._infer(cells)
        return answers * np.float32(np.nan) if 5 in cells[:, 0, 0, 0] else answers


def test_a_cell_for_which_a_sound_model_gives_no_number_costs_its_own_row_alone() -> None:
    proofs: list[None] = []
    rows = list(
        score_files(
            map(str, range(12)),
            scorer(UndefinedForOneCell(), prove=lambda: proofs.append(None)),
            read_number,
            batch_size=4,
            workers=1,
        )
    )
    assert [row.p_all is None for row in rows] == [number == 5 for number in range(12)]
    assert [row.reason for row in rows if row.reason] == ["the model gives no number for this picture; concern 5"]
    assert len(proofs) == 1


def test_a_model_that_errs_ends_the_run_instead_of_setting_cells_aside() -> None:
    def fail() -> None:
        raise BackendError("self-test failed")

    with pytest.raises(BackendError, match="self-test failed"):
        list(score_files(["5"], scorer(UndefinedForOneCell(), fail), read_number, batch_size=4, workers=1))


@pytest.mark.parametrize("read", [read_number, read_slowly_at_random])
def test_stopping_early_ends_the_threads(read: Read) -> None:
    rows = score_files(
        (str(number % 250) for number in range(10_000)), scorer(BrightnessBackend()), read, batch_size=64, workers=2
    )
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("classify")]
