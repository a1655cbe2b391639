"""The report of a rollout: one HTML file, from the record alone but for the pictures of cells."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

from benchmarks.record import SKIPPED, Row
from benchmarks.rollout import plots
from benchmarks.rollout.budget import deployed_rows, measured_value
from benchmarks.rollout.page import NOTHING, STYLE, bullets, facts, figure, folded, table
from benchmarks.rollout.record import Record, lasted, measured_rows
from benchmarks.rollout.sustained import FEWEST_SLOTS, SHORTEST_S
from runtime.contact_sheet import thumbnail
from runtime.errors import UnreadableCellError
from runtime.files import write_text_aside
from runtime.html_page import TAIL, head, text
from runtime.inputs import spread_over
from runtime.outcomes import nouns
from runtime.schema import CLASSES
from runtime.table_text import value_text
from train.metrics import METRIC_NAMES

NAME = "report.html"
MOST_FLIPPED = 60  # cells that are shown
MOST_SUBJECTS = 40
INTERESTING_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp")
ANSWERS = {
    "yes": "May be deployed: nothing speaks against it",
    "no": "May not be deployed",
    "open": "Not decided",
}
CASE = {"backend": "backend", "precision": "precision"}
METRIC_COLUMNS = {
    "model": "model",
    **dict(zip(METRIC_NAMES, ("accuracy", "sensitivity", "specificity", "AUC", "F1"), strict=True)),
}
TITLES = {
    "budget": "Budget",
    "parity": "Parity",
    "latency": "Latency",
    "sustained": "Sustained",
    "cold_start": "Cold start and memory",
    "scaling": "Scaling",
    "peers": "Peers",
    "machine": "Machine and record",
}
MEANINGS = {
    "p50_ms": "milliseconds from a single file to its result; half of the files take less",
    "p95_ms": "milliseconds from a single file to its result; 95 of 100 files take less",
    "p99_ms": "milliseconds from a single file to its result; 99 of 100 files take less",
    "cells_per_second": "from files to results in the sustained run, all cells by all the time",
    "slowdown": "share of the rate that is lost from the first third of the sustained run to the last",
    "cold_start_s": "seconds from the start of the program to its first result, the slowest start",
    "memory_mb": "peak memory while it classifies",
    "delta_sensitivity": "change of sensitivity by the conversion, as a share from 0 to 1",
    "delta_specificity": "change of specificity by the conversion, as a share from 0 to 1",
    "delta_auc": "change of the AUC by the conversion",
    "flipped": "share of the cells that get another label by the conversion",
    "sensitivity": "share of the ALL cells that are called ALL",
    "specificity": "share of the healthy cells that are called healthy",
    "auc": "area under the ROC curve",
}


def write_report(record: Record, out: Path) -> Path:
    """Write the page, whole or not at all; raise OutputError where it cannot be written."""
    parts = (_summary, _budget, _parity, _latency, _sustained, _cold_start, _scaling, _peers, _machine)
    write_text_aside(out / NAME, head("Rollout report", STYLE) + "".join(part(record) for part in parts) + TAIL)
    return out / NAME


def _summary(record: Record) -> str:
    verdict, deployed = record["verdict"], record["deployed"]
    answer = verdict["may_be_deployed"]
    environment = record["environment"]
    about = f"{record['bundle']['model']} {deployed['precision']} on {deployed['backend']}"
    kind = "short measurement (--quick)" if record["options"]["quick"] else "full measurement"
    unsure = "" if answer == "open" else "<p>Also not decided:</p>"
    said = "".join(
        title + bullets(lines)
        for title, lines in (
            ("", verdict["against"]),
            (unsure, verdict["unsure"]),
            ("<p>Cautions:</p>", verdict["cautions"]),
        )
        if lines
    )
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in TITLES.items())
    return (
        f"<header><h1>Rollout report</h1><p>{text(about)}, bundle {text(record['bundle']['folder'])} "
        f'<span class="soft">(content {text(record["bundle"]["content_sha256"][:12])})</span><br>'
        f"{text(environment['cpu'])}, {environment['cpus']} CPUs, {text(environment['system'])}; {kind}, "
        f"<time>{datetime.fromisoformat(environment['time']):%Y-%m-%d %H:%M} UTC</time></p></header>\n"
        f'<div class="verdict {answer}"><strong>{ANSWERS[answer]}</strong>{said}</div>\n'
        f"{_tiles(record)}<nav>{links}</nav>\n"
        '<p class="soft"><strong>For research, not a diagnosis.</strong> All figures were measured on this machine in '
        "one run; what they include stands beside them.</p>\n"
    )


def _tiles(record: Record) -> str:
    shown: list[tuple[str, str, Callable[[float], str]]] = [
        ("p50_ms", "ms from file to result, half of the files take less (p50)", value_text),
        ("p95_ms", "ms, 95 of 100 files take less (p95)", value_text),
        ("cells_per_second", "cells a second, sustained", value_text),
        ("cold_start_s", "s, slowest start to the first result", value_text),
        ("memory_mb", "MB, peak memory", value_text),
        ("delta_sensitivity", "points, change of sensitivity", lambda value: f"{100 * value:.2f}"),
        ("delta_specificity", "points, change of specificity", lambda value: f"{100 * value:.2f}"),
        ("flipped", "of the cells get another label", lambda value: f"{value:.2%}"),
    ]
    tiles = ""
    for name, title, form in shown:
        value = measured_value(name, record)
        tiles += f"<div><b>{NOTHING if value is None else form(value)}</b><span>{title}</span></div>"
    return f'<div class="tiles">{tiles}</div>\n'


def _budget(record: Record) -> str:
    if record["budget"] is None:
        return _section("budget", "<p>No budget was given (--budget).</p>")
    columns = {"limit": "limit", "sense": "", "value": "value", "found": "found", "kept": "kept", "meaning": "meaning"}
    rows = [{**row, "meaning": MEANINGS[row["limit"]]} for row in record["budget"]]
    return _section("budget", table(rows, columns))


def _parity(record: Record) -> str:
    section = record["sections"]["parity"]
    if "answers" not in section:
        return _section("parity", table(section["rows"], {"variant": "variant", "verdict": "verdict"}))
    note = (
        f"<p>Each variant beside the {text(section['reference'])}, on {len(section['cells']):,} cells of "
        f"{text(record['data']['source'])}, at the threshold {section['threshold']:g}. Changes are in points of a "
        f"hundred, of the AUC as they are.</p>{bullets(section['doubts'])}\n"
    )
    columns = {
        "variant": "variant",
        "verdict": "verdict",
        "cells": "cells",
        "flipped": "flipped",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "auc": "AUC",
        "max_difference": "largest difference",
        "mean_difference": "mean difference",
    }
    return _section(
        "parity",
        note
        + table(section["rows"], columns)
        + "<h3>Metrics with 95 % intervals</h3>"
        + table(_metric_rows(section), METRIC_COLUMNS)
        + f"<p class='soft'>Intervals: {text(next(iter(section['metrics'].values()))['interval_method'])}.</p>"
        + _pictures(figure(plots.roc_picture(record), "ROC before and after conversion; marks: the threshold"))
        + _flipped(section)
        + _subjects(section)
        + _unreadable(section),
    )


def _metric_rows(section: dict[str, Any]) -> list[Row]:
    rows = []
    for place, (name, metrics) in enumerate(section["metrics"].items()):
        row: Row = {"model": section["reference"] if place == 0 else name}
        for metric in METRIC_NAMES:
            interval = metrics[metric]
            row[metric] = f"{interval['value']:.4f} ({interval['low']:.3f}-{interval['high']:.3f})"
        rows.append(row)
    return rows


def _flipped(section: dict[str, Any]) -> str:
    flips = section["flipped"]
    if not flips:
        return "<h3>Flipped cells</h3><p>No cell gets another label.</p>\n"
    shown = spread_over(flips, MOST_FLIPPED)
    some = f", {len(shown)} of them shown" if len(shown) < len(flips) else ""
    cards = "".join(_card(flip) for flip in shown)
    return f'<h3>Flipped cells: {len(flips):,}{some}</h3>\n<ul class="cells">{cards}</ul>\n'


def _card(flip: Row) -> str:
    try:
        data = base64.b64encode(thumbnail(flip["path"])).decode()
        picture = f'<img alt="Cell {text(PurePath(flip["path"]).name)}" src="data:image/jpeg;base64,{data}">'
    except UnreadableCellError as error:
        picture = f'<span class="gone">no picture any more: {text(error)}</span>'
    answers = f"{flip['reference']:.4f} → {flip['p_all']:.4f}"
    name = f'<span title="{text(flip["path"])}">{text(PurePath(flip["path"]).name)}</span>'
    return f"<li>{picture}<b>{text(flip['variant'])}</b>: {answers}<br>really {CLASSES[flip['label']]}<br>{name}</li>"


def _subjects(section: dict[str, Any]) -> str:
    names = list(section["metrics"])
    columns = {"subject": "subject", "ALL": "ALL", "healthy": "healthy", "interval": f"{section['reference']} right"}
    columns |= {f"right {name}": f"{name} right" for name in names[1:]}
    columns |= {f"flipped {name}": f"{name} flipped" for name in names[1:]}
    rows = []
    for subject in section["subjects"][:MOST_SUBJECTS]:
        share, low, high = subject["share"]
        row: Row = {**subject, "interval": f"{share:.1%} ({low:.0%}-{high:.0%})"}
        cells = subject["ALL"] + subject["healthy"]
        row |= {f"right {name}": f"{count / cells:.1%}" for name, count in subject["right"].items()}
        row |= {f"flipped {name}": count for name, count in subject["flipped"].items()}
        rows.append(row)
    count = len(section["subjects"])
    some = f"; those {MOST_SUBJECTS} with most flips, the record has all" if count > MOST_SUBJECTS else ""
    return (
        f"<h3>By subject: {count}{some}</h3>\n<p class='soft'>The share of a subject's cells that get the right label. "
        "The interval (Wilson, 95 %) shows what so few cells leave open.</p>\n" + table(rows, columns)
    )


def _pictures(*figures: str) -> str:
    return f'<div class="plots">{"".join(figures)}</div>'


def _unreadable(section: dict[str, Any]) -> str:
    if not section["unreadable"]:
        return ""
    lines = [f"{path}: {reason}" for path, reason in section["unreadable"].items()]
    return folded(f"Not readable: {len(lines):,} {nouns(len(lines), 'file')}", bullets(lines))


def _latency(record: Record) -> str:
    section = record["sections"]["latency"]
    columns = {
        **CASE,
        "cells": "cells at once",
        "measured": "measured",
        **{f"p{p}_ms": f"p{p} ms" for p in (50, 90, 95, 99)},
        "max_ms": "max ms",
        "cells_per_second": "cells/s",
        "runs": "runs",
        "windows": "windows",
        "agreed": "agreed",
        "first_ms": "first ms",
    }
    pictures = ""
    if measured_rows(record, "latency"):
        pictures = _pictures(
            figure(plots.latency_picture(record), "A single cell: share of the runs that took no longer. Dotted: p95"),
            figure(plots.at_once_picture(record), "Cells a second by number of cells at once"),
        )
    notes = (
        "<p>Milliseconds for cells that come at once. <em>model</em>: one batch of cells in memory, including the "
        "transfers to a GPU and back. <em>file to result</em>: that many files given to classify, which reads, "
        "decodes, resizes, looks at, infers and writes the row, in batches of "
        f"{record['options']['batch_size']} at most, the first ones small. The warm-up is not counted "
        "(<em>first</em>: its first run). All rows of a case take turns, a window of each after the other, so that a "
        "good or bad moment of the machine is not all that one of them sees. Windows are repeated until the medians of "
        "three agree within 10 %; <em>agreed: no</em> says that they did not.</p>"
    )
    parts = table(
        section.get("parts", []),
        {**CASE, "preprocess_ms": "preprocess ms", "inference_ms": "inference ms", "postprocess_ms": "postprocess ms"},
    )
    said = (
        "<h3>A single file in its three parts</h3><p class='soft'>Medians. preprocess: read, decode, resize, look at. "
        "postprocess: all the rest, such as finding the label, writing the row, and starting and ending "
        "threads.</p>"
    )
    return _section(
        "latency", notes + pictures + table(section["rows"], columns) + (said + parts if section.get("parts") else "")
    )


def _sustained(record: Record) -> str:
    section = record["sections"]["sustained"]
    columns = {
        **CASE,
        "cells": "cells",
        "cells_per_minute": "cells/min",
        "median_slot": "median slot",
        "slowest": "slowest",
        "fastest": "fastest",
        "last_to_first": "last third / first",
        "p50_ms": "cell p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "most_memory_mb": "memory MB",
        "most_temperature_c": "°C",
        "most_gpu_temperature_c": "GPU °C",
        "throttled": "throttled",
    }
    rows = section["rows"]
    if not deployed_rows(record, "sustained"):
        return _section("sustained", table(rows, columns))
    slowed = any(row.get("slowed_down") for row in rows)
    warning = '<p class="open">The last third was slower than the first by more than 10 %.</p>' if slowed else ""
    if all(row.get("last_to_first") is None for row in rows):
        warning = (
            '<p class="soft">Whether the machine slowed down was not measured: that takes a run of '
            f"{SHORTEST_S / 60:g} minute or more that fills {FEWEST_SLOTS} slots.</p>"
        )
    told = {key for row in rows for key in row if row[key] is not None}
    picture = figure(
        plots.sustained_picture(record), f"Rate in slots of {section['slot_seconds']:g} s, and what the sensors read"
    )
    known = facts(section["facts"]) if section["facts"] else ""
    silent = "" if "most_temperature_c" in told else "<p class='soft'>This machine reports no temperature.</p>"
    note = (
        f"<p>{lasted(record)} of files to a results file, in batches of "
        f"{record['options']['batch_size']}; the same {record['data']['timed_files']} files "
        f"({text(record['data']['source'])}) over and over, which the system keeps in memory. "
        "<em>cells/min</em>: all cells by all the time, slow parts too; <em>median slot</em>, <em>slowest</em> and "
        "<em>fastest</em>: of the slots. A cell's own time is its reading and its share of the batch.</p>"
    )
    shown = {key: title for key, title in columns.items() if key in told}
    return _section("sustained", f"{note}{warning}{table(rows, shown)}{_pictures(picture)}{known}{silent}")


def _cold_start(record: Record) -> str:
    columns = {
        **CASE,
        "starts": "starts",
        "median_s": "median s",
        "slowest_s": "slowest s",
        "peak_mb": "peak MB",
        "files": "files",
    }
    note = (
        "<p>A process of its own, from its start to its first row; peak resident memory while it classifies the "
        "files.</p>"
    )
    return _section("cold_start", note + table(record["sections"]["cold_start"]["rows"], columns))


def _scaling(record: Record) -> str:
    columns = {
        **CASE,
        "cpus": "CPUs",
        "measured": "measured",
        "cells": "cells at once",
        "p50_ms": "p50 ms",
        "cells_per_second": "cells/s",
        "agreed": "agreed",
    }
    section = record["sections"]["scaling"]
    picture = ""
    if measured_rows(record, "scaling"):
        picture = _pictures(figure(plots.cpu_picture(record), "Cells a second by CPUs"))
    note = "<p>The process may use that many CPUs and no more; for cells at once see latency.</p>"
    return _section("scaling", note + picture + table(section["rows"], columns))


def _peers(record: Record) -> str:
    section = record["sections"]["peers"]
    columns = {
        "peer": "peer",
        "cells_per_second": "cells/s",
        "ratio": "ratio",
        "lowest": "lowest",
        "highest": "highest",
        "largest_difference": "p_all differs by",
    }
    rows = section["rows"]
    if not any("ratio" in row for row in rows):
        return _section("peers", table(rows, columns))
    note = (
        f"<p>The same {section['files']} files and the same network ({text(section['case'])}) in {section['rounds']} "
        "rounds of all in turns. Ratio: time as a multiple of classify's in the same round, median, lowest "
        "and highest; above 1, classify is faster. <em>in turns</em>: a batch is read, then computed, then the next; "
        "<em>one by one</em>: so with each cell. <em>p_all differs by</em>: largest distance from classify's answers; "
        "Keras computes in the precision that it was trained in.</p>"
    )
    ran = [row for row in rows if row["status"] != SKIPPED]
    missing = [f"{row['peer']}: {row['reason']}" for row in rows if row["status"] == SKIPPED]
    absent = f"<p class='soft'>Not available:</p>{bullets(missing)}" if missing else ""
    picture = _pictures(figure(plots.peers_picture(record), "Bars: median; lines: range of the rounds"))
    return _section("peers", note + table(ran, columns) + picture + absent)


def _machine(record: Record) -> str:
    environment = record["environment"]
    flags = [flag for flag in INTERESTING_FLAGS if flag in environment["cpu_flags"]]
    gpus = "; ".join(", ".join(gpu.values()) for gpu in environment["gpus"]) or "none found"
    told = facts(
        {
            "CPU": f"{environment['cpu']}, {environment['cpus']} usable, {', '.join(flags)}",
            "GPU": gpus,
            "Memory": f"{environment['memory_gb']} GB",
            "System": environment["system"],
            "Python": environment["python"],
            "Code": f"allnet-edge {environment['code_version']}, commit {environment['code_commit'] or 'unknown'}",
            "Libraries": ", ".join(f"{name} {version}" for name, version in environment["library_versions"].items()),
            "Other load": ", ".join(
                f"{name.replace('_', ' ')} {share:.0%}" for name, share in record["load"]["others"].items()
            ),
            "Busiest before": ", ".join(
                f"{row['process']} {row['share']:.0%}" for row in record["load"]["processes_before"]
            )
            or "no other process",
            "bundle.json": environment["bundle_sha256"],
        }
    )
    variants = table(
        record["bundle"]["variants"], {"precision": "variant", "mb": "MB", "proved": "proved", "sha256": "SHA-256"}
    )
    options = folded("All options", facts(record["options"]))
    every_flag = folded("All CPU flags", f"<p class='soft'>{text(' '.join(environment['cpu_flags']))}</p>")
    left_out = record["data"]["left_out"]
    files = (
        folded(f"Files not timed: {len(left_out)}", bullets(f"{p}: {r}" for p, r in left_out.items()))
        if left_out
        else ""
    )
    return _section("machine", told + variants + files + options + every_flag)


def _section(name: str, content: str) -> str:
    return f'<section id="{name}"><h2>{TITLES[name]}</h2>\n{content}</section>\n'
