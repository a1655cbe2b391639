"""The page of a comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from runtime.html_page import TAIL, head, text
from train.evaluated_run import EvaluatedRun
from train.metrics import HEADINGS, constant_note, table_cells

PAGE_NAME = "report.html"
CAPTIONS = {
    "roc": "ROC curves; a dot marks the decisions at the threshold in use.",
    "precision_recall": "Precision and recall.",
    "calibration": "Calibration: on the diagonal a probability means what it says.",
    "confusion": "Decisions at the threshold in use, in cells and in percent of the true class.",
    "training": "Training; the line marks the epoch that was kept.",
}
STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8885; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
small { opacity: .75; display: block; white-space: nowrap; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: #fff; max-height: 36rem; }
.confusion img, .training img { max-height: none; }
@media print { figure { break-inside: avoid; } }
"""
CONTENT = """\
<h1>Comparison of runs</h1>
<p><strong>For research, not a diagnosis.</strong> Positive class: ALL. In small print: 95 % intervals.</p>
{parts}
<h2>Training</h2>
{training}
<h2>The runs</h2>
{runs}
"""


def report_page(
    runs: Mapping[str, EvaluatedRun],
    titles: Mapping[str, str],
    tests: Mapping[str, Sequence[str]],
    pictures: Mapping[str, bytes],
) -> str:
    """Return the page.

    Args:
        runs: Name to run.
        titles: The heading of each part.
        tests: For each part that was evaluated, what the tests between its runs say.
        pictures: PNG files by name: "training", and "<part>_<caption>" for each part.
    """
    content = CONTENT.format(
        parts="\n".join(_part(runs, part, titles[part], lines, pictures) for part, lines in tests.items()),
        training=_figure(pictures["training"], "training"),
        runs=_table(
            ["run", "model", "epochs", "px", "weights", "parameters", "cells", "threshold", "calibration error"],
            _run_rows(runs),
        ),
    )
    return head("Comparison of runs", STYLE) + content + TAIL


def _part(
    runs: Mapping[str, EvaluatedRun], part: str, title: str, tests: Sequence[str], pictures: Mapping[str, bytes]
) -> str:
    figures = [_figure(pictures[f"{part}_{name}"], name) for name in CAPTIONS if f"{part}_{name}" in pictures]
    items = "".join(f"<li>{text(line)}</li>" for line in tests)
    rows = [_metric_row(name, run, part) for name, run in runs.items() if part in run.parts]
    table = _table(["run", "cells", *HEADINGS], rows)
    return f"<h2>{text(title)}</h2>\n{table}\n<ul>{items}</ul>\n" + "\n".join(figures)


def _metric_row(name: str, run: EvaluatedRun, part: str) -> list[str]:
    metrics = run.parts[part].metrics
    notes = [run.protocol, metrics.interval_method, constant_note(metrics)]
    small = "".join(f"<small>{text(note)}</small>" for note in notes if note)
    values = [f"{value}<small>{limits}</small>" for value, limits in table_cells(metrics)]
    return [f"{text(name)}{small}", str(metrics.cells), *values]


def _run_rows(runs: Mapping[str, EvaluatedRun]) -> list[list[str]]:
    return [
        [
            text(name),
            run.config.options.model,
            f"{run.best_epoch} of {len(run.history)}",
            str(run.config.options.image_size),
            text(run.config.options.weights),
            f"{run.config.parameters:,}",
            text(", ".join(f"{size} {part}" for part, size in sorted(run.config.part_sizes.items()))),
            f"{run.decision.threshold:.4g}<small>aim: {text(run.decision.aim)}</small>",
            f"{run.decision.calibration_error_after:.3f}<small>before: "
            f"{run.decision.calibration_error_before:.3f}</small>",
        ]
        for name, run in runs.items()
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells of `rows` are HTML."""
    titles = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<tr>{titles}</tr>\n{body}</table></div>'


def _figure(png: bytes, name: str) -> str:
    data, caption = base64.b64encode(png).decode(), text(CAPTIONS[name])
    return (
        f'<figure class="{name}"><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
