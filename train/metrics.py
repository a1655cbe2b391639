"""The five metrics of the paper with 95 % intervals; numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import DataError
from runtime.groups import wilson_interval
from runtime.schema import CLASSES, Interval, Metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRIC_NAMES = ("accuracy", "sensitivity", "specificity", "auc", "f1")
HEADINGS = ("accuracy %", "sensitivity %", "specificity %", "AUC", "F1")
SCALES, DIGITS = (100, 100, 100, 1, 1), (2, 2, 2, 4, 4)  # the paper gives three of the five in percent
RESAMPLES = 1000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0


def measure(
    labels: NDArray[np.bool_],
    p_all: NDArray[np.floating],
    threshold: float,
    groups: Sequence[str] | None = None,
) -> Metrics:
    """Compute the five metrics of scored cells, with percentile-bootstrap intervals.

    A metric of 0 or 1 is the same in every resample, which says nothing of how certain it is: its interval is Wilson's,
    of as many images, or groups, as it is a share of.

    Args:
        labels: bool [N], True for ALL, the positive class.
        p_all: float [N], probability of ALL.
        threshold: A cell is called ALL where p_all >= threshold.
        groups: The group of subjects of each cell, where no cell of these groups was trained on: then whole groups are
            drawn, since cells of one subject resemble each other. Otherwise images are drawn.

    Raises DataError where a class is missing, since sensitivity or specificity would be undefined.
    """
    if not labels.any() or labels.all():
        raise DataError(f"expected cells of both classes, found {int(labels.sum())} ALL of {len(labels)} cells")
    values = five_metrics(labels, p_all, threshold)
    drawing = _drawing(labels, groups)
    samples = [five_metrics(labels[drawn], p_all[drawn], threshold) for drawn in drawing.resamples]
    counts = _counts(drawing.healthy, drawing.leukemic)
    intervals = dict(zip(METRIC_NAMES, map(_interval, values, np.transpose(samples), counts), strict=True))
    called = is_called_all(p_all, threshold)
    constant = CLASSES[int(called[0])] if called.all() or not called.any() else None
    return Metrics(
        cells=len(labels), threshold=threshold, **intervals, interval_method=drawing.method, constant=constant
    )


def is_called_all(p_all: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Return which cells of p_all are called ALL, in float64 as the runtime compares.

    NumPy would round the threshold to p_all's float32: 0.9 in float32 lies below 0.9 and would still reach it.
    """
    called: NDArray[np.bool_] = p_all.astype(np.float64) >= threshold
    return called


def table_cells(metrics: Metrics) -> list[tuple[str, str]]:
    """Return each of the five metrics as text, and its interval as text."""
    intervals = [getattr(metrics, name) for name in METRIC_NAMES]
    return [
        (f"{i.value * scale:.{digits}f}", f"{i.low * scale:.{digits - 1}f}-{i.high * scale:.{digits - 1}f}")
        for i, scale, digits in zip(intervals, SCALES, DIGITS, strict=True)
    ]


def metrics_table(name_to_metrics: dict[str, Metrics]) -> str:
    """Format metrics as the paper's tables, a row for each name, with the intervals below the values.

    A classifier that gives every cell the same label is called that: its figures measure the data, not a model.
    """
    width = max(12, *(len(name) for name in name_to_metrics))
    lines = [f"{'':{width}s}{'cells':>7s}" + "".join(f"{heading:>15s}" for heading in HEADINGS)]
    for name, metrics in name_to_metrics.items():
        values, limits = zip(*table_cells(metrics), strict=True)
        lines.append(f"{name:{width}s}{metrics.cells:7d}" + "".join(f"{value:>15s}" for value in values))
        lines.append(" " * (width + 7) + "".join(f"{limit:>15s}" for limit in limits))
        if metrics.constant:
            lines.append(f"{'':{width}s}{constant_note(metrics)}")
    return "\n".join(lines)


def constant_note(metrics: Metrics) -> str:
    """Say of a classifier that it is constant; empty for any other."""
    return f"constant classifier: it calls every cell {metrics.constant}" if metrics.constant else ""


