"""Two records beside each other: what got slower, larger or less accurate, judged by the spread of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.latency import FILE_TO_RESULT
from benchmarks.peers import CLASSIFY
from benchmarks.record import Row
from benchmarks.rollout.busy import BUSY_SHARE
from benchmarks.rollout.record import RATES, Record, case_name, measured_rows
from runtime.outcomes import nouns
from runtime.table_text import column_texts
from train.comparison import delong, mcnemar
from train.metrics import is_called_all

SIGNIFICANT = 0.05  # corrected p-value below which a difference in accuracy is not chance
SAME, WITHIN, BETTER, WORSE = "same", "within the spread", "better", "WORSE"
UNTOLD = "cannot be told"
GONE, OTHER_MACHINE, OTHER_FILES = "no longer measured", "other machine", "other files"
PEER_CHANGED = "shown, not judged"  # the ratio to a peer, which changes where the peer does too


@dataclass(frozen=True)
class Measured:
    """A figure with the range that its repetitions span."""

    value: float
    low: float
    high: float
    more_is_better: bool = False
    of_files: bool = True  # it depends on the files and their batches, as the model alone does not
    part: str = ""  # of the rollout, during which other work on the machine would change it; empty: none would
    has_range: bool = True  # False: what repeats with a spread was measured once
    of_peer: bool = False  # how classify compares with something that is not deployed


def compare(old: Record, new: Record, tolerance: float, again: Sequence[Record] = ()) -> list[Row]:
    """Return a row for each figure of the old record, and its verdict; `again` are more records of what `old` is of.

    A cost is WORSE where it grew by more than `tolerance` (a share) and the ranges of both records do not overlap. It
    is not judged on another machine nor, unless it is the model's alone, with other files or batches. It cannot be told
    where starts were measured once, or where other work on the machine may have slowed it: in the new record what is
    worse, in the old one what is better. The ratio to a peer is shown where it changed, but not judged: a faster peer
    makes nothing slower, and where classify became slower its own times say so.

    Accuracy is WORSE where a test says so (McNemar's or DeLong's on the same cells, which treat cells as independent),
    where intervals do not overlap, and where a variant no longer passes its parity. The p-values of one comparison are
    corrected together: of many tests some would find something by chance.
    """
    is_other_machine, is_other_work = bool(other_machine(old, new)), bool(other_work(old, new))
    after = dict(costs(new))
    repeated = [dict(costs(record)) for record in again]
    rows = []
    for name, measured in dict(costs(old)).items():
        before = together([measured, *(figures[name] for figures in repeated if name in figures)])
        other = OTHER_MACHINE if is_other_machine else OTHER_FILES if is_other_work and before.of_files else ""
        row = cost_row(name, before, after.get(name), tolerance, other)
        slower = {WORSE: [new], BETTER: [old, *again]}.get(row["verdict"], [])
        if before.of_peer and row["verdict"] in (WORSE, BETTER, GONE):
            row["verdict"] = PEER_CHANGED
        elif slower and (
            any(before.part in busy_parts(record) for record in slower)
            or not (before.has_range and after[name].has_range)
        ):
            row["verdict"] = UNTOLD
        rows.append(row)
    return [*rows, *accuracy_rows(old, new)]


def busy_parts(record: Record) -> set[str]:
    """Return the parts of a rollout during which other processes took much of the machine."""
    return {part for part, share in record["load"]["others"].items() if share >= BUSY_SHARE}


def other_work(old: Record, new: Record) -> str:
    """Return how the files and batches that were timed differ, on one line; empty for the same."""
    return _differences(_work(old), _work(new))


def _work(record: Record) -> dict[str, Any]:
    return {
        "files of": record["data"]["source"],
        "timed files": record["data"]["timed_files"],
        "batch size": record["options"]["batch_size"],
    }


def other_machine(old: Record, new: Record) -> str:
    """Return how the machines differ, on one line; empty for the same. Software may differ."""
    return _differences(_machine(old), _machine(new))


def _machine(record: Record) -> dict[str, str]:
    environment = record["environment"]
    gpus = ", ".join(gpu["name"] for gpu in environment["gpus"]) or "none"
    return {"CPU": environment["cpu"], "CPUs": str(environment["cpus"]), "GPU": gpus}


def _differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    return ", ".join(f"{key} {before[key]} and {after[key]}" for key in before if before[key] != after[key])


def cost_row(name: str, old: Measured, new: Measured | None, tolerance: float, other: str = "") -> Row:
    """Judge one figure; `other` is the verdict where the two cannot be compared."""
    row: Row = {"figure": name, "old": text_of(old), "new": text_of(new) if new else "", "change": "", "p": ""}
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
    value, low, high = column_texts([measured.value, measured.low, measured.high])
    return value if low == high else f"{value} ({low} to {high})"


def costs(record: Record) -> Iterator[tuple[str, Measured]]:
    """Yield every figure of time, rate and memory by its name."""
    for row in measured_rows(record, "latency"):
        where = f"{case_name(row)}, {row['cells']} at once, {row['measured']}"
        windows = row["windows_ms"]
        is_model = row["measured"] != FILE_TO_RESULT
        medians = [float(np.median(window)) for window in windows]
        yield f"{where}: p50 ms", over(medians, "latency", of_files=not is_model)
        if row["cells"] == 1 and row["measured"] == FILE_TO_RESULT:
            yield f"{where}: p95 ms", over([float(np.percentile(window, 95)) for window in windows], "latency")
    for row in measured_rows(record, "scaling"):
        name = f"{case_name(row)}, {row['cpus']} {nouns(row['cpus'], 'CPU')}, {row['measured']}: cells a second"
        is_model = row["measured"] != FILE_TO_RESULT
        yield name, over(row["windows_cells_per_second"], "scaling", more_is_better=True, of_files=not is_model)
    for row in measured_rows(record, "sustained"):
        rates = record["sections"]["sustained"]["cells_per_minute"]
        yield f"{case_name(row)}, sustained: cells a minute", overall(row["cells_per_minute"], rates)
    for row in measured_rows(record, "cold_start"):
        has_range = len(row["starts_s"]) > 1
        yield f"{case_name(row)}, cold start: s", replace(over(row["starts_s"], "cold_start"), has_range=has_range)
        yield f"{case_name(row)}: peak memory MB", replace(over(row["peaks_mb"]), has_range=has_range)
    for row in measured_rows(record, "peers"):
        if row["peer"] != CLASSIFY and "ratio" in row:
            name = f"classify, times as fast as {row['peer']}"
            yield name, Measured(row["ratio"], row["lowest"], row["highest"], of_peer=True)


def judged_figures(record: Record) -> set[str]:
    """Return the names of a record's figures of cost, and of the cases whose accuracy it judged."""
    return {*dict(costs(record)), *record["sections"]["parity"].get("proofs", {})}


