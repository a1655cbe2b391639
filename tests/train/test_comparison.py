from __future__ import annotations

import numpy as np
import pytest

from train.comparison import delong, mcnemar
from train.metrics import measure

# 43 of the patients of DeLong, DeLong and Clarke-Pearson (1988): albumin, total protein, 10 less the K-G score, and
# whether they benefited (1), as printed in the SAS/STAT User's Guide, The LOGISTIC Procedure, "Comparing Receiver
# Operating Characteristic Curves".
PATIENTS = """
    3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
    1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
    4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
    3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
    3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
    3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
    3.6 6.6  5 1
"""
TABLE = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4)
BENEFITED = TABLE[:, 3] == 1
ALBUMIN, PROTEIN, K_G = TABLE[:, 0], TABLE[:, 1], 10 - TABLE[:, 2]


@pytest.mark.parametrize(
    ("score", "difference", "error", "p_value"),
    [(ALBUMIN, 0.0108, 0.0953, 0.9102), (PROTEIN, -0.0780, 0.1046, 0.4561)],
    ids=["albumin", "total protein"],
)
def test_delong_gives_what_was_published_against_the_k_g_score(
    score: np.ndarray, difference: float, error: float, p_value: float
) -> None:
    found = delong(BENEFITED, score, K_G)
    assert found.difference == pytest.approx(difference, abs=5e-5)
    assert found.standard_error == pytest.approx(error, abs=5e-5)
    assert found.p_value == pytest.approx(p_value, abs=5e-5)


def test_delongs_difference_is_that_of_the_areas_and_changes_its_sign_with_the_order() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.6
    first, second = (np.round(rng.normal(0.3 * labels), 1) for _ in range(2))  # rounded: there are ties
    areas = [measure(labels, scores, 0.5).auc.value for scores in (first, second)]
    found, back = delong(labels, first, second), delong(labels, second, first)
    assert found.difference == pytest.approx(areas[0] - areas[1], abs=2e-6)
    assert back.difference == pytest.approx(-found.difference)
    assert back.p_value == pytest.approx(found.p_value)


def test_a_run_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.random(50) < 0.5, rng.random(50)
    assert delong(labels, scores, scores).p_value == 1
    assert mcnemar(labels, scores > 0.5, scores > 0.5).p_value == 1


@pytest.mark.parametrize("cells_of_a_class", [2, 5])
def test_areas_that_differ_without_any_variance_have_no_p_value(cells_of_a_class: int) -> None:
    labels = np.repeat([False, True], cells_of_a_class)
    right = np.where(labels, 0.9, 0.1)
    found = delong(labels, right, 1 - right)
    assert (found.difference, found.standard_error) == (1, 0)
    assert np.isnan(found.p_value), "two cells of each class must not be called certain"


@pytest.mark.parametrize("labels", [[True, False], [True, False, False], [True, True, False]])
def test_a_single_cell_of_a_class_has_no_variance_and_no_p_value(labels: list[bool]) -> None:
    found = delong(np.array(labels), np.linspace(0, 1, len(labels)), np.linspace(1, 0, len(labels)))
    assert found.difference == -1
    assert np.isnan(found.standard_error)
    assert np.isnan(found.p_value)


def test_delong_finds_no_difference_in_five_of_a_hundred_at_chance() -> None:
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = np.arange(120) < 70
        signal = rng.normal(0.8 * labels)
        first, second = signal + rng.normal(0, 0.7, 120), signal + rng.normal(0, 0.7, 120)
        found += delong(labels, first, second).p_value < 0.05
    assert 3 <= found <= 19


def test_mcnemar_is_the_exact_binomial_test_on_what_the_runs_decide_differently() -> None:
    # 25 pairs apart, 8 to 17: twice the lower tail of Binomial(25, 1/2) at 8 is 0.1078.
    labels = np.ones(60, dtype=bool)
    first, second = labels.copy(), labels.copy()
    first[:17] = False
    second[17:25] = False
    found = mcnemar(labels, first, second)
    assert (found.only_first, found.only_second) == (8, 17)
    assert found.p_value == pytest.approx(0.1078, abs=5e-5)
