from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from runtime.errors import UsageError
from train.decision import _threshold, calibrated, calibration_error, decide, fitted_temperature

Scored = tuple[NDArray[np.bool_], NDArray[np.float64]]


@pytest.fixture
def scored() -> Scored:
    """Two thousand cells whose logits are three times as far from 0 as they should be."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0.5, 1.5, 2000)
    labels = rng.random(2000) < expit(honest)
    return labels, expit(3 * honest)


def sensitivity(labels: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    return float(called[labels].mean())


def test_the_temperature_undoes_overconfidence(scored: Scored) -> None:
    labels, p_all = scored
    assert fitted_temperature(labels, p_all) == pytest.approx(3, rel=0.1)
    decision = decide(labels, p_all)
    assert decision.calibration_error_before > 0.1
    assert decision.calibration_error_after < 0.03


def test_calibration_keeps_the_order_and_the_half(scored: Scored) -> None:
    _, p_all = scored
    after = calibrated(p_all, 2.5)
    np.testing.assert_array_equal(np.argsort(after, kind="stable"), np.argsort(p_all, kind="stable"))
    np.testing.assert_array_equal(after >= 0.5, p_all >= 0.5)


def test_cells_that_are_all_told_apart_leave_the_probabilities_alone() -> None:
    labels = np.array([True, True, False, False])
    assert fitted_temperature(labels, np.array([0.9, 0.8, 0.2, 0.1])) == 1


def test_the_calibration_error_is_the_textbook_sum() -> None:
    # Two bins: 4 cells at 0.9, of which 3 are ALL; 2 cells at 0.1, of which none is.
    labels = np.array([True, True, True, False, False, False])
    p_all = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1])
    assert calibration_error(labels, p_all) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.1)


def test_without_an_aim_the_threshold_is_a_half(scored: Scored) -> None:
    assert decide(*scored).threshold == 0.5


@pytest.mark.parametrize("value", [0.8, 0.95, 1.0])
def test_an_aimed_sensitivity_is_reached_with_the_best_specificity(scored: Scored, value: float) -> None:
    labels, p_all = scored
    decision = decide(labels, p_all, f"sensitivity={value}")
    p = calibrated(p_all, decision.temperature)
    called = p >= decision.threshold
    assert sensitivity(labels, called) >= value
    with_one_healthy_cell_less = p > p[~labels & called].min()
    assert sensitivity(labels, with_one_healthy_cell_less) < value


@pytest.mark.parametrize("value", [0.8, 0.95])
def test_an_aimed_specificity_is_reached_with_the_best_sensitivity(scored: Scored, value: float) -> None:
    labels, p_all = scored
    decision = decide(labels, p_all, f"specificity={value}")
    p = calibrated(p_all, decision.temperature)
    called = p >= decision.threshold
    assert (~called)[~labels].mean() >= value
    with_one_leukemic_cell_more = p >= p[labels & ~called].max()
    assert (~with_one_leukemic_cell_more)[~labels].mean() < value


def test_a_specificity_that_whole_cells_just_reach_is_not_missed_by_rounding() -> None:
    labels = np.arange(200) >= 100
    p_all = np.concatenate([np.linspace(0.1, 0.4, 93), np.linspace(0.7, 0.8, 7), np.linspace(0.5, 0.9, 100)])
    decision = decide(labels, p_all, "specificity=0.93")  # 1 - 7 / 100 is less than that
    called = calibrated(p_all, decision.temperature) >= decision.threshold
    assert (~called)[~labels].mean() == 0.93
    assert sensitivity(labels, called) == 1


@pytest.mark.parametrize("aim", ["sensitivity=0.90", "specificity=0.90", "youden"])
def test_cells_that_are_all_told_apart_lose_nothing_of_what_is_aimed_at(aim: str) -> None:
    labels = np.arange(150) >= 50
    p_all = np.concatenate([np.linspace(0.1, 0.3, 50), np.linspace(0.6, 0.9, 100)])
    decision = decide(labels, p_all, aim)
    np.testing.assert_array_equal(calibrated(p_all, decision.temperature) >= decision.threshold, labels)
    assert decision.threshold == pytest.approx(0.45), "halfway between the classes"


def test_of_equal_specificities_the_aimed_sensitivity_is_the_highest() -> None:
    p_all = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    labels = np.array([True, True, False, True, True, False, True])
    decision = decide(labels, p_all, "sensitivity=0.6")  # 3 of 5 ALL, or 4 with no healthy cell more
    assert ((calibrated(p_all, decision.temperature) >= decision.threshold)[labels]).sum() == 4


def test_of_equal_sums_youden_takes_the_higher_sensitivity() -> None:
    # In shares 0.3 + 1.0 and 1.0 + 0.3 are equal too; in between lies none that is larger.
    labels = np.repeat([True, False, True, False], [3, 7, 7, 3])
    p_all = np.linspace(0.95, 0.05, 20)
    decision = decide(labels, p_all, "youden")
    called = calibrated(p_all, decision.temperature) >= decision.threshold
    assert (sensitivity(labels, called), (~called)[~labels].mean()) == (1.0, 0.3)


def test_youden_is_the_largest_sum_of_both(scored: Scored) -> None:
    labels, p_all = scored
    decision = decide(labels, p_all, "youden")
    p = calibrated(p_all, decision.temperature)
    sums = [(p >= t)[labels].mean() + (p < t)[~labels].mean() for t in p]
    assert (p >= decision.threshold)[labels].mean() + (p < decision.threshold)[~labels].mean() == max(sums)


def test_no_cell_lies_on_a_chosen_threshold_where_rounding_would_flip_it(scored: Scored) -> None:
    labels, p_all = scored
    decision = decide(labels, p_all, "youden")
    assert np.abs(calibrated(p_all, decision.temperature) - decision.threshold).min() > 1e-7


def test_the_review_band_lies_round_the_threshold_and_holds_a_tenth(scored: Scored) -> None:
    labels, p_all = scored
    decision = decide(labels, p_all, "sensitivity=0.9")
    p = calibrated(p_all, decision.temperature)
    assert decision.review_low < decision.threshold < decision.review_high
    inside = (p >= decision.review_low) & (p <= decision.review_high)
    assert inside.mean() == pytest.approx(0.1, abs=0.005)
    center = logit(decision.threshold)
    assert logit(decision.review_high) - center == pytest.approx(center - logit(decision.review_low))


@pytest.mark.parametrize("aim", ["best", "sensitivity", "sensitivity=2", "f1=0.9", "youden=1"])
def test_another_aim_is_refused(scored: Scored, aim: str) -> None:
    with pytest.raises(UsageError, match=f"expected an aim such as youden, .* received {aim}"):
        decide(*scored, aim)


def test_logits_beyond_a_float32_sigmoid_are_calibrated_like_any_other() -> None:
    logits = np.array([-60.0, -25.0, 20.0, 30.0])
    np.testing.assert_allclose(calibrated(expit(logits), 5.0), expit(logits / 5), atol=1e-4)


def test_a_specificity_that_no_threshold_up_to_1_reaches_is_refused() -> None:
    labels = np.arange(4000) >= 2000
    p_all = expit(np.where(labels, 30.0, -30.0))
    p_all[0] = 1  # one healthy cell, so sure that its p_all is 1 after calibration too
    p_all[1:2000] = expit(np.linspace(-30, -1, 1999))
    with pytest.raises(UsageError, match=r"received specificity=1: p_all of 1 of 2000 healthy cells is 1; aim at a"):
        _threshold(labels, calibrated(p_all, 1.0), "specificity=1")