def over(values: Sequence[float], part: str = "", *, more_is_better: bool = False, of_files: bool = True) -> Measured:
    """Return the median of repetitions and their range."""
    return Measured(float(np.median(values)), min(values), max(values), more_is_better, of_files, part)


def together(repeated: Sequence[Measured]) -> Measured:
    """Return a figure of several records as one, whose range spans theirs: a machine may be slow for minutes."""
    return replace(
        repeated[0],
        value=float(np.median([measured.value for measured in repeated])),
        low=min(measured.low for measured in repeated),
        high=max(measured.high for measured in repeated),
        has_range=len(repeated) > 1 or repeated[0].has_range,
    )


def overall(rate: float, slots: Sequence[float]) -> Measured:
    """Return the rate of a whole run, slow parts too, with the range that chance leaves it: two standard errors.

    Chance is what a slot differs by from the next (the mean square successive difference, von Neumann 1941): a device
    that throttles halfway differs once, so that its run does not span a range into which any rate would fit.
    """
    if len(slots) < 2:
        return Measured(rate, rate, rate, more_is_better=True, part="sustained")
    error = float(np.sqrt(np.mean(np.square(np.diff(slots))) / 2 / len(slots)))
    return Measured(rate, rate - 2 * error, rate + 2 * error, more_is_better=True, part="sustained")