def five_metrics(labels: NDArray[np.bool_], p_all: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """Return the metrics of METRIC_NAMES for p_all [N] and labels [N], True for ALL, at a threshold; both classes."""
    called = is_called_all(p_all, threshold)
    true_positives, true_negatives = np.sum(called & labels), np.sum(~called & ~labels)
    positives, negatives = labels.sum(), (~labels).sum()
    return np.array(
        [
            (true_positives + true_negatives) / len(labels),
            true_positives / positives,
            true_negatives / negatives,
            _auc(labels, p_all),
            2 * true_positives / (called.sum() + positives),
        ]
    )


def _auc(labels: NDArray[np.bool_], p_all: NDArray[np.floating]) -> float:
    """Return the area under the ROC curve as the Mann-Whitney statistic, ties counted half (Hanley, McNeil 1982)."""
    healthy, leukemic = np.sort(p_all[~labels]), np.sort(p_all[labels])
    wins = sum(int(np.searchsorted(healthy, leukemic, side).sum()) for side in ("left", "right")) / 2
    return wins / (len(healthy) * len(leukemic))


def _interval(value: float, samples: NDArray[np.float64], count: int) -> Interval:
    """Return a metric with the percentiles of its resamples, with Wilson's limits of `count` where it is 0 or 1."""
    if value in (0, 1):
        wilson = wilson_interval(int(value) * count, count, CONFIDENCE)
        low, high = wilson.low, wilson.high
    else:
        low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(round(float(value), 6), round(float(low), 6), round(float(high), 6))


@dataclass(frozen=True)
class _Drawing:
    """What is drawn for the bootstrap: images, or groups of subjects."""

    resamples: Iterator[NDArray[np.intp]]  # the rows of RESAMPLES resamples
    healthy: int  # of them
    leukemic: int
    method: str  # in words


def _drawing(labels: NDArray[np.bool_], groups: Sequence[str] | None) -> _Drawing:
    size = f"{RESAMPLES} resamples, {CONFIDENCE:.0%}, Wilson's where a metric is 0 or 1"
    of_images = _Drawing(_of_images(labels), int((~labels).sum()), int(labels.sum()), f"bootstrap over images, {size}")
    if groups is None:
        return of_images
    rows_of_class = [_rows_of_groups(np.asarray(groups), labels == is_all) for is_all in (False, True)]
    healthy, leukemic = (len(rows) for rows in rows_of_class)
    if min(healthy, leukemic) < 2:
        few = f"only {healthy} healthy and {leukemic} ALL subjects: how much subjects differ is left out"
        return replace(of_images, method=f"{of_images.method}; {few}")
    method = f"bootstrap over {healthy} healthy and {leukemic} ALL subjects, {size}"
    return _Drawing(_of_groups(rows_of_class), healthy, leukemic, method)


def _counts(healthy: int, leukemic: int) -> tuple[int, ...]:
    """Return of how many images or groups each of METRIC_NAMES is a share.

    The AUC is no share of either class; it is known no better than the smaller class lets it be. F1 at 0 or 1 turns on
    the cells that are ALL.
    """
    return (healthy + leukemic, leukemic, healthy, min(healthy, leukemic), leukemic)


def _of_images(labels: NDArray[np.bool_]) -> Iterator[NDArray[np.intp]]:
    """Draw images; a resample that lacks a class is drawn again."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    yielded = 0
    while yielded < RESAMPLES:
        drawn = rng.integers(0, len(labels), len(labels))
        if labels[drawn].any() and not labels[drawn].all():
            yielded += 1
            yield drawn


def _of_groups(rows_of_class: list[list[NDArray[np.intp]]]) -> Iterator[NDArray[np.intp]]:
    """Draw as many groups of each class as there are, each with all its cells."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    for _ in range(RESAMPLES):
        yield np.concatenate([rows[index] for rows in rows_of_class for index in rng.integers(0, len(rows), len(rows))])


def _rows_of_groups(groups: NDArray[np.str_], chosen: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    return [np.flatnonzero((groups == group) & chosen) for group in np.unique(groups[chosen])]
