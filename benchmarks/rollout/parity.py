"""Do the cases decide like the model that the bundle came from? The gate's verdicts, by case and by subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks.record import OK, Row, failed
from benchmarks.rollout.cases import Case
from benchmarks.rollout.options import RolloutOptions
from benchmarks.wrapped import GuardedBackend
from export.fewest_cells import too_few_to_prove
from export.gate import Verdict, judge_all, recorded_tolerances, verdict_row, wrong_for_nan
from export.reference import reference_file
from export.scoring import BATCH_SIZE, Reference, Scores, infer_in_batches, limited, score_cells
from export.seen import Seen, seen_by_run
from runtime.backends.base import Backend
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError, BundleError, DataError, RunError
from runtime.groups import wilson_interval
from train.dataset import Cell
from train.metrics import is_called_all, measure
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERAS, FP32_GRAPH = "Keras model", "fp32 graph"
DIGITS = 9  # of p_all in the record: with 7, float32(0.9) would read as 0.9 and reach a threshold that it misses


@dataclass(frozen=True)
class FP32Graph:
    """The fp32 graph on the CPU, where the Keras model is not available."""

    backend: Backend
    case: ClassVar[Case] = Case("cpu", "fp32")

    def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N]."""
        return infer_in_batches(self.backend, cells, BATCH_SIZE)


def parity(options: RolloutOptions, bundle: Bundle, cases: Sequence[Case], cells: Sequence[Cell]) -> dict[str, Any]:
    """Judge every case on labelled cells; return verdicts, answers, ROC and what each subject gets.

    `doubts` say what the verdicts do not rest on. Raises DataError unless there are cells of both classes and the
    reference has an answer to each, BundleError without a reference.
    """
    chosen = limited(cells, options.cells, str(options.data))
    with ExitStack() as stack:
        guarded, failures = _opened(bundle, cases, stack)
        name, why, reference = stack.enter_context(reference_of(bundle, options.run))
        scores = score_cells(chosen, bundle.manifest.image, reference, {**guarded})
    _refuse_no_numbers(name, scores)
    for case_name, backend in guarded.items():
        if backend.error is not None:
            failures[case_name] = backend.error
            del scores.answers[case_name]
    verdicts = verdicts_of(bundle, scores, options.data)
    seen = seen_if_told(bundle, options.run, scores.cells)
    return {
        "reference": name,
        "reference_case": None if name == KERAS else FP32Graph.case.name,
        "rows": [
            *(verdict_row(verdict, too_few_to_prove(scores.labels)) | {"status": OK} for verdict in verdicts),
            *({"variant": case_name, **failed(error)} for case_name, error in failures.items()),
        ],
        "threshold": bundle.manifest.decision.threshold,
        "fitted": seen and seen.fitted,
        "chosen_on": seen and seen.chosen_on,
        "doubts": list(doubts(name, why, seen, scores)),
        **judged(bundle, scores, verdicts, seen),
    }


def _refuse_no_numbers(name: str, scores: Scores) -> None:
    unanswered = int((~np.isfinite(scores.reference)).sum())
    if unanswered:
        raise DataError(
            f"expected a number from the {name} for each of {len(scores.cells)} cells, found none for {unanswered}; "
            "look at these cells, or export the bundle again"
        )


def seen_if_told(bundle: Bundle, run: Path | None, cells: Sequence[Cell]) -> Seen | None:
    """Return what the bundle's run has seen of the cells; None where the run is not available."""
    try:
        return seen_by_run(reference_file(bundle, run), cells)
    except (BundleError, RunError):
        return None


def doubts(reference: str, why: str, seen: Seen | None, scores: Scores) -> Iterator[str]:
    """Yield what keeps the verdicts from being certain, a line each."""
    if reference != KERAS:
        yield f"parity is with the {reference}, which differs from the Keras model by what converting changed: {why}"
    if few := too_few_to_prove(scores.labels):
        yield f"parity proves nothing, {few}"
    if seen is None:
        yield "whether the model was fitted on these cells is not known: its run is not at hand (--run)"
        return
    flatters, of_all = "accuracy flatters the model:", f"of the {len(scores.cells)} cells"
    if seen.fitted:
        yield f"{flatters} it was fitted on {seen.fitted} {of_all}"
    if seen.chosen_on:
        yield f"{flatters} epoch, temperature and threshold were chosen on {seen.chosen_on} {of_all}"


def _opened(
    bundle: Bundle, cases: Sequence[Case], stack: ExitStack
) -> tuple[dict[str, GuardedBackend], dict[str, Exception]]:
    """Open every case; return the backends and the failures by name."""
    guarded: dict[str, GuardedBackend] = {}
    failures: dict[str, Exception] = {}
    for case in cases:
        try:
            backend = open_backend(bundle, case.backend, bundle.variant(case.precision))
        except (BackendError, BundleError) as error:
            failures[case.name] = error
        else:
            guarded[case.name] = GuardedBackend(stack.enter_context(backend), bundle.manifest.image)
    return guarded, failures


