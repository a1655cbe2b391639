"""Reads some batches while the model infers others: bounded memory, order kept, a bad image costs its own row.

Each worker takes a batch, reads its cells one after the other and has them inferred. So the workers overlap without
waiting for each other, and no cell is handed from thread to thread.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.base import Backend
from runtime.errors import NotFiniteError
from runtime.reading import ReadCell, Reading
from runtime.schema import Appearance

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAITING_BATCHES = 2  # that no worker has begun, so that none is idle while results are taken
NO_NUMBER = "the model gives no number for this picture"

Read = Callable[[str], Reading]


@dataclass(frozen=True)
class Cell:
    """A cell to score."""

    path: str  # the name of its row
    read: Callable[[], Reading]  # what is wrong with the cell is in the result


@dataclass(frozen=True)
class Scored:
    """What came of one cell: a probability, or the reason why there is none."""

    path: str
    p_all: float | None
    reason: str  # why there is no probability
    concern: str  # why a person should look
    sha256: str  # of the file, where the reader takes it
    seconds: float  # reading this cell, plus its share of its batch's inference
    identity: str = ""  # of the file that was read
    appearance: Appearance | None = None  # where there was a picture


def score_files(
    paths: Iterable[str], scorer: BatchScorer, read: Read, *, batch_size: int, workers: int
) -> Iterator[Scored]:
    """Yield what the model says of each path, in the order given, working ahead of what is taken.

    The first batches are small and each is twice as large as the one before, so that few files are shared out among
    the workers and the first answers come soon.

    Args:
        paths: Image files; consumed lazily, at most workers + WAITING_BATCHES batches ahead.
        scorer: Used by all workers, and stopped at the end.
        read: Reads one file; used by all workers.
        batch_size: Most cells per inference; the last batch may be shorter.
        workers: Threads that read and infer.
    """
    remaining = iter(paths)
    sizes = _batch_sizes(batch_size)
    busy: deque[Future[list[Scored]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="classify") as pool:
        try:
            while True:
                while len(busy) < workers + WAITING_BATCHES and (batch := list(islice(remaining, next(sizes)))):
                    busy.append(pool.submit(scorer.score, [Cell(path, partial(read, path)) for path in batch]))
                if not busy:
                    return
                yield from busy.popleft().result()
        finally:
            scorer.stopped = True
            for future in busy:
                future.cancel()


def _batch_sizes(largest: int) -> Iterator[int]:
    """Yield 1, 2, 4 and so on up to `largest`, then that for ever."""
    growing = (2**power for power in range(largest.bit_length()) if 2**power < largest)
    return chain(growing, repeat(largest))


class BatchScorer:
    """What a thread does with a batch; used by several threads at once."""

    def __init__(self, backend: Backend, prove: Callable[[], None]) -> None:
        """Take the model, and `prove`, which raises where the model itself is at fault.

        It is called when the model gives no number for a cell; where it does not raise, that cell gets a reason.
        """
        self.stopped = False  # nobody waits for the results any more
        self._backend = backend
        self._prove = prove

    def score(self, cells: Sequence[Cell], reading_s: float = math.inf) -> list[Scored]:
        """Read the cells of a batch and infer those that could be read.

        After `reading_s` seconds no further cell is read: the answers are then those of the first cells, of at least
        one.
        """
        read: list[ReadCell] = []
        left_s = reading_s
        for cell in cells:
            if self.stopped:
                return []
            if read and left_s <= 0:
                break
            started = time.perf_counter()
            reading = cell.read()
            read.append(ReadCell(cell.path, reading, time.perf_counter() - started))
            left_s -= read[-1].seconds
        return self.score_read(read, beside_others=True)

    def score_read(self, cells: Sequence[ReadCell], *, beside_others: bool = False) -> list[Scored]:
        """Infer those cells of a batch that could be read, while other threads read and infer, or alone."""
        pixels = [cell.reading.pixels for cell in cells if cell.reading.pixels is not None]
        started = time.perf_counter()
        answers = iter(self._answers(np.stack(pixels), beside_others) if pixels else [])
        share = (time.perf_counter() - started) / max(len(pixels), 1)
        return [
            _scored(cell, None, 0.0) if cell.reading.pixels is None else _scored(cell, next(answers), share)
            for cell in cells
        ]

    def _answers(self, cells: NDArray[np.uint8], beside_others: bool) -> list[float | None]:
        """Return p_all of each cell, None for one for which a sound model gives no number."""
        try:
            return [*self._backend.infer(cells, beside_others=beside_others).tolist()]
        except NotFiniteError:
            self._prove()
            return [self._answer_alone(cell) for cell in cells]

    def _answer_alone(self, cell: NDArray[np.uint8]) -> float | None:
        try:
            return float(self._backend.infer(cell[np.newaxis])[0])
        except NotFiniteError:
            return None


def _scored(cell: ReadCell, p_all: float | None, inference_s: float) -> Scored:
    reading, seconds = cell.reading, cell.seconds + inference_s
    reason = reading.reason
    if reading.pixels is not None and p_all is None:
        reason = "; ".join(filter(None, (NO_NUMBER, reading.concern)))
    return Scored(
        cell.path, p_all, reason, reading.concern, reading.sha256, seconds, reading.identity, reading.appearance
    )
