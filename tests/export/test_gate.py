from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from export.curve import operating_curve
from export.gate import Verdict, changes, judge, judge_all
from export.scoring import Scores
from runtime.schema import TOLERANCES, Tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLD = 0.5
LABELS = np.array([False] * 4 + [True] * 4)
# In float32 these and their differences are exact.
KERAS = np.array([0.125, 0.25, 0.375, 0.4375, 0.5625, 0.625, 0.75, 0.875], np.float32)


def judged(p_all: Any, tolerance: Tolerance, others: dict[int, Any] | None = None) -> Verdict:
    answers: dict[int, NDArray[np.float32]] = {32: np.array(p_all, np.float32)}
    answers |= {size: np.array(values, np.float32) for size, values in (others or {}).items()}
    return judge("fp16", answers, KERAS, LABELS, threshold=THRESHOLD, tolerance=tolerance, data="cells")


def moved(*places: tuple[int, float]) -> list[float]:
    """The Keras model's answers with some of them replaced."""
    p_all = [float(value) for value in KERAS]
    for place, value in places:
        p_all[place] = value
    return p_all


# By tolerance: answers, how far they lie from the Keras model's in this measure, and the sentence.
MEASURES: dict[str, tuple[list[float], float, str]] = {
    "max_difference": (moved((0, 0.25)), 0.125, "p_all differs by 1.2e-01 (at most {:g})"),
    "flipped": (
        moved((3, 0.5625), (4, 0.4375)),
        0.25,
        "the share of cells with another label is 0.2500 (at most {:g})",
    ),
    "auc": (moved((4, 0.40625)), 0.0625, "AUC changes by 0.0625 (at most {:g})"),
    "sensitivity": (moved((4, 0.4375)), 0.25, "sensitivity changes by 0.2500 (at most {:g})"),
    "specificity": (moved((3, 0.5)), 0.25, "specificity changes by 0.2500 (at most {:g})"),
}


def test_every_tolerance_is_measured() -> None:
    assert {field.name for field in fields(Tolerance)} == set(MEASURES)


@pytest.mark.parametrize(("name", "p_all", "value"), [(name, *row[:2]) for name, row in MEASURES.items()])
def test_a_variant_at_its_tolerance_passes(name: str, p_all: list[float], value: float) -> None:
    proof = judged(p_all, Tolerance(**{name: value})).proof
    assert proof.failures == ()
    assert proof.passed


@pytest.mark.parametrize(("name", "row"), MEASURES.items(), ids=MEASURES.keys())
def test_a_variant_above_its_tolerance_fails_with_a_sentence(name: str, row: tuple[list[float], float, str]) -> None:
    p_all, value, sentence = row
    limit = value * 0.9
    proof = judged(p_all, Tolerance(**{name: limit})).proof
    assert proof.failures == (sentence.format(limit),)
    assert not proof.passed


@pytest.mark.parametrize(
    ("p_all", "change"),
    [(moved((3, 0.5)), ("specificity", -0.25)), (moved((4, 0.4375)), ("sensitivity", -0.25))],
)
def test_a_change_has_a_sign(p_all: list[float], change: tuple[str, float]) -> None:
    name, value = change
    assert getattr(changes(judged(p_all, Tolerance()).proof), name) == value


def test_a_change_for_the_better_counts_like_one_for_the_worse() -> None:
    keras, labels = KERAS.copy(), LABELS.copy()
    keras[4] = 0.4375  # the Keras model misses this one
    verdict = judge(
        "int8", {32: KERAS}, keras, labels, threshold=THRESHOLD, tolerance=Tolerance(sensitivity=0.1), data=""
    )
    assert verdict.proof.failures == ("sensitivity changes by 0.2500 (at most 0.1)",)


@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(max_difference=1.0)])
def test_what_is_no_number_fails_and_counts_as_the_wrongest_answer(tolerance: Tolerance) -> None:
    proof = judged(moved((0, float("nan"))), tolerance).proof
    assert proof.failures == ("1 answers are not numbers",)
    assert proof.max_difference == max(KERAS[0], 1 - KERAS[0])
    assert proof.variant.accuracy < proof.keras.accuracy


def test_what_is_not_a_number_at_another_batch_size_fails() -> None:
    proof = judged(KERAS, Tolerance(max_difference=1.0), {1: [KERAS[0], float("nan")]}).proof
    assert proof.failures == ("1 answers are not numbers",)


