"""Tests between two runs on the same cells; numpy and scipy, no keras.

Both tests treat cells as independent, which those of one subject are not: with few subjects the p-values are too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest, norm, rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS_AS_INDEPENDENT = (
    "the tests treat cells as independent, which those of one subject are not: with few subjects p is too small"
)
SMALLEST_ERROR = 1e-12  # of a difference of areas; less is 0 but for rounding


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test: are two runs right equally often?"""

    only_first: int  # cells that only the first run gets right
    only_second: int
    p_value: float  # two-sided


@dataclass(frozen=True)
class DeLong:
    """The test of DeLong, DeLong and Clarke-Pearson (1988): do two runs have the same area under the ROC curve?"""

    difference: float  # area of the first run less that of the second
    standard_error: float
    p_value: float  # two-sided; NaN where it is not defined


def mcnemar(labels: NDArray[np.bool_], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Compare the decisions of two runs, bool [N] each, True where a cell is called ALL.

    Of the cells that only one run gets right, each run should have half: a binomial test (McNemar 1947, exact).
    """
    first_right, second_right = first == labels, second == labels
    only_first, only_second = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    apart = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, apart).pvalue) if apart else 1.0)


def delong(labels: NDArray[np.bool_], first: NDArray[np.floating], second: NDArray[np.floating]) -> DeLong:
    """Compare the areas under the ROC curves of two runs, p_all float [N] each.

    The variance is that of the structural components (equations 5 and 6 of the paper), which are computed from
    mid-ranks (Sun and Xu 2014). The p-value is that of the normal distribution, which many cells come near. It is NaN,
    as the test is not defined, where a class has one cell alone or the areas differ without any variance.
    """
    positive_first, negative_first = _components(labels, first)
    positive_second, negative_second = _components(labels, second)
    difference = float(positive_first.mean() - positive_second.mean())
    if min(len(positive_first), len(negative_first)) < 2:
        return DeLong(difference, float("nan"), float("nan"))
    variance = np.var(positive_first - positive_second, ddof=1) / len(positive_first)
    variance += np.var(negative_first - negative_second, ddof=1) / len(negative_first)
    error = float(np.sqrt(variance))
    if error < SMALLEST_ERROR:
        return DeLong(difference, 0.0, 1.0 if difference == 0 else float("nan"))
    return DeLong(difference, error, float(2 * norm.sf(abs(difference) / error)))


def _components(
    labels: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each positive the share of negatives below it, and for each negative that of positives above it.

    Ties count half.
    """
    positives, negatives = scores[labels], scores[~labels]
    ranks = np.empty(len(scores))
    ranks[labels], ranks[~labels] = np.split(rankdata(np.concatenate([positives, negatives])), [len(positives)])
    of_positives = (ranks[labels] - rankdata(positives)) / len(negatives)
    of_negatives = 1 - (ranks[~labels] - rankdata(negatives)) / len(positives)
    return of_positives, of_negatives