def accuracy_rows(old: Record, new: Record) -> Iterator[Row]:
    """Yield a row for each metric of each case that the old record judged."""
    before, after = old["sections"]["parity"], new["sections"]["parity"]
    both = [name for name in before.get("proofs", {}) if name in after.get("proofs", {})]
    tests = corrected_tests(before, after, both) if sha256s(before) == sha256s(after) else {}
    for name, proof in before.get("proofs", {}).items():
        if name not in after.get("proofs", {}):
            yield {"figure": f"{name}: accuracy", "old": "", "new": "", "change": "", "p": "", "verdict": GONE}
            continue
        if not proof["failures"] and after["proofs"][name]["failures"]:
            found = "; ".join(after["proofs"][name]["failures"])
            yield {"figure": f"{name}: parity", "old": "passed", "new": found, "change": "", "p": "", "verdict": WORSE}
        for metric in RATES:
            own, other = before["metrics"][name][metric], after["metrics"][name][metric]
            test = tests.get((name, metric))
            yield {
                "figure": f"{name}: {metric}",
                "old": interval_text(own),
                "new": interval_text(other),
                "change": f"{other['value'] - own['value']:+.4f}",
                "p": f"{test.p_value:.3g}" if test else "",
                "verdict": accuracy_verdict(test.verdict if test else None, unpaired_verdict(own, other)),
            }


def sha256s(parity: dict[str, Any]) -> list[tuple[str, int]]:
    """Return which cells were judged, in their order."""
    return [(cell["sha256"], cell["label"]) for cell in parity.get("cells", [])]


@dataclass(frozen=True)
class PairedTest:
    """What a test on the same cells says of a metric."""

    gain: float  # above 0 where the new record is better
    p_value: float  # two-sided

    @property
    def verdict(self) -> str:
        """Whether the metric changed by more than chance."""
        if self.gain == 0:
            return SAME
        if not self.p_value < SIGNIFICANT:
            return WITHIN
        return BETTER if self.gain > 0 else WORSE


def corrected_tests(
    old: dict[str, Any], new: dict[str, Any], names: Sequence[str]
) -> dict[tuple[str, str], PairedTest]:
    """Test each metric of each case, by both, with p-values that are corrected for all of them.

    A test that is not defined, whose p-value is NaN, takes no part and is left out.
    """
    tests = {
        (name, metric): test
        for name in names
        for metric, test in paired_tests(old, new, name).items()
        if not math.isnan(test.p_value)
    }
    p_values = holm([test.p_value for test in tests.values()])
    return {key: replace(test, p_value=p) for (key, test), p in zip(tests.items(), p_values, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of tests that are judged together, however they depend on each other.

    The smallest of m counts m-fold, the next (m - 1)-fold, and none less than one before it: where there is nothing to
    find, any is below a level in at most that share of the comparisons (Holm 1979).
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(p) for p in corrected]


def paired_tests(old: dict[str, Any], new: dict[str, Any], name: str) -> dict[str, PairedTest]:
    """Test the answers of both records to the same cells, by metric; p-values are as each test alone gives them."""
    labels = np.array([cell["label"] == 1 for cell in old["cells"]])
    first, second = (np.array(parity["answers"][name]) for parity in (old, new))
    called = [is_called_all(answers, parity["threshold"]) for answers, parity in ((first, old), (second, new))]
    tests = {}
    for metric, chosen in (("sensitivity", labels), ("specificity", ~labels)):
        test = mcnemar(labels[chosen], called[0][chosen], called[1][chosen])
        tests[metric] = PairedTest(test.only_second - test.only_first, test.p_value)
    areas = delong(labels, first, second)
    return {**tests, "auc": PairedTest(-areas.difference, areas.p_value)}


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
