"""Two records beside each other: what got slower, larger or less accurate, judged by the spread of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.latency import FILE_TO_RESULT
from benchmarks.peers import CLASSIFY
from benchmarks.record import OK, Row
from benchmarks.rollout.record import Record
from benchmarks.windows import AGREEING
from train.comparison import delong, mcnemar

SIGNIFICANT = 0.05  # p-value below which a difference in accuracy is not chance
SAME, WITHIN, BETTER, WORSE = "same", "within the spread", "better", "WORSE"
GONE, OTHER_MACHINE, OTHER_FILES = "not measured any more", "other machine", "other files"


@dataclass(frozen=True)
class Measured:
    """A figure with the range that its repetitions span."""

    value: float
    low: float
    high: float
    more_is_better: bool = False
    of_files: bool = True  # it depends on which files are classified, and in which batches; the model alone does not


def compare(old: Record, new: Record, tolerance: float) -> list[Row]:
    """Return a row for each figure of the old record, and its verdict.

    A cost is WORSE where it grew by more than `tolerance` (a share) and the ranges of both records do not overlap. It
    is not judged where the machine is another, nor, unless it is the model's alone, where the files or batches are.
    Accuracy is WORSE where a test says so, McNemar's or DeLong's on the same cells, which take cells for independent,
    or where intervals lie apart; and where a variant passed its parity and does not any more.
    """
    is_other_machine, is_other_work = bool(other_machine(old, new)), bool(other_work(old, new))
    after = dict(costs(new))
    rows = []
    for name, before in dict(costs(old)).items():
        other = OTHER_MACHINE if is_other_machine else OTHER_FILES if is_other_work and before.of_files else ""
        rows.append(cost_row(name, before, after.get(name), tolerance, other))
    return [*rows, *accuracy_rows(old, new)]


def other_work(old: Record, new: Record) -> str:
    """Return in which ways the files and batches that were timed differ, on one line; nothing for the same."""
    before, after = _work(old), _work(new)
    return ", ".join(f"{key} {before[key]} and {after[key]}" for key in before if before[key] != after[key])


def _work(record: Record) -> dict[str, Any]:
    return {
        "files of": record["data"]["source"],
        "timed files": record["data"]["timed_files"],
        "batch size": record["options"]["batch_size"],
    }


def other_machine(old: Record, new: Record) -> str:
    """Return in which ways the machines differ, on one line; nothing for the same. Software may differ."""
    before, after = _machine(old), _machine(new)
    return ", ".join(f"{key} {before[key]} and {after[key]}" for key in before if before[key] != after[key])


def _machine(record: Record) -> dict[str, str]:
    environment = record["environment"]
    gpus = ", ".join(gpu["name"] for gpu in environment["gpus"]) or "none"
    return {"CPU": environment["cpu"], "CPUs": str(environment["cpus"]), "GPU": gpus}


def cost_row(name: str, old: Measured, new: Measured | None, tolerance: float, other: str = "") -> Row:
    """Judge one figure; `other` is the verdict where the two cannot be compared."""
    row: Row = {"figure": name, "old": text_of(old), "new": text_of(new) if new else "", "change": ""}
    if new is None:
        return row | {"verdict": GONE}
    change = new.value / old.value - 1 if old.value else 0.0
    row["change"] = f"{change:+.1%}"
    return row | {"verdict": other or cost_verdict(old, new, change, tolerance)}


def cost_verdict(old: Measured, new: Measured, change: float, tolerance: float) -> str:
    """Say whether a figure changed, by its range in both records."""
    if abs(change) <= tolerance:
        return SAME
    if new.low <= old.high and old.low <= new.high:
        return WITHIN
    return BETTER if (change > 0) == old.more_is_better else WORSE


def text_of(measured: Measured) -> str:
    """Return a figure with its range."""
    if measured.low == measured.high:
        return f"{measured.value:.4g}"
    return f"{measured.value:.4g} ({measured.low:.4g} to {measured.high:.4g})"


def costs(record: Record) -> Iterator[tuple[str, Measured]]:
    """Yield every figure of time, rate and memory by its name."""
    for row in measured_rows(record, "latency"):
        where = f"{row['backend']} {row['precision']}, {row['cells']} at once, {row['measured']}"
        windows = row["windows_ms"][-AGREEING:]
        is_model = row["measured"] != FILE_TO_RESULT
        yield f"{where}: p50 ms", over([float(np.median(window)) for window in windows], of_files=not is_model)
        if row["cells"] == 1 and row["measured"] == FILE_TO_RESULT:
            yield f"{where}: p95 ms", over([float(np.percentile(window, 95)) for window in windows])
    for row in measured_rows(record, "scaling"):
        name = f"{row['backend']} {row['precision']}, {row['cpus']} CPUs, {row['measured']}: cells a second"
        is_model = row["measured"] != FILE_TO_RESULT
        yield name, over(row["windows_cells_per_second"], more_is_better=True, of_files=not is_model)
    for row in measured_rows(record, "sustained"):
        rates = record["sections"]["sustained"]["cells_per_minute"]
        low, median, high = (float(value) for value in np.percentile(rates, [25, 50, 75]))
        yield (
            f"{row['backend']} {row['precision']}, sustained: cells a minute",
            Measured(median, low, high, more_is_better=True),
        )
    for row in measured_rows(record, "cold_start"):
        yield f"{row['backend']} {row['precision']}, cold start: s", over(row["starts_s"])
        yield f"{row['backend']} {row['precision']}: peak memory MB", over([row["peak_mb"]])
    for row in measured_rows(record, "peers"):
        if row["peer"] != CLASSIFY and "ratio" in row:
            name = f"classify, times as fast as {row['peer']}"
            yield name, Measured(row["ratio"], row["lowest"], row["highest"], more_is_better=True)


def measured_rows(record: Record, section: str) -> list[Row]:
    """Return the rows of a section that hold figures."""
    return [row for row in record["sections"].get(section, {}).get("rows", []) if row["status"] == OK]


def over(values: Sequence[float], *, more_is_better: bool = False, of_files: bool = True) -> Measured:
    """Return the median of repetitions and their range."""
    return Measured(float(np.median(values)), min(values), max(values), more_is_better, of_files)


def accuracy_rows(old: Record, new: Record) -> Iterator[Row]:
    """Yield a row for each metric of each case that the old record judged."""
    before, after = old["sections"]["parity"], new["sections"]["parity"]
    same_cells = sha256s(before) == sha256s(after)
    for name, proof in before.get("proofs", {}).items():
        if name not in after.get("proofs", {}):
            yield {"figure": f"{name}: accuracy", "old": "", "new": "", "change": "", "verdict": GONE}
            continue
        if not proof["failures"] and after["proofs"][name]["failures"]:
            found = "; ".join(after["proofs"][name]["failures"])
            yield {"figure": f"{name}: parity", "old": "passed", "new": found, "change": "", "verdict": WORSE}
        tested = paired_verdicts(before, after, name) if same_cells else {}
        for metric in ("sensitivity", "specificity", "auc"):
            own, other = before["metrics"][name][metric], after["metrics"][name][metric]
            yield {
                "figure": f"{name}: {metric}",
                "old": interval_text(own),
                "new": interval_text(other),
                "change": f"{other['value'] - own['value']:+.4f}",
                "verdict": accuracy_verdict(tested.get(metric), unpaired_verdict(own, other)),
            }


def sha256s(parity: dict[str, Any]) -> list[tuple[str, int]]:
    """Return which cells were judged, in their order."""
    return [(cell["sha256"], cell["label"]) for cell in parity.get("cells", [])]


def paired_verdicts(old: dict[str, Any], new: dict[str, Any], name: str) -> dict[str, str]:
    """Test the answers of both records to the same cells; a metric whose test is not defined is left out."""
    labels = np.array([cell["label"] == 1 for cell in old["cells"]])
    first, second = (np.array(parity["answers"][name]) for parity in (old, new))
    called = [answers >= parity["threshold"] for answers, parity in ((first, old), (second, new))]
    verdicts = {}
    for metric, chosen in (("sensitivity", labels), ("specificity", ~labels)):
        test = mcnemar(labels[chosen], called[0][chosen], called[1][chosen])
        verdicts[metric] = _tested(test.only_second - test.only_first, test.p_value)
    areas = delong(labels, first, second)
    if not np.isnan(areas.p_value):
        verdicts["auc"] = _tested(-areas.difference, areas.p_value)
    return verdicts


def accuracy_verdict(tested: str | None, by_intervals: str) -> str:
    """Return the test's verdict where there is one; on so few cells that no test finds anything, the intervals may."""
    return by_intervals if tested is None or (tested, by_intervals) == (WITHIN, WORSE) else tested


def unpaired_verdict(old: Row, new: Row) -> str:
    """Judge a metric on other cells by its intervals."""
    if new["low"] <= old["high"] and old["low"] <= new["high"]:
        return SAME if old["value"] == new["value"] else WITHIN
    return BETTER if new["value"] > old["value"] else WORSE


def interval_text(interval: Row) -> str:
    """Return a metric with its interval."""
    return f"{interval['value']:.4f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _tested(gain: float, p_value: float) -> str:
    if gain == 0:
        return SAME
    if not p_value < SIGNIFICANT:
        return WITHIN
    return BETTER if gain > 0 else WORSE
