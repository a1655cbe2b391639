"""Scores the cells of all requests together: one bounded queue, and threads that each take what waits.

No batch waits to be filled: a lone cell is scored at once, and while all threads are busy those that come gather. Cells
are taken from the waiting requests in turn, so that a single cell does not wait for the thousand of another request.
Cells of a batch that are not scored, because others took long to read, go back to waiting as if never taken.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from runtime.closing import Closing
from runtime.errors import AllnetError, one_line
from runtime.pipeline import Cell, Scored
from runtime.service.problems import BusyError, RequestError

REMEMBERED = 0.9  # of the mean time of a cell, when a batch is added to it


class _Job:
    """The cells of one request."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.waiting = deque(enumerate(cells))
        self.scored: list[Scored | None] = [None] * len(cells)
        self.left = len(cells)
        self.has_failed = False
        self.answer: Future[list[Scored]] = Future()


class Batcher(Closing):
    """Threads that score what is submitted, until it is closed.

    Args:
        score: Scores a batch, or the first cells of it, one at least; called by several threads at once.
        batch_size: Most cells that are scored together.
        workers: Threads.
        most_waiting: As soon as so many cells wait, nothing more is taken.
        prove: Raises where the model itself is at fault; asked after a batch could not be scored.
        observe: Called with how many cells were scored together.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Cell]], list[Scored]],
        *,
        batch_size: int,
        workers: int,
        most_waiting: int,
        prove: Callable[[], None],
        observe: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.fault = ""  # why the model cannot be trusted any more
        self.waiting = 0  # cells
        self.seconds_per_cell = 0.0  # lately, with all threads at work
        self._score = score
        self._batch_size = batch_size
        self._most_waiting = most_waiting
        self._prove = prove
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._work, name=f"serve-{number}") for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, cells: Sequence[Cell]) -> Future[list[Scored]]:
        """Take the cells of a request; the future holds what came of them, in order, or a RequestError.

        Cancelling it drops the cells that still wait. Raises BusyError where too many cells wait already or this is
        closed, RequestError where the model cannot be trusted any more.
        """
        job = _Job(cells)
        with self._changed:
            self.check_fault()
            if self._is_closed:
                raise BusyError("expected a service that runs, found it stopping; try again later")
            if self.waiting >= self._most_waiting:
                raise BusyError(
                    f"expected fewer than {self._most_waiting} waiting cells, found {self.waiting}; try again later",
                    self.waiting * self.seconds_per_cell,
                )
            if cells:
                self._jobs.append(job)
                self.waiting += len(cells)
                self._changed.notify(len(cells))
            else:
                job.answer.set_result([])
        return job.answer

    def check_fault(self) -> None:
        """Raise RequestError where the model cannot be trusted any more."""
        if self.fault:
            raise RequestError(503, f"expected a model that passes its self-test, found: {self.fault}")

    def close(self) -> None:
        """Score what was taken, then end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._take():
            self._answer(batch)
            del batch  # else this thread would keep its files until others come

    def _answer(self, batch: list[tuple[_Job, int, Cell]]) -> None:
        started = time.perf_counter()
        try:
            self.check_fault()  # that was found while these waited
            scored = self._score([cell for _, _, cell in batch])
            self.check_fault()  # or by another thread meanwhile
        except RequestError as refusal:
            self._refuse(batch, refusal)
        except Exception as error:  # whatever it is, its requests get an answer and the others continue
            self._find_fault()
            if not isinstance(error, AllnetError):
                traceback.print_exception(error, file=sys.stderr)
            self._refuse(batch, RequestError(503, f"the model could not score the cells: {one_line(error)}"))
        else:
            self._remember((time.perf_counter() - started) / len(scored) / len(self._threads))
            self._observe(len(scored))
            if len(scored) < len(batch):
                self._put_back(batch[len(scored) :])
            self._deliver(batch[: len(scored)], scored)

    def _take(self) -> list[tuple[_Job, int, Cell]]:
        """Wait for cells and take this thread's share of them; nothing: it is closed and nothing waits."""
        batch: list[tuple[_Job, int, Cell]] = []
        with self._changed:
            while not batch:  # all that waited may have been cancelled
                self._changed.wait_for(lambda: self._jobs or self._is_closed)
                if not self._jobs:
                    return []
                share = -(-self.waiting // len(self._threads))
                while self._jobs and len(batch) < min(share, self._batch_size):
                    self._take_one(batch)
        return batch

    def _take_one(self, batch: list[tuple[_Job, int, Cell]]) -> None:
        """Move a cell of the request whose turn it is to the batch; drop a request that was cancelled."""
        job = self._jobs.popleft()
        if job.answer.cancelled():
            self.waiting -= len(job.waiting)
            return
        place, cell = job.waiting.popleft()
        self.waiting -= 1
        batch.append((job, place, cell))
        if job.waiting:
            self._jobs.append(job)

    def _put_back(self, rest: list[tuple[_Job, int, Cell]]) -> None:
        """Let cells wait again, before the others of their requests."""
        with self._changed:
            for job, place, cell in reversed(rest):
                if job.has_failed or job.answer.cancelled():
                    continue
                if not job.waiting:
                    self._jobs.appendleft(job)
                job.waiting.appendleft((place, cell))
                self.waiting += 1
            self._changed.notify_all()

    def _deliver(self, batch: list[tuple[_Job, int, Cell]], scored: list[Scored]) -> None:
        finished = []
        with self._changed:
            for (job, place, _), one in zip(batch, scored, strict=True):
                job.scored[place] = one
                job.left -= 1
                if not job.left:
                    finished.append(job)
        for job in finished:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_result([one for one in job.scored if one is not None])

    def _refuse(self, batch: list[tuple[_Job, int, Cell]], refusal: RequestError) -> None:
        """End the requests of a batch without an answer."""
        with self._changed:
            jobs = {id(job): job for job, _, _ in batch if not job.has_failed}.values()
            for job in jobs:
                job.has_failed = True
                self.waiting -= len(job.waiting)
                job.waiting.clear()
            self._jobs = deque(job for job in self._jobs if job.waiting)
        for job in jobs:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(refusal)

    def _find_fault(self) -> None:
        """Find out whether the next batches can be scored."""
        try:
            self._prove()
        except Exception as error:  # a model that cannot even be asked is at fault too
            self.fault = one_line(error)

    def _remember(self, seconds: float) -> None:
        before = self.seconds_per_cell or seconds
        self.seconds_per_cell = REMEMBERED * before + (1 - REMEMBERED) * seconds
