"""Reads ahead while the model infers: bounded memory, order kept, a bad image costs its own row.

Who owns what: a `_Batch` owns one reusable uint8 buffer; decode threads fill its slots; the thread that iterates
infers and yields. At most BATCHES_IN_FLIGHT buffers exist, so memory does not grow with the number of files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.base import Backend
from runtime.errors import UnreadableCellError
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCHES_IN_FLIGHT = 3  # one in the model, one being filled, one waiting

Load = Callable[[str, ImageSpec], "NDArray[np.uint8]"]


@dataclass(frozen=True)
class Scored:
    """What the model said of one file: a probability, or the reason why there is none."""

    path: str
    p_all: float | None
    reason: str
    seconds: float  # reading this cell, plus its share of its batch's inference


@dataclass(frozen=True)
class _Reading:
    reason: str  # empty where the cell was read
    seconds: float


class _Batch:
    """A buffer of cells [batch_size, height, width, 3] and the readings that are filling it."""

    def __init__(self, buffer: NDArray[np.uint8], image: ImageSpec, load: Load) -> None:
        self.buffer = buffer
        self.paths: list[str] = []
        self._image = image
        self._load = load
        self._readings: list[Future[_Reading]] = []

    def start(self, pool: ThreadPoolExecutor, paths: list[str]) -> None:
        """Let the pool fill one slot for each path."""
        self.paths = paths
        self._readings = [pool.submit(self._read, slot, path) for slot, path in enumerate(paths)]

    def finish(self, backend: Backend) -> Iterator[Scored]:
        """Wait for the readings, infer the cells that were read, yield all in order."""
        readings = [reading.result() for reading in self._readings]
        slots = [slot for slot, reading in enumerate(readings) if not reading.reason]
        started = time.perf_counter()
        scores = self._infer(backend, slots)
        share = (time.perf_counter() - started) / max(len(slots), 1)
        for slot, (path, reading) in enumerate(zip(self.paths, readings, strict=True)):
            p_all = scores.get(slot)
            yield Scored(path, p_all, reading.reason, reading.seconds + (0.0 if p_all is None else share))

    def cancel(self) -> None:
        """Drop the readings that have not begun."""
        for reading in self._readings:
            reading.cancel()

    def _infer(self, backend: Backend, slots: list[int]) -> dict[int, float]:
        if not slots:
            return {}
        all_read = slots == list(range(len(slots)))
        cells = self.buffer[: len(slots)] if all_read else self.buffer[slots]
        return dict(zip(slots, backend.infer(cells).tolist(), strict=True))

    def _read(self, slot: int, path: str) -> _Reading:
        started = time.perf_counter()
        reason = ""
        try:
            self.buffer[slot] = self._load(path, self._image)
        except UnreadableCellError as error:
            reason = str(error)
        return _Reading(reason, time.perf_counter() - started)


def score_files(
    paths: Iterable[str],
    backend: Backend,
    image: ImageSpec,
    *,
    batch_size: int,
    decode_threads: int,
    load: Load = load_cell,
) -> Iterator[Scored]:
    """Yield what the model says of each path, in the order given, reading ahead while it infers.

    Args:
        paths: Image files; consumed lazily, at most BATCHES_IN_FLIGHT batches ahead.
        backend: Used from the iterating thread alone.
        image: The size that the backend expects.
        batch_size: Cells per inference; the last batch is as short as it falls.
        decode_threads: Threads that read and decode.
        load: Reads one file; raises UnreadableCellError for a file that is to be a row with a reason.
    """
    remaining = iter(paths)
    shape = (batch_size, image.height, image.width, 3)
    idle = deque(_Batch(np.empty(shape, np.uint8), image, load) for _ in range(BATCHES_IN_FLIGHT))
    busy: deque[_Batch] = deque()
    with ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") as pool:

        def read_ahead() -> None:
            while idle and (chunk := list(islice(remaining, batch_size))):
                batch = idle.popleft()
                batch.start(pool, chunk)
                busy.append(batch)

        try:
            read_ahead()
            while busy:
                batch = busy.popleft()
                yield from batch.finish(backend)
                idle.append(batch)
                read_ahead()
        finally:
            for batch in busy:
                batch.cancel()
