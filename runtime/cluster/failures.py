"""Why blocks are missing at the end: Ray Data leaves out those whose tasks failed, and says why only in its log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.cluster.connection import first_line

LOG = "ray.data._internal.execution"  # where Ray Data reports a block that it leaves out


@dataclass
class Failures:
    """The first failure of a worker, and the first of another kind: there may be one for each block."""

    of_worker: str = ""  # it ended, or was ended for the memory that it took
    other: str = ""

    def add(self, error: BaseException) -> None:
        """Keep why a block failed, where it is the first of its kind."""
        from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

        cause = getattr(error, "cause", None) or error  # what a task raised, Ray wraps
        line = f"{type(cause).__name__}: {first_line(cause)}"
        if isinstance(cause, ActorDiedError | OutOfMemoryError | WorkerCrashedError):
            self.of_worker = self.of_worker or line
        else:
            self.other = self.other or line

    def __str__(self) -> str:
        return ", and ".join(filter(None, (self.of_worker, self.other))) or "a failure that Ray did not explain"


class _Log(logging.Handler):
    def __init__(self, failures: Failures) -> None:
        super().__init__(logging.ERROR)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self._failures.add(record.exc_info[1])


@contextmanager
def noted(failures: Failures) -> Iterator[None]:
    """Note why blocks fail in flows that are run inside."""
    logger, log = logging.getLogger(LOG), _Log(failures)
    usual = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False  # Ray's own handlers would write it among our lines
    logger.addHandler(log)
    try:
        yield
    finally:
        logger.removeHandler(log)
        logger.level, logger.propagate = usual
