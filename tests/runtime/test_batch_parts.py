from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime.backends.batch_parts import LEAST_CELLS, BatchParts


def numbered(count: int) -> Any:
    return np.arange(count, dtype=np.uint8)


def as_floats(cells: Any) -> Any:
    return cells.astype(np.float32)


@pytest.mark.parametrize("free", [0, 1, 5])
@pytest.mark.parametrize("count", [1, LEAST_CELLS, 2 * LEAST_CELLS - 1, 2 * LEAST_CELLS, 64])
def test_answers_come_in_order_from_parts_that_are_not_small(free: int, count: int) -> None:
    sizes = []

    def infer(cells: Any) -> Any:
        sizes.append(len(cells))
        return as_floats(cells)

    permits = threading.BoundedSemaphore(free + 1)
    with BatchParts(permits, free + 1) as parts, permits:
        np.testing.assert_array_equal(parts.run(infer, numbered(count)), as_floats(numbered(count)))
    assert len(sizes) == max(1, min(free + 1, count // LEAST_CELLS))
    assert min(sizes) >= min(count, LEAST_CELLS)
    assert all(permits.acquire(blocking=False) for _ in range(free + 1))


def test_threads_that_others_use_are_not_taken() -> None:
    permits = threading.BoundedSemaphore(3)
    sizes: list[int] = []
    with BatchParts(permits, 3) as parts, permits, permits:
        parts.run(lambda cells: sizes.append(len(cells)) or as_floats(cells), numbered(64))  # type: ignore[func-returns-value]
    assert sorted(sizes) == [32, 32]


@pytest.mark.parametrize("failing", [0, 32])  # the caller's part, a helper's
def test_a_part_that_fails_ends_the_batch_after_all_its_threads_are_done(failing: int) -> None:
    finished = []

    def infer(cells: Any) -> Any:
        if failing in cells:
            raise ZeroDivisionError
        finished.append(threading.Event().wait(0.05))
        return as_floats(cells)

    permits = threading.BoundedSemaphore(2)
    with BatchParts(permits, 2) as parts, permits:
        with pytest.raises(ZeroDivisionError):
            parts.run(infer, numbered(64))
        assert finished == [False]
        assert permits.acquire(blocking=False)
        permits.release()
