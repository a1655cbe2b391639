"""Proves a bundle's variants on labelled cells, and tells what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from export.departures import DEBUG_CELLS, OF_FP32, departures
from export.fewest_cells import is_not_proved, too_few_to_prove
from export.gate import Verdict, judge_all, verdict_row, wrong_for_nan
from export.model_card import card_with_proofs
from export.scoring import Scores, limited, load_cells, score_cells
from export.seen import Seen, seen_by_run
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.command_line import print_table
from runtime.errors import BundleError
from runtime.files import flush_folder, output_errors, write_csv_aside, written_aside
from runtime.inputs import spread_over
from runtime.schema import CARD_NAME, MANIFEST_NAME, NEW_CARD_NAME, SIGNATURE_NAME, Metrics, Proof, Tolerance, to_json
from train.dataset import Cell, find_cells
from train.metrics import measure, metrics_table
from train.tensorflow_import import quiet_tensorflow


@dataclass(frozen=True)
class Verification:
    """What each variant of a bundle says of the same labelled cells, and the verdicts."""

    scores: Scores
    verdicts: Sequence[Verdict]
    threshold: float
    seen: Seen  # by the run

    @property
    def passed(self) -> bool:
        """Whether every variant decides like the Keras model."""
        return all(verdict.proof.passed for verdict in self.verdicts)

    @property
    def too_few(self) -> str:
        """Why there are too few cells of a class to displace an older proof; empty where there are enough."""
        return too_few_to_prove(self.scores.labels)

    @cached_property
    def metrics(self) -> dict[str, Metrics]:
        """The five metrics, with intervals, of the Keras model and of each variant; NaN counts as in the gate."""
        labels = self.scores.labels
        return {
            name: measure(labels, wrong_for_nan(p_all, labels), self.threshold, self.seen.unseen_groups)
            for name, p_all in self.scores.whole_answers().items()
        }


def chosen_cells(data: Path, limit: int | None) -> list[Cell]:
    """Return the labelled cells of `data`, or `limit` of them; raise DataError unless both classes are there."""
    return limited(find_cells(data), limit, str(data))


def verify(
    bundle: Bundle, keras_file: Path, cells: Sequence[Cell], tolerances: dict[str, Tolerance], data: str
) -> Verification:
    """Compare every variant of a bundle with the Keras model on labelled cells, on the CPU.

    Args:
        bundle: An opened bundle.
        keras_file: The model it came from.
        cells: Of both classes.
        tolerances: By precision.
        data: Where the cells came from, for the record.

    Raises BundleError where a file of the bundle was changed, DataError where no cell can be read, RunError where
    the run's cells are not at hand.
    """
    threshold = bundle.manifest.decision.threshold
    with quiet_tensorflow():
        from export.to_onnx import KerasModel
    reference = KerasModel(keras_file, bundle.manifest.decision.temperature)
    with ExitStack() as stack:
        variants = {
            variant.precision: stack.enter_context(open_backend(bundle, "cpu", variant))
            for variant in bundle.manifest.variants
        }
        scores = score_cells(cells, bundle.manifest.image, reference, variants)
    verdicts = judge_all(scores, threshold, tolerances, data)
    return Verification(scores, verdicts, threshold, seen_by_run(keras_file, scores.cells))


def failed_on_more(bundle: Bundle, verdicts: Sequence[Verdict]) -> dict[str, Proof]:
    """Return by precision the failures that the bundle records and a verdict on fewer cells leaves as they are.

    One that failed again leaves them too: in the place of an older failure it would be taken back by as few cells.
    """
    recorded = {variant.precision: variant.proof for variant in bundle.manifest.variants}
    return {
        verdict.precision: older
        for verdict in verdicts
        if not (older := recorded[verdict.precision]).passed
        and not is_not_proved(older)
        and older.cells > verdict.proof.cells
    }


def write_verdicts(bundle: Bundle, verdicts: Sequence[Verdict]) -> bool:
    """Put the proofs into the bundle's manifest and card; the runtime obeys them from then on.

    A variant without a verdict keeps the proof that it has.

    The card that fits the manifest is there at any moment, so the bundle opens wherever this is cut off: the new one
    stands under a name of its own until the manifest that holds its hash is in place. A signature, which no longer
    fits, is removed; returns whether there was one.

    Raises BundleError where the folder holds another bundle, or another verdict, than the one that was opened.
    """
    if Bundle.open(bundle.folder).content_sha256 != bundle.content_sha256:
        raise BundleError(
            f"expected {bundle.folder} to stay as it is while it is verified, found that it was exported or verified "
            "anew meanwhile; verify it again"
        )
    proofs = {verdict.precision: verdict.proof for verdict in verdicts}
    variants = tuple(
        replace(variant, proof=proofs.get(variant.precision, variant.proof)) for variant in bundle.manifest.variants
    )
    manifest = replace(bundle.manifest, variants=variants)
    card = card_with_proofs(bundle.card.decode("utf-8"), manifest).encode("utf-8")
    manifest = replace(manifest, card_sha256=hashlib.sha256(card).hexdigest())
    new_card, signature = bundle.folder / NEW_CARD_NAME, bundle.folder / SIGNATURE_NAME
    was_signed = signature.exists()
    with output_errors(bundle.folder):
        with written_aside(bundle.folder / MANIFEST_NAME) as written:
            written.write_text(to_json(manifest), encoding="utf-8")
            with written_aside(new_card) as written_card:
                written_card.write_bytes(card)
            signature.unlink(missing_ok=True)
            flush_folder(bundle.folder)
        flush_folder(bundle.folder)
        new_card.replace(bundle.folder / CARD_NAME)
    return was_signed


def write_answers(out: Path, scores: Scores) -> None:
    """Write a CSV table with what the Keras model and each variant say of each cell."""
    answers = scores.whole_answers()
    columns = ("path", "subject", "label", *answers)
    rows = (
        (cell.path, cell.subject, cell.label, *(f"{p_all[index]:.6f}" for p_all in answers.values()))
        for index, cell in enumerate(scores.cells)
    )
    write_csv_aside(out, columns, rows)


def debug(bundle: Bundle, verification: Verification) -> None:
    """Print for each variant that failed the layers where it departs from the fp32 graph; of fp32, that it does."""
    fp32 = bundle.path(bundle.variant("fp32"))
    cells = load_cells(spread_over(verification.scores.cells, DEBUG_CELLS), bundle.manifest.image)
    for verdict in verification.verdicts:
        if not verdict.proof.passed:
            file = bundle.path(bundle.variant(verdict.precision))
            where = OF_FP32 if verdict.precision == "fp32" else departures(fp32, file, cells)
            print(f"{verdict.precision}: {where}")


def print_verification(verification: Verification) -> None:
    """Print the metrics with their intervals, the verdicts, the cells whose label differs, what could not be read."""
    print(metrics_table(verification.metrics))
    print(f"Intervals: {next(iter(verification.metrics.values())).interval_method}")
    print_table([verdict_row(verdict, verification.too_few) for verdict in verification.verdicts])
    for verdict in verification.verdicts:
        for failure in verdict.proof.failures:
            print(f"{verdict.precision} failed: {failure}")
        for index in np.flatnonzero(verdict.flipped):
            cell = verification.scores.cells[index]
            print(f"{verdict.precision} gives {cell.path} of subject {cell.subject or 'unknown'} another label")
    for path, reason in verification.scores.unreadable.items():
        print(f"not readable: {path}: {reason}")
