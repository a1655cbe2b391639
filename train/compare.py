"""Compares finished runs: the paper's Table I and II, paired tests, pictures, and one page that holds them all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from runtime.cell_names import printable
from runtime.errors import UsageError
from runtime.files import output_errors
from runtime.folders import folder_written_aside
from runtime.outcomes import nouns
from train.comparison import CELLS_AS_INDEPENDENT, delong, mcnemar
from train.evaluated_run import EvaluatedRun, PartScores, read_run
from train.metrics import METRIC_NAMES, constant_note, is_called_all, metrics_table
from train.pictures import (
    calibration_picture,
    confusion_picture,
    precision_recall_picture,
    roc_picture,
    training_picture,
)
from train.placed_cells import TEST, VALIDATION
from train.report import PAGE_NAME, report_page

TITLES = {VALIDATION: "Table I: validation", TEST: "Table II: test"}
PICTURES = {
    "roc": roc_picture,
    "precision_recall": precision_recall_picture,
    "calibration": calibration_picture,
    "confusion": confusion_picture,
}


def compare(paths: Sequence[Path], out: Path, tell: Callable[[str], None] = print) -> None:
    """Compare finished runs and write tables, pictures and report.html to the folder `out`.

    Raises RunError for a run that is not finished, UsageError for the same run twice, OutputError where `out` is
    something else or cannot be written.
    """
    runs = {name: read_run(path, name) for name, path in _named(paths).items()}
    pictures = {"training": training_picture(runs)}
    tests: dict[str, list[str]] = {}
    for part, title in TITLES.items():
        scores = {name: run.parts[part] for name, run in runs.items() if part in run.parts}
        if not scores:
            continue
        pictures |= {f"{part}_{name}": draw(scores) for name, draw in PICTURES.items()}
        tests[part] = [pair_line(*pair) for pair in combinations(scores.items(), 2)]
        tell(f"{title}\n{metrics_table({name: one.metrics for name, one in scores.items()})}")
        for name in scores:
            tell(f"{name}: {runs[name].protocol}; {scores[name].metrics.interval_method}")
        for line in tests[part]:
            tell(line)
    with folder_written_aside(out, PAGE_NAME, ("*.png", "*.csv")) as folder, output_errors(out):
        for name, picture in pictures.items():
            (folder / f"{name}.png").write_bytes(picture)
        for part in tests:
            (folder / f"{part}.csv").write_text(part_csv(runs, part), encoding="utf-8")
        (folder / PAGE_NAME).write_text(report_page(runs, TITLES, tests, pictures), encoding="utf-8")
    tell(f"Report: {out / PAGE_NAME}")


def pair_line(first: tuple[str, PartScores], second: tuple[str, PartScores]) -> str:
    """Say how two runs differ on the same cells, or that their cells or labels are not the same."""
    (name, one), (other_name, other) = first, second
    pair = f"{name} and {other_name}"
    labels_of_both = [dict(zip(scores.hashes, scores.labels.tolist(), strict=True)) for scores in (one, other)]
    if labels_of_both[0] != labels_of_both[1]:
        what = "labels" if labels_of_both[0].keys() == labels_of_both[1].keys() else "cells"
        return f"{pair}: not tested against each other, they were measured on different {what}"
    order, other_order = np.argsort(one.hashes), np.argsort(other.hashes)
    labels, p_all, other_p_all = one.labels[order], one.p_all[order], other.p_all[other_order]
    areas = delong(labels, p_all, other_p_all)
    decisions = mcnemar(
        labels, is_called_all(p_all, one.metrics.threshold), is_called_all(other_p_all, other.metrics.threshold)
    )
    p_of_areas = "not defined" if np.isnan(areas.p_value) else f"{areas.p_value:.2g}"
    return (
        f"{pair}: AUC differs by {areas.difference:+.4f} (DeLong p = {p_of_areas}); "
        f"{decisions.only_first} {nouns(decisions.only_first, 'cell')} only the first gets right, "
        f"{decisions.only_second} only the second "
        f"(McNemar p = {decisions.p_value:.2g}); {CELLS_AS_INDEPENDENT}"
    )


def part_csv(runs: Mapping[str, EvaluatedRun], part: str) -> str:
    """Return the table of a part as CSV text, values and limits as fractions."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    limits = [f"{name}{suffix}" for name in METRIC_NAMES for suffix in ("", "_low", "_high")]
    writer.writerow(["run", "model", "protocol", "cells", "threshold", *limits, "interval_method", "note"])
    for name, run in runs.items():
        if part in run.parts:
            metrics = run.parts[part].metrics
            intervals = [getattr(metrics, metric) for metric in METRIC_NAMES]
            values = [value for interval in intervals for value in (interval.value, interval.low, interval.high)]
            run_columns = [name, run.config.options.model, run.protocol, metrics.cells, metrics.threshold]
            writer.writerow([*run_columns, *values, metrics.interval_method, constant_note(metrics)])
    return stream.getvalue()


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name each run by its folder, by its path where two folders are called alike."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise UsageError(f"expected different runs, received one twice: {' '.join(map(str, paths))}")
    names = [path.name for path in resolved]
    return {
        printable(name if names.count(name) == 1 else str(path)): path for name, path in zip(names, paths, strict=True)
    }
