"""The one object that other programs use: a bundle, loaded and proved, that turns files into predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import runtime
from runtime.backends.base import Backend
from runtime.backends.select import WHAT_AUTO_TAKES, open_model
from runtime.bundle import DEFAULT_BUNDLE, Bundle, Golden, refuse_unproved
from runtime.closing import Closing
from runtime.cpus import available_cpus
from runtime.demo import demo_cells
from runtime.errors import BackendError
from runtime.pipeline import BatchScorer, Scored, score_files
from runtime.reading import CellReader
from runtime.schema import CLASSES, SELF_TEST_TOLERANCES, Audit, Decision, Prediction

DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True)
class ClassifierOptions:
    """What to load and how to run it."""

    bundle: Path = DEFAULT_BUNDLE
    backend: str = "auto"
    precision: str = "auto"
    batch_size: int = DEFAULT_BATCH_SIZE
    threshold: float | None = None  # None: the bundle's own
    unproved: bool = False  # use a variant that failed against the Keras model
    audit: bool = False  # each prediction says which image was classified, and by what
    threads: int | None = None  # that compute on the CPU; None: one for each CPU


class Classifier(Closing):
    """Classifies image files with one bundle; a context manager.

    Opening it verifies the bundle's hashes, loads the model and compares its answers on two golden cells with those
    that it gave when it was exported, so that a damaged file or a faulty driver is found before the first cell.
    """

    def __init__(self, options: ClassifierOptions | None = None) -> None:
        """Load the bundle; raise BundleError or BackendError where it cannot be used or fails its self-test."""
        options = options or ClassifierOptions()
        self.bundle = Bundle.open(options.bundle)
        self.manifest = self.bundle.manifest
        self.threshold = self.manifest.decision.threshold if options.threshold is None else options.threshold
        self.review_band = review_band(self.manifest.decision, self.threshold)
        self.batch_size = options.batch_size
        self.read = CellReader(self.manifest.image, self.manifest.typical, with_sha256=options.audit)
        self._audit = options.audit
        self.backend, variant = open_model(self.bundle, options.backend, options.precision, options.threads)
        self.precision = variant.precision
        is_choice = options.precision == "auto" and variant.proof.passed
        self._why_this_precision = f"; --precision auto takes {WHAT_AUTO_TAKES[self.backend.name]}" if is_choice else ""
        try:
            if not options.unproved:
                refuse_unproved(self.bundle, variant)
            self._golden = self.bundle.golden()  # kept: an installation may remove the folder while a service runs
            self.prove()
        except BaseException:
            self.backend.close()
            raise

    @property
    def description(self) -> str:
        """The model, its precision and what runs it, for people; and why this precision, where none was named."""
        model = self.manifest.training.config.options.model
        return f"{model} {self.precision} on {self.backend.description}{self._why_this_precision}"

    def classify(self, paths: Iterable[str]) -> Iterator[Prediction]:
        """Yield one Prediction for each path, in order, reading ahead; a file that cannot be used is one of them."""
        workers = available_cpus()
        return map(
            self.prediction_of,
            score_files(paths, self.scorer(), self.read, batch_size=self.batch_size, workers=workers),
        )

    def scorer(self) -> BatchScorer:
        """Return what scores batches of cells from anywhere, in any thread."""
        return BatchScorer(self.backend, self.prove)

    def prove(self) -> None:
        """Raise BackendError where the model does not answer the golden cells as it did when it was exported."""
        self_test(self.bundle, self._golden, self.backend, self.precision)

    def warm_up(self) -> None:
        """Classify drawn cells and infer the largest batch, so that the first real cells find everything loaded."""
        for _ in self.classify(map(str, demo_cells())):
            pass
        # Not by `classify`, which begins with small batches; and whole, as its threads do.
        largest = np.resize(self._golden.cells, (self.batch_size, *self._golden.cells.shape[1:]))
        self.backend.infer(largest, beside_others=True)

    def close(self) -> None:
        """Free the model."""
        self.backend.close()

    def prediction_of(self, scored: Scored) -> Prediction:
        """Return the row of a scored cell: its label at the threshold, and whether a person should look."""
        if scored.p_all is None:
            label, status, reason = "", "error", scored.reason
        else:
            label = CLASSES[scored.p_all >= self.threshold]
            reason = "; ".join(filter(None, (scored.concern, self._near_threshold(scored.p_all))))
            status = "review" if reason else "ok"
        return Prediction(
            path=scored.path,
            label=label,
            p_all=scored.p_all,
            status=status,
            reason=reason,
            seconds=scored.seconds,
            audit=self._audit_of(scored) if self._audit else None,
            identity=scored.identity,
            appearance=scored.appearance,
        )

    def _near_threshold(self, p_all: float) -> str:
        low, high = self.review_band
        if low <= p_all <= high:
            return f"near the threshold: p_all is between {low:.3f} and {high:.3f}"
        return ""

    def _audit_of(self, scored: Scored) -> Audit:
        return Audit(
            sha256=scored.sha256,
            time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            threshold=self.threshold,
            bundle=self.bundle.content_sha256,
            precision=self.precision,
            backend=self.backend.description,
            version=runtime.__version__,
        )


def review_band(decision: Decision, threshold: float) -> tuple[float, float]:
    """Return from where to where p_all is near `threshold`: the bundle's band, moved along with it in log-odds.

    The band was chosen in log-odds, equally wide on both sides; moved so, it stays within 0..1.
    """
    low, high = decision.review_low, decision.review_high
    if threshold == decision.threshold:
        return low, high
    return _moved(low, decision.threshold, threshold), _moved(high, decision.threshold, threshold)


def _moved(p_all: float, start: float, end: float) -> float:
    """Return p_all with its log-odds moved as far as those of `end` lie from those of `start`."""
    leukemic, healthy = p_all * (1 - start) * end, (1 - p_all) * start * (1 - end)
    return leukemic / (leukemic + healthy) if leukemic + healthy else end


def self_test(bundle: Bundle, golden: Golden, backend: Backend, precision: str) -> None:
    """Compare what the backend gives for two golden cells with what the variant gave for them when it was exported.

    Raises BackendError where it differs.
    """
    ends = [0, -1]  # a drawn ALL cell and a healthy one: every weight takes part, and a large network starts soon
    difference = float(np.abs(backend.infer(golden.cells[ends]) - golden.p_all[precision][ends]).max())
    if not difference <= SELF_TEST_TOLERANCES[precision]:
        elsewhere = "" if backend.name == "cpu" else "try --backend cpu, or "
        raise BackendError(
            f"self-test failed: on the golden cells of {bundle.folder} p_all differs by {difference:.2g} from what "
            f"{precision} gave when it was exported (at most {SELF_TEST_TOLERANCES[precision]:g} is accepted) on "
            f"{backend.description}; nothing was classified; {elsewhere}export the bundle again"
        )
