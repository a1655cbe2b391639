"""The one object behind all routes: the classifier, the queue before it, and whether it takes requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from runtime.classifier import Classifier, ClassifierOptions
from runtime.closing import Closing
from runtime.cpus import available_cpus
from runtime.pipeline import Cell, Scored
from runtime.service.batcher import Batcher
from runtime.service.limits import Limits
from runtime.service.metrics import ServiceMetrics
from runtime.service.problems import BusyError
from runtime.service.watch_feed import WatchFeed

LOADING = "the model is being loaded and tested"
STOPPING = "the service is stopping"
READING_S = 0.3  # of a batch: one large picture takes as long as a hundred cells, and others wait for the whole batch


@dataclass(frozen=True)
class _Model:
    """What answers."""

    classifier: Classifier
    batcher: Batcher


class Desk(Closing):
    """Takes the cells of requests from when the model has passed its self-test until the service is to stop."""

    def __init__(self, limits: Limits | None = None, feed: WatchFeed | None = None) -> None:
        self.limits = limits or Limits()
        self.feed = feed  # of a watched folder, where one is followed
        self.metrics = ServiceMetrics()
        self.is_stopping = False
        self.bytes_held = 0  # of all requests that are being read or answered
        self._model: _Model | None = None

    def open(self, options: ClassifierOptions) -> None:
        """Load the model, prove it and warm it up; raise AllnetError where it cannot be used."""
        classifier = Classifier(options)
        try:
            classifier.warm_up()
        except BaseException:
            classifier.close()
            raise
        self.use(classifier)

    def use(self, classifier: Classifier) -> None:
        """Answer with this classifier, and own it."""
        batcher = Batcher(
            partial(classifier.scorer().score, reading_s=READING_S),
            batch_size=classifier.batch_size,
            workers=available_cpus() + 1,  # while one waits for the interpreter, which serves clients, too
            most_waiting=self.limits.waiting_cells,
            prove=classifier.prove,
            observe=self.metrics.observe_batch,
        )
        self.metrics.describe(classifier, lambda: batcher.waiting)
        self._model = _Model(classifier, batcher)

    @property
    def classifier(self) -> Classifier:
        """The classifier; raises BusyError while there is none."""
        return self._opened().classifier

    @property
    def waiting(self) -> int:
        """How many cells were taken and wait to be scored."""
        return self._model.batcher.waiting if self._model else 0

    def check_ready(self) -> None:
        """Raise RequestError where no cell can be taken, with the reason."""
        if self.is_stopping:
            raise BusyError(f"expected a service that takes requests, found that {STOPPING}; try again later")
        self._opened().batcher.check_fault()

    def check_alive(self) -> None:
        """Raise RequestError where only a restart of the service can help."""
        if self._model:
            self._model.batcher.check_fault()

    async def score(self, cells: Sequence[Cell]) -> list[Scored]:
        """Score the cells of a request; raise RequestError where that cannot be done now."""
        return await asyncio.wrap_future(self._opened().batcher.submit(cells))

    def close(self) -> None:
        """Answer what was taken, then free the model."""
        self.is_stopping = True
        if self._model:
            self._model.batcher.close()
            self._model.classifier.close()

    def _opened(self) -> _Model:
        if self._model is None:
            raise BusyError(f"expected a service that is ready, found that {LOADING}; try again later")
        return self._model


class Hold:
    """What a request keeps in memory until it is answered; a context manager."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._held = 0

    def add(self, count: int) -> None:
        """Count bytes that came; raise RequestError where all requests together hold too many."""
        self._held += count
        self._desk.bytes_held += count
        most = self._desk.limits.bytes_at_a_time
        if self._desk.bytes_held > most:
            raise BusyError(f"expected at most {most} bytes of all requests at a time, found more; try again later")

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self._desk.bytes_held -= self._held


def desk_of(request: Request) -> Desk:
    """Return the one object behind all routes."""
    desk: Desk = request.app.state.desk
    return desk
