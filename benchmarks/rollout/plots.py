"""Draws a record's pictures as SVG that takes its colors from the page, for light, dark and paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from benchmarks.latency import FILE_TO_RESULT, MODEL
from benchmarks.record import Row
from benchmarks.rollout.record import Record, case_name, measured_rows

# Stand-ins that the page's own colors take the place of.
INK, GRID = "#0a0b01", "#0a0b02"
SERIES = tuple(f"#0a0c{number:02x}" for number in range(1, 8))
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^v<>"
LEGEND_COLUMNS = 4  # as many as the names of cases, such as "openvino int8_cpu", fit beside each other
CORNER = 0.3  # of the ROC, where a good model's curve and its threshold lie
BEYOND_P99 = 1.1  # how far the latency's axis reaches: a single late run would squeeze all others together
WIDTH = 5.2  # inches; one user unit of the SVG is a point, so that text is legible at a phone's width
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rollout",
    "font.size": 9.5,
    "font.family": "sans-serif",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}
Draw = Callable[[Any], None]


def latency_picture(record: Record) -> str:
    """Draw the share of the runs on a single file that took no longer than a number of milliseconds."""
    rows = measured_rows(record, "latency", cells=1)

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, (MODEL, FILE_TO_RESULT), strict=True):
            own = [row for row in rows if row["measured"] == name]
            axes.set_xlim(0, BEYOND_P99 * max((row["p99_ms"] for row in own), default=1.0))
            for number, row in enumerate(own):
                samples = np.sort(np.concatenate([np.array(window) for window in row["windows_ms"]]))
                shares = np.arange(1, len(samples) + 1) / len(samples)
                axes.step(samples, shares, where="post", label=case_name(row), **_look(number))
            axes.set(title=name, xlabel="ms", ylim=(0, 1.02))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.axhline(0.95, color=INK, linewidth=0.7, linestyle=":")
        panels[0].set_ylabel("share of the runs")
        _legend_below(figure, panels)

    return _svg("latency", draw, 3.3)


def at_once_picture(record: Record) -> str:
    """Draw cells a second by the number that come at once."""
    rows = measured_rows(record, "latency")
    return _svg("at-once", lambda figure: _rates(figure, rows, "cells", "cells at once"), 3.3)


def cpu_picture(record: Record) -> str:
    """Draw cells a second by the number of CPUs."""
    rows = measured_rows(record, "scaling")
    return _svg("cpus", lambda figure: _rates(figure, rows, "cpus", "CPUs that it may use"), 3.3)


def sustained_picture(record: Record) -> str:
    """Draw the rate over time, and below it what the sensors read."""
    section = record["sections"]["sustained"]
    panels = [panel for panel in _panels(section) if panel[1]]

    def draw(figure: Any) -> None:
        heights = [2.0] + [1.0] * (len(panels) - 1)
        stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, (title, curves) in zip(stacked[:, 0], panels, strict=True):
            for number, (name, seconds, values) in enumerate(curves):
                alone = {"marker": MARKERS[number]} if len(values) == 1 else {}  # a line of one point is not seen
                axes.plot(seconds, values, label=name, **alone, **_look(number))
                axes.update_datalim([(seconds[0], 0)])  # the margin above is a share of the whole height
            axes.margins(y=0.1)
            axes.set_ylabel(title)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if len(curves) > 1:
                axes.legend(loc="best", ncols=2)
        stacked[-1, 0].set_xlabel("seconds")

    return _svg("sustained", draw, 1.9 + 1.1 * len(panels))


def _panels(section: dict[str, Any]) -> list[tuple[str, list[tuple[str, list[float], list[float]]]]]:
    slot = section["slot_seconds"]
    rates = section["cells_per_minute"]
    middles = [slot * (number + 0.5) for number in range(len(rates))]

    def curves(names: dict[str, str]) -> list[tuple[str, list[float], list[float]]]:
        found = []
        for key, label in names.items():
            points = [(reading["second"], reading[key]) for reading in section["readings"] if key in reading]
            if points:
                found.append((label, [second for second, _ in points], [value for _, value in points]))
        return found

    return [
        ("cells a minute", [("cells a minute", middles, rates)]),
        ("load, %", curves({"cpu_percent": "all CPUs", "process_cpu_percent": "this process", "gpu_percent": "GPU"})),
        ("memory, MB", curves({"memory_mb": "this process", "gpu_memory_mb": "GPU"})),
        ("°C", curves({"temperature_c": "hottest", "gpu_temperature_c": "GPU"})),
        ("MHz", curves({"cpu_mhz": "CPU", "gpu_mhz": "GPU"})),
    ]


def roc_picture(record: Record) -> str:
    """Draw the ROC curves before and after conversion, with the points of the bundle's threshold."""
    section = record["sections"]["parity"]
    labels = np.array([cell["label"] == 1 for cell in section["cells"]])

    def draw(figure: Any) -> None:
        whole, close = figure.subplots(1, 2)
        for number, (name, answers) in enumerate(section["answers"].items()):
            p_all = np.array(answers)
            curve = roc(labels, p_all)
            called = p_all >= section["threshold"]
            point = called[~labels].mean(), called[labels].mean()
            is_reference = number == 0
            look = {"color": INK, "linewidth": 4, "alpha": 0.3} if is_reference else _look(number - 1)
            title = f"before: {section['reference']}" if is_reference else f"after: {name}"
            auc = section["metrics"][name]["auc"]["value"]
            for axes in (whole, close):
                axes.plot(*curve, label=f"{title}\nAUC {auc:.4f}", **look)
                axes.plot(*point, marker=MARKERS[number % len(MARKERS)], color=look["color"], fillstyle="none")
        whole.set(title="whole", xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01))
        whole.legend(loc="lower right")
        close.set(title="corner", xlabel="1 - specificity", xlim=(-0.005, CORNER), ylim=(1 - CORNER, 1.005))

    return _svg("roc", draw, 3.3)


