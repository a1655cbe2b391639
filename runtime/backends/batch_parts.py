"""Computes the parts of a batch in parallel, on threads that nothing else uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Semaphore
from typing import TYPE_CHECKING

import numpy as np

from runtime.closing import Closing

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_CELLS = 4  # of a part; for fewer a library takes other kernels, whose sums differ in the seventh digit


class BatchParts(Closing):
    """Threads that help the caller with a batch; used by several callers at once."""

    def __init__(self, free: Semaphore, threads: int) -> None:
        """`free` counts which of the `threads` are free; a caller of `run` has already taken its own."""
        self._free = free
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")

    def run(
        self, infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]], cells: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return what `infer` gives for all cells, in as many parts as there are threads for."""
        with self._helpers(len(cells) // LEAST_CELLS - 1) as helpers:
            own, *others = np.array_split(cells, helpers + 1)
            futures = [self._pool.submit(infer, part) for part in others]
            try:
                p_own = infer(own)
            finally:
                wait(futures)  # before others take these threads
            return np.concatenate([p_own, *(future.result() for future in futures)])

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    @contextmanager
    def _helpers(self, most: int) -> Iterator[int]:
        """Take the threads that are free at this moment, at most `most`; yield their number."""
        taken = 0
        try:
            while taken < most and self._free.acquire(blocking=False):
                taken += 1
            yield taken
        finally:
            for _ in range(taken):
                self._free.release()