@contextmanager
def reference_of(bundle: Bundle, run: Path | None) -> Iterator[tuple[str, str, Reference]]:
    """Yield what the cases are compared with, its name first and why it is that: the Keras model or the fp32 graph.

    Raises BundleError where neither is available.
    """
    why = ""
    try:
        file = reference_file(bundle, run)
    except BundleError as error:
        why = str(error)
    if not why and not (find_spec("keras") and find_spec("tensorflow")):
        why = "Keras and TensorFlow are not installed"
    if not why:
        with quiet_tensorflow():
            from export.to_onnx import KerasModel

        yield KERAS, "", KerasModel(file, bundle.manifest.decision.temperature)
        return
    try:
        backend = open_backend(bundle, FP32Graph.case.backend, bundle.variant(FP32Graph.case.precision))
    except (BackendError, BundleError) as error:
        raise BundleError(f"expected a reference, found neither the Keras model ({why}) nor an fp32 graph") from error
    with backend:
        yield FP32_GRAPH, why, FP32Graph(backend)


def verdicts_of(bundle: Bundle, scores: Scores, data: Path | None) -> tuple[Verdict, ...]:
    """Judge all that was scored, each by the tolerance that the bundle records for its precision."""
    recorded = recorded_tolerances(bundle)
    tolerances = {name: recorded[name.rpartition(" ")[2]] for name in scores.answers}
    return judge_all(scores, bundle.manifest.decision.threshold, tolerances, str(data))


def judged(bundle: Bundle, scores: Scores, verdicts: Sequence[Verdict], seen: Seen | None) -> dict[str, Any]:
    """Return proofs, metrics, flips, subjects and every answer, as the record keeps them.

    Where the run has `seen` none of the cells' subjects in training, intervals are over their groups.
    """
    threshold = bundle.manifest.decision.threshold
    groups = seen.unseen_groups if seen else None
    # NaN, which JSON has not, as the gate counts it: as the wrongest answer.
    answers = {name: wrong_for_nan(p_all, scores.labels) for name, p_all in scores.whole_answers().items()}
    return {
        "passed": bool(verdicts) and all(verdict.proof.passed for verdict in verdicts),
        "proofs": {verdict.precision: asdict(verdict.proof) for verdict in verdicts},
        "metrics": {name: asdict(measure(scores.labels, p_all, threshold, groups)) for name, p_all in answers.items()},
        "flipped": [flip for verdict in verdicts for flip in flips(verdict, scores, answers[verdict.precision])],
        "subjects": subject_rows(scores, answers, verdicts, threshold),
        "unreadable": scores.unreadable,
        "cells": [
            {"path": str(cell.path), "sha256": cell.sha256, "subject": cell.subject, "label": cell.label}
            for cell in scores.cells
        ],
        "answers": {name: [round(float(p), DIGITS) for p in p_all] for name, p_all in answers.items()},
    }


def flips(verdict: Verdict, scores: Scores, p_all: NDArray[np.float32]) -> list[Row]:
    """Return the cells to which a case, with its answers `p_all`, gives another label than the reference."""
    return [
        {
            "variant": verdict.precision,
            "path": str(scores.cells[index].path),
            "subject": scores.cells[index].subject,
            "label": scores.cells[index].label,
            "reference": round(float(scores.reference[index]), DIGITS),
            "p_all": round(float(p_all[index]), DIGITS),
        }
        for index in np.flatnonzero(verdict.flipped)
    ]


def subject_rows(
    scores: Scores, answers: Mapping[str, NDArray[np.float32]], verdicts: Sequence[Verdict], threshold: float
) -> list[Row]:
    """Return for each subject how many of its cells the reference and each case label right, and how many flip.

    The interval is Wilson's, of the reference's share; those with most flipped cells come first.
    """
    subjects = np.array([cell.subject or "unknown" for cell in scores.cells])
    rows = []
    for subject in np.unique(subjects):
        own = subjects == subject
        right = {
            name: int((is_called_all(p_all[own], threshold) == scores.labels[own]).sum())
            for name, p_all in answers.items()
        }
        share = wilson_interval(next(iter(right.values())), int(own.sum()))
        rows.append(
            {
                "subject": str(subject),
                "ALL": int(scores.labels[own].sum()),
                "healthy": int((~scores.labels[own]).sum()),
                "right": right,
                "share": [round(value, 4) for value in (share.value, share.low, share.high)],
                "flipped": {verdict.precision: int(verdict.flipped[own].sum()) for verdict in verdicts},
            }
        )
    return sorted(rows, key=lambda row: (-sum(row["flipped"].values()), -row["ALL"] - row["healthy"], row["subject"]))