def roc(labels: Any, p_all: Any) -> tuple[Any, Any]:
    """Return 1 - specificity and sensitivity, from the strictest threshold to the loosest, one step for each score.

    Args:
        labels: bool [N], True for ALL; both classes.
        p_all: float [N], probability of ALL.

    Both that are returned are float [1 + number of different scores], rising from 0 to 1.
    """
    order = np.argsort(-p_all, kind="stable")
    hits = np.cumsum(labels[order])
    ends = np.append(np.flatnonzero(np.diff(p_all[order])), len(order) - 1)  # equal scores are one step
    alarms = 1 + ends - hits[ends]
    return np.append(0, alarms / (~labels).sum()), np.append(0, hits[ends] / labels.sum())


def peers_picture(record: Record) -> str:
    """Draw each peer's time as a multiple of classify's, with the range of the rounds."""
    rows = [row for row in measured_rows(record, "peers") if "ratio" in row][::-1]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            axes.barh(place, row["ratio"], color=SERIES[0], alpha=0.55, height=0.55)
            axes.plot([row["lowest"], row["highest"]], [place, place], color=INK, linewidth=1.4)
            axes.plot([row["lowest"], row["highest"]], [place, place], "|", color=INK, markersize=9)
            axes.text(0, place + 0.33, row["peer"], va="bottom", ha="left", fontsize=9)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlabel="time as a multiple of classify's, median and range of the rounds", yticks=[])
        axes.set_ylim(-0.5, len(rows) - 0.2)
        axes.grid(visible=False)

    return _svg("peers", draw, 1 + 0.55 * len(rows))


def _look(number: int) -> dict[str, Any]:
    return {"color": SERIES[number % len(SERIES)], "linestyle": STYLES[number % len(STYLES)]}


def _rates(figure: Any, rows: Sequence[Row], key: str, title: str) -> None:
    """Draw cells a second over `key` in a panel for the model and one for the whole way."""
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, (MODEL, FILE_TO_RESULT), strict=True):
        for number, (case, own) in enumerate(_by_case(row for row in rows if row["measured"] == name).items()):
            places = [row[key] for row in own]
            axes.plot(
                places,
                [row["cells_per_second"] for row in own],
                label=case,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                **_look(number),
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set(title=name, xlabel=title, xticks=sorted({row[key] for row in rows}))
        axes.minorticks_off()
        axes.update_datalim([(1, 0)])  # as for the sustained run
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("cells a second")
    _legend_below(figure, panels)


def _legend_below(figure: Any, panels: Sequence[Any]) -> None:
    """Name the cases of both panels below them, where no curve runs."""
    named = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=LEGEND_COLUMNS)


def _by_case(rows: Iterator[Row]) -> dict[str, list[Row]]:
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(case_name(row), []).append(row)
    return cases


def _svg(name: str, draw: Draw, height: float) -> str:
    """Return a figure as an <svg> element whose ids are its own on the page and whose colors are the page's."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'class="plot" role="img" aria-label="{name}"', text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for number, color in enumerate(SERIES, 1):
        text = text.replace(color, f"var(--s{number})")
    return text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