def test_a_change_at_its_tolerance_passes_though_it_rounds_up() -> None:
    # Of 200 ALL cells Keras calls 181 and the variant 180: 0.905 - 0.9 is 0.0050000000000000044.
    labels = np.arange(400) >= 200
    keras = np.where(np.arange(400) >= 219, 0.75, 0.25).astype(np.float32)
    variant = keras.copy()
    variant[219] = 0.25

    def failures(sensitivity: float) -> tuple[str, ...]:
        tolerance = Tolerance(sensitivity=sensitivity)
        return judge("int8", {32: variant}, keras, labels, threshold=0.5, tolerance=tolerance, data="").proof.failures

    assert failures(0.005) == ()
    assert failures(0.00499) == ("sensitivity changes by 0.0050 (at most 0.00499)",)


def test_without_a_tolerance_nothing_is_judged() -> None:
    assert judged(1 - KERAS, Tolerance()).proof.passed
    assert judged(1 - KERAS, Tolerance()).proof.flipped == len(KERAS)


@pytest.mark.parametrize("worst", [32, 1, 5])
def test_the_worst_of_all_batch_sizes_counts(worst: int) -> None:
    answers: dict[int, Any] = {32: KERAS.tolist(), 1: KERAS[:4].tolist(), 5: KERAS[:4].tolist()}
    answers[worst][3] += 0.25
    proof = judged(answers.pop(32), Tolerance(max_difference=0.1, flipped=0.1), answers).proof
    assert proof.batch_sizes == (32, 1, 5)
    assert (proof.max_difference, proof.flipped) == (0.25, 1)
    assert len(proof.failures) == 2
    assert proof.mean_difference == 0.25 / len(KERAS)


def test_a_cell_that_flips_at_two_batch_sizes_is_one_cell() -> None:
    flips = moved((3, 0.75))
    verdict = judged(flips, Tolerance(), {1: flips[:4], 5: flips[:5]})
    assert verdict.proof.flipped == 1
    assert np.flatnonzero(verdict.flipped).tolist() == [3]


def test_metrics_are_those_of_all_cells() -> None:
    proof = judged(moved((3, 0.5)), Tolerance(), {1: KERAS[:1]}).proof
    assert (proof.keras.accuracy, proof.keras.specificity) == (1.0, 1.0)
    assert (proof.variant.accuracy, proof.variant.specificity, proof.variant.sensitivity) == (0.875, 0.75, 1.0)
    assert proof.cells == 8


@pytest.mark.parametrize(("p_all", "flips"), [(0.5, 1), (0.49999997, 0)])
def test_a_cell_at_the_threshold_is_all(p_all: float, flips: int) -> None:
    assert judged(moved((3, p_all)), Tolerance()).proof.flipped == flips


def test_a_float32_that_rounds_to_the_threshold_is_healthy_as_it_is_for_the_runtime() -> None:
    # float32(0.9) is 0.8999999762. Compared in float32 it would reach 0.9.
    answers = {32: np.array(moved((7, 0.9)), np.float32)}
    keras = np.array(moved((7, 0.95)), np.float32)
    proof = judge("fp16", answers, keras, LABELS, threshold=0.9, tolerance=Tolerance(), data="").proof
    assert float(answers[32][7]) < 0.9
    assert proof.flipped == 1
    assert (proof.keras.sensitivity, proof.variant.sensitivity) == (0.25, 0.0)
    [at_threshold] = [point for point in operating_curve(LABELS, answers[32]) if abs(point.threshold - 0.9) < 1e-9]
    assert at_threshold.sensitivity == 0, "the curve compares like the gate"


@pytest.mark.parametrize(
    ("precision", "limits"),
    [
        ("fp32", {"max_difference": 1e-4, "flipped": 0.0}),
        ("fp16", {"auc": 0.0005, "flipped": 0.001}),
        ("int8", {"auc": 0.002, "sensitivity": 0.005, "specificity": 0.005}),
    ],
)
def test_the_tolerances_are_those_that_are_promised(precision: str, limits: dict[str, float]) -> None:
    assert TOLERANCES[precision] == Tolerance(**limits)


def test_each_variant_is_judged_by_its_own_tolerance_which_is_recorded() -> None:
    answers = {name: {32: np.array(moved((0, 0.25)), np.float32)} for name in ("fp32", "int8")}
    scores = Scores([], LABELS, KERAS, answers, {})
    tolerances = {"fp32": Tolerance(max_difference=0.1), "int8": Tolerance(max_difference=0.2)}
    verdicts = judge_all(scores, THRESHOLD, tolerances, "cells")
    assert [(verdict.precision, verdict.proof.passed) for verdict in verdicts] == [("fp32", False), ("int8", True)]
    assert [verdict.proof.tolerance for verdict in verdicts] == list(tolerances.values())
    assert {verdict.proof.data for verdict in verdicts} == {"cells"}
