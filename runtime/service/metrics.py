"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from runtime.classifier import Classifier
from runtime.schema import Prediction

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServiceMetrics:
    """The counters of one service, apart from those of any other in the process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("allnet_requests", "Requests answered", ("route", "code"), registry=registry)
        self._seconds = Histogram(
            "allnet_request_seconds",
            "From a request's head to its answer",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        self._cells = Counter("allnet_cells", "Cells answered", ("status", "label"), registry=registry)
        self._batches = Histogram(
            "allnet_batch_cells", "Cells that were scored together", registry=registry, buckets=BATCH_SIZES
        )
        self.in_flight = Gauge("allnet_requests_in_flight", "Requests that wait for an answer", registry=registry)
        self._waiting = Gauge("allnet_waiting_cells", "Cells in the queue", registry=registry)
        self._model = Info("allnet_model", "What answers", registry=registry)

    def describe(self, classifier: Classifier, waiting: Callable[[], float]) -> None:
        """Say what answers, and where the length of the queue is found."""
        self._waiting.set_function(waiting)
        self._model.info(
            {
                "model": classifier.manifest.training.config.options.model,
                "precision": classifier.precision,
                "backend": classifier.backend.description,
                "bundle": classifier.bundle.content_sha256,
            }
        )

    def observe_request(self, route: str, code: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_batch(self, cells: int) -> None:
        """Count a batch."""
        self._batches.observe(cells)

    def observe_cells(self, predictions: Iterable[Prediction]) -> None:
        """Count the cells of an answer."""
        for prediction in predictions:
            self._cells.labels(prediction.status, prediction.label).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
