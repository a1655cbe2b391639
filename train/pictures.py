"""Draws what the tables cannot show: curves, calibration, confusion, training."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from runtime.schema import CLASSES
from train.decision import CALIBRATION_BINS

if TYPE_CHECKING:
    from train.evaluated_run import EvaluatedRun, PartScores

# Okabe and Ito's colors, which the color-blind tell apart, and line styles for print in gray.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
DOTS_PER_INCH = 150
LEGEND_LINE = 0.22  # inches
MATRICES_IN_A_ROW = 4
NAME_IN_LEGEND, NAME_IN_TITLE, NAME_OVER_MATRIX = 44, 76, 66  # characters of a run's name that fit
LINE_OVER_MATRIX = 24  # characters


def roc_picture(name_to_scores: Mapping[str, PartScores]) -> bytes:
    """Draw the ROC curves of one part, each with its working point; a PNG."""

    def draw(axes: Any, name: str, scores: PartScores, look: dict[str, Any]) -> None:
        false_positives, sensitivity, _ = roc_curve(scores.labels, scores.p_all)
        axes.plot(
            false_positives,
            sensitivity,
            label=f"{shortened(name, NAME_IN_LEGEND)}, AUC {scores.metrics.auc.value:.3f}",
            **look,
        )
        point = 1 - scores.metrics.specificity.value, scores.metrics.sensitivity.value
        axes.plot(*point, marker="o", color=look["color"])

    figure, axes = _square("1 - specificity", "sensitivity", len(name_to_scores))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    return _curves(figure, axes, name_to_scores, draw)


def precision_recall_picture(name_to_scores: Mapping[str, PartScores]) -> bytes:
    """Draw the precision-recall curves of one part; a PNG."""

    def draw(axes: Any, name: str, scores: PartScores, look: dict[str, Any]) -> None:
        precision, recall, _ = precision_recall_curve(scores.labels, scores.p_all)
        axes.plot(recall, precision, label=shortened(name, NAME_IN_LEGEND), **look)

    figure, axes = _square("recall (sensitivity)", "precision", len(name_to_scores))
    return _curves(figure, axes, name_to_scores, draw)


def calibration_picture(name_to_scores: Mapping[str, PartScores]) -> bytes:
    """Draw the share of ALL over the calibrated p_all, in bins of equal width; a PNG."""

    def draw(axes: Any, name: str, scores: PartScores, look: dict[str, Any]) -> None:
        share, mean = calibration_curve(scores.labels, scores.p_all, n_bins=CALIBRATION_BINS)
        label = f"{shortened(name, NAME_IN_LEGEND)}, error {scores.calibration_error:.3f}"
        axes.plot(mean, share, marker=".", label=label, **look)

    figure, axes = _square("p_all, calibrated", "share of ALL", len(name_to_scores))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    return _curves(figure, axes, name_to_scores, draw)


def confusion_picture(name_to_scores: Mapping[str, PartScores]) -> bytes:
    """Draw one confusion matrix for each run, in cells and in percent of the true class; a PNG."""
    rows = math.ceil(len(name_to_scores) / MATRICES_IN_A_ROW)
    columns = math.ceil(len(name_to_scores) / rows)
    figure = Figure(figsize=(3.2 * columns, 3.6 * rows), layout="constrained")
    for number, (name, scores) in enumerate(name_to_scores.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        counts = confusion_matrix(scores.labels, scores.p_all >= scores.metrics.threshold, labels=[False, True])
        shares = counts / counts.sum(axis=1, keepdims=True)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(2, 2):
            text = f"{counts[row, column]}\n{shares[row, column]:.1%}"
            axes.text(
                column, row, text, ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black"
            )
        axes.set_xticks([0, 1], CLASSES)
        axes.set_yticks([0, 1], CLASSES)
        axes.set(xlabel="called", ylabel="is")
        title = textwrap.fill(shortened(name, NAME_OVER_MATRIX), LINE_OVER_MATRIX, break_on_hyphens=False)
        axes.set_title(title, fontsize="medium")
    return _png(figure)


def training_picture(name_to_run: Mapping[str, EvaluatedRun]) -> bytes:
    """Draw loss and accuracy over the epochs, one panel for each run, the kept epoch marked; a PNG."""
    figure = Figure(figsize=(8, 2.6 * len(name_to_run)), layout="constrained")
    all_axes = figure.subplots(len(name_to_run), 2, squeeze=False)
    for row, (name, run) in zip(all_axes, name_to_run.items(), strict=True):
        numbers = [epoch.epoch for epoch in run.history]
        for axes, metric in zip(row, ("loss", "accuracy"), strict=True):
            training = [getattr(epoch, metric) for epoch in run.history]
            axes.plot(numbers, training, "--", marker=".", color=COLORS[1], label="training")
            validation = [getattr(epoch, f"val_{metric}") for epoch in run.history]
            axes.plot(numbers, validation, marker=".", color=COLORS[0], label="validation")
            axes.axvline(run.best_epoch, color="0.6", linewidth=0.8, label=f"kept: {run.best_epoch}")
            axes.set(xlabel="epoch", ylabel=metric, xlim=(0.5, len(numbers) + 0.5))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        row[0].set_title(shortened(name, NAME_IN_TITLE), loc="left", fontsize="medium")  # reaches over both panels
        row[0].legend(frameon=False)
    return _png(figure)


def shortened(name: str, length: int) -> str:
    """Return a name in at most `length` characters; what is left out stands in its middle: ends tell runs apart.

    Matplotlib then shows it as it is: a "$" would begin a formula, and what begins with "_" be left out of a legend.
    """
    if len(name) > length:
        end = (length - 1) // 2
        name = f"{name[: length - 1 - end]}…{name[-end:]}"
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _square(x_label: str, y_label: str, curves: int) -> tuple[Figure, Any]:
    """Return a figure with square axes and room below them for a legend line for each curve."""
    figure = Figure(figsize=(5, 4.8 + LEGEND_LINE * curves), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure, axes


def _curves(
    figure: Figure,
    axes: Any,
    name_to_scores: Mapping[str, PartScores],
    draw: Callable[[Any, str, PartScores, dict[str, Any]], None],
) -> bytes:
    for index, (name, scores) in enumerate(name_to_scores.items()):
        look = {"color": COLORS[index % len(COLORS)], "linestyle": STYLES[index % len(STYLES)], "linewidth": 1.4}
        draw(axes, name, scores, look)
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()
