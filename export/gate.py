"""Judges a conversion: the one place that compares a variant's answers with the Keras model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from export.scoring import Scores
from runtime.bundle import Bundle
from runtime.schema import Figures, Proof, Tolerance
from train.metrics import five_metrics, is_called_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How far a figure may lie beyond its limit by rounding alone: 0.905 - 0.9 is 0.0050000000000000044 and keeps to 0.005.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """A variant's proof, and where its labels differ."""

    precision: str
    proof: Proof
    flipped: NDArray[np.bool_]  # [N]


def judge(
    precision: str,
    answers: dict[int, NDArray[np.float32]],
    reference: NDArray[np.float32],
    labels: NDArray[np.bool_],
    *,
    threshold: float,
    tolerance: Tolerance,
    data: str,
) -> Verdict:
    """Compare a variant with the Keras model on the same cells in the same order.

    Args:
        precision: Of the variant.
        answers: By batch size, p_all of the variant, float32. The first holds all N cells, from which the metrics are
            taken; the others may hold the first few. NaN fails, and counts as the wrongest answer in the figures.
        reference: p_all of the Keras model, float32 [N].
        labels: bool [N], True for ALL; of both classes.
        threshold: A cell is called ALL where p_all >= threshold.
        tolerance: What the variant is judged by.
        data: Where the cells came from, for the record.
    """
    difference = np.zeros(len(reference))
    flipped = np.zeros(len(reference), bool)
    not_finite = sum(int(np.isnan(p_all).sum()) for p_all in answers.values())
    answers = {size: wrong_for_nan(p_all, labels) for size, p_all in answers.items()}
    for p_all in answers.values():
        own = reference[: len(p_all)]
        difference[: len(p_all)] = np.maximum(difference[: len(p_all)], np.abs(p_all.astype(np.float64) - own))
        flipped[: len(p_all)] |= is_called_all(p_all, threshold) != is_called_all(own, threshold)
    proof = Proof(
        data=data,
        cells=len(reference),
        batch_sizes=tuple(answers),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        flipped=int(flipped.sum()),
        keras=_figures(labels, reference, threshold),
        variant=_figures(labels, next(iter(answers.values())), threshold),
        tolerance=tolerance,
        failures=(),
    )
    failures = [f"{not_finite} answers are not numbers"] if not_finite else []
    return Verdict(precision, replace(proof, failures=(*failures, *_failures(proof))), flipped)


def judge_all(scores: Scores, threshold: float, tolerances: dict[str, Tolerance], data: str) -> tuple[Verdict, ...]:
    """Judge every variant that was scored, in the order in which they were."""
    return tuple(
        judge(
            precision,
            answers,
            scores.reference,
            scores.labels,
            threshold=threshold,
            tolerance=tolerances[precision],
            data=data,
        )
        for precision, answers in scores.answers.items()
    )


def recorded_tolerances(bundle: Bundle) -> dict[str, Tolerance]:
    """Return by precision the limits that a bundle's variants were judged by when their proofs were written."""
    return {variant.precision: variant.proof.tolerance for variant in bundle.manifest.variants}


def changes(proof: Proof) -> Figures:
    """Return the variant's metrics less the Keras model's."""
    keras, variant = asdict(proof.keras), asdict(proof.variant)
    return Figures(**{name: variant[name] - keras[name] for name in keras})


def verdict_row(verdict: Verdict, too_few: str) -> dict[str, str | int]:
    """Sum up a verdict as a row of a table; changes in points of a hundred, of the AUC as they are.

    A difference found on `too_few` cells for a proof is a failure all the same, but to find none proves nothing.
    """
    proof = verdict.proof
    change = changes(proof)
    return {
        "variant": verdict.precision,
        "cells": proof.cells,
        "max_difference": f"{proof.max_difference:.1e}",
        "mean_difference": f"{proof.mean_difference:.1e}",
        "flipped": proof.flipped,
        "sensitivity": f"{100 * change.sensitivity:+.2f}",
        "specificity": f"{100 * change.specificity:+.2f}",
        "auc": f"{change.auc:+.5f}",
        "verdict": "FAILED" if not proof.passed else "NOT PROVED" if too_few else "passed",
    }


def wrong_for_nan(p_all: NDArray[np.float32], labels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return p_all of the first cells with the most wrong answer in place of NaN: 0 for ALL, 1 for healthy."""
    wrong: NDArray[np.float32] = np.where(labels[: len(p_all)], 0, 1).astype(np.float32)
    return np.where(np.isnan(p_all), wrong, p_all)


def _figures(labels: NDArray[np.bool_], p_all: NDArray[np.float32], threshold: float) -> Figures:
    return Figures(*map(float, five_metrics(labels, p_all, threshold)))


def _failures(proof: Proof) -> Iterator[str]:
    change, limit = changes(proof), proof.tolerance
    measured: Sequence[tuple[str, float, float | None, str]] = (
        ("p_all differs by", proof.max_difference, limit.max_difference, ".1e"),
        ("the share of cells with another label is", proof.flipped / proof.cells, limit.flipped, ".4f"),
        ("AUC changes by", abs(change.auc), limit.auc, ".4f"),
        ("sensitivity changes by", abs(change.sensitivity), limit.sensitivity, ".4f"),
        ("specificity changes by", abs(change.specificity), limit.specificity, ".4f"),
    )
    for what, value, largest, form in measured:
        # Written so that NaN fails.
        if largest is not None and not value <= largest + ROUNDING:
            yield f"{what} {value:{form}} (at most {largest:g})"
