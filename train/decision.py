"""Turns a network's output into an answer: calibration, threshold, review band; all chosen on validation cells.

numpy, scipy and scikit-learn; no keras.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import roc_curve

from runtime.errors import UsageError
from runtime.schema import DEFAULT_THRESHOLD, Decision

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_AIM = "none"
AIM = re.compile(r"youden|(?P<metric>sensitivity|specificity)=(?P<value>0?\.\d+|1(?:\.0*)?)")
AIMS = "youden, sensitivity=0.95 or specificity=0.95"
# Of the network's own p_all, float64: where its logit is cut off, at -708 and, since 1 - p is coarser, at 36.7.
SMALLEST_P, LARGEST_P = float(np.finfo(np.float64).tiny), 1 - 2.0**-53
# What the exported graph tells apart: float32 has no finer steps below 1, ONNX Runtime's sigmoid none above 0.
STEP = 2.0**-24
TEMPERATURES = (0.05, 20.0)
CALIBRATION_BINS = 15  # Guo et al. 2017
REVIEW_SHARE = 0.1  # of the validation cells: those nearest to the threshold


def decide(labels: NDArray[np.bool_], p_all: NDArray[np.floating], aim: str = NO_AIM) -> Decision:
    """Choose temperature, threshold and review band on validation cells.

    Args:
        labels: bool [N], True for ALL; both classes are there.
        p_all: float [N], the network's own output; float64, or what float32 rounds to 1 is all the same.
        aim: "none" for a threshold of 0.5, "youden" for the largest sum of sensitivity and specificity, of equal sums
            that with the higher sensitivity, or "sensitivity=S" or "specificity=S": at least that, as much as possible
            of the other, and then as much as possible of the aimed one too.

    Raises UsageError for another aim, and for a specificity that no threshold up to 1 reaches.
    """
    refuse_unknown_aim(aim)
    temperature = fitted_temperature(labels, p_all)
    p_calibrated = calibrated(p_all, temperature)
    threshold = _threshold(labels, p_calibrated, aim)
    low, high = _review_band(p_calibrated, threshold)
    return Decision(
        aim=aim,
        threshold=threshold,
        temperature=temperature,
        calibration_error_before=calibration_error(labels, p_all),
        calibration_error_after=calibration_error(labels, p_calibrated),
        review_low=low,
        review_high=high,
    )


def refuse_unknown_aim(aim: str) -> None:
    """Raise UsageError for an aim that `decide` does not know."""
    if aim != NO_AIM and not AIM.fullmatch(aim):
        raise UsageError(f"expected an aim such as {AIMS}, received {aim}")


def calibrated(p_all: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Return sigmoid(logit(p) / temperature), float64 [N] (temperature scaling, Guo et al. 2017).

    It is rounded to what the exported graph tells apart, so that figures and thresholds are those of the graph.
    """
    scaled = expit(_logits(p_all) / temperature)
    rounded: NDArray[np.float64] = np.floor(scaled / STEP + 0.5) * STEP
    return rounded


def fitted_temperature(labels: NDArray[np.bool_], p_all: NDArray[np.floating]) -> float:
    """Return the temperature with the smallest negative log-likelihood; 1 where none is to be found.

    There is none where all cells are told apart: the likelihood then grows without bound as the temperature falls.
    """
    logits = _logits(p_all)
    signs = np.where(labels, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signs * logits / np.exp(log_temperature)).mean())

    limits = np.log(TEMPERATURES)
    found = float(minimize_scalar(loss, bounds=tuple(limits), method="bounded").x)
    at_a_limit = np.abs(limits - found).min() < 0.01
    return 1.0 if at_a_limit else float(np.exp(found))


def calibration_error(labels: NDArray[np.bool_], p_all: NDArray[np.floating]) -> float:
    """Return the expected calibration error: the mean distance of p_all from the share of ALL, by bins of p_all.

    With bins of equal width and each bin weighted by its cells (Naeini et al. 2015), for the probability of ALL.
    """
    bins = np.minimum((p_all * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=p_all - labels, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _logits(p_all: NDArray[np.floating]) -> NDArray[np.float64]:
    logits: NDArray[np.float64] = logit(np.clip(p_all.astype(np.float64), SMALLEST_P, LARGEST_P))
    return logits


def _threshold(labels: NDArray[np.bool_], p_all: NDArray[np.float64], aim: str) -> float:
    if aim == NO_AIM:
        return DEFAULT_THRESHOLD
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, p_all, drop_intermediate=False)
    # Of whole cells: 1 - 0.07 falls short of 0.93 by rounding, and equal sums of two shares may differ.
    leukemic, healthy = int(labels.sum()), int((~labels).sum())
    found, spared = np.rint(true_positive_rate * leukemic), healthy - np.rint(false_positive_rate * healthy)
    sensitivity, specificity = found / leukemic, spared / healthy
    # roc_curve begins with infinity, where no cell is ALL. A threshold is 1 at most, where a cell whose p_all is 1 is.
    possible = np.isfinite(thresholds) | (p_all.max() < 1)
    match = AIM.fullmatch(aim)
    if match and match["metric"]:
        aimed, other = (sensitivity, specificity) if match["metric"] == "sensitivity" else (specificity, sensitivity)
        merit = np.where(possible & (aimed >= float(match["value"])), other, -1)
    else:
        aimed, merit = sensitivity, np.where(possible, found * healthy + spared * leukemic, -1)
    best = int(np.lexsort((aimed, merit))[-1])  # of equal merits the one with the most of what is aimed at
    if merit[best] < 0:
        raise UsageError(
            f"expected an aim that a threshold up to 1 reaches, received {aim}: p_all of "
            f"{int((p_all[~labels] == 1).sum())} of {healthy} healthy cells is 1; aim at a lower specificity, or youden"
        )
    return _halfway_below(p_all, float(thresholds[best]))


def _halfway_below(p_all: NDArray[np.float64], score: float) -> float:
    """Return a threshold that decides as `score` does, but lies between two cells, where rounding flips none."""
    lower = p_all[p_all < score]
    above = min(score, 1.0)  # infinity: no cell is called ALL
    return float((above + (lower.max() if len(lower) else 0.0)) / 2)


def _review_band(p_all: NDArray[np.float64], threshold: float) -> tuple[float, float]:
    """Return the band, as wide to both sides in logits, that holds REVIEW_SHARE of the cells."""
    logits, center = (logit(np.clip(p, STEP / 2, 1 - STEP / 2)) for p in (p_all, threshold))
    reach = float(np.quantile(np.abs(logits - center), REVIEW_SHARE))
    return float(min(expit(center - reach), threshold)), float(max(expit(center + reach), threshold))
