"""python -m benchmarks.compare: records of benchmarks.rollout, and what got slower or less accurate."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.command_line import import_quietly

    import_quietly()

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.record import Row
from benchmarks.rollout.budget import judge_budget, read_budget
from benchmarks.rollout.comparison import (
    BETTER,
    GONE,
    OTHER_FILES,
    OTHER_MACHINE,
    PEER_CHANGED,
    UNTOLD,
    WORSE,
    compare,
    judged_figures,
    other_machine,
    other_work,
    sha256s,
)
from benchmarks.rollout.record import Record, case_name, read
from runtime.command_line import DONE, PARTLY_DONE, REFUSED, ArgumentParser, positive_float, print_table, run_command
from runtime.errors import UsageError
from train.comparison import CELLS_AS_INDEPENDENT

DEFAULT_TOLERANCE = 0.10
QUICK_TOLERANCE = 0.50  # of moments: two quick records of one bundle on a quiet machine differed by up to a third
JUDGED = (WORSE, BETTER, UNTOLD, GONE)


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Compare records of benchmarks.rollout. A time is worse if it grew by more than the tolerance "
        "and the ranges of its repetitions do not overlap; a machine may be slow for minutes, which several records of "
        "the old bundle, taken before and after the new one, show as a wider range. Accuracy is worse if a test on the "
        "same cells says so, with "
        "p corrected for all tests of the comparison (Holm), if intervals do not overlap, or if a variant no longer "
        "passes its parity. Ratios to the peers are shown where they changed, but not judged.",
        epilog="Exit codes: 0 nothing is worse; 1 something is, or a limit of the budget is not kept, or the records "
        "cannot be read; 2 nothing is worse, but something cannot be told, since other work on the machine may have "
        "slowed it or it was measured only once, or is no longer measured.",
    )
    parser.add_argument(
        "old",
        type=Path,
        nargs="+",
        metavar="OLD",
        help="record.json, or the folder that holds it; several of one bundle are taken together, for their accuracy "
        "the first alone",
    )
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument(
        "--tolerance",
        type=positive_float,
        metavar="SHARE",
        help=f"change of a time, rate or memory that is ignored; default {DEFAULT_TOLERANCE:g}, with a record of "
        f"--quick {QUICK_TOLERANCE:g}",
    )
    parser.add_argument("--budget", type=Path, metavar="FILE", help="limits that the new record must keep to")
    parser.add_argument("--all", action="store_true", help="show all rows, not only those that changed")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the tables, return the exit code."""
    options = build_parser().parse_args(arguments)
    budget = read_budget(options.budget) if options.budget else None
    (old, *again), new = map(read, options.old), read(options.new)
    check_repeated(old, again)
    is_quick = any(record["options"]["quick"] for record in (old, *again, new))
    tolerance = options.tolerance or (QUICK_TOLERANCE if is_quick else DEFAULT_TOLERANCE)
    for line in cautions(old, new, again):
        print(line)
    if is_quick:
        print(f"--quick times for moments: a time, rate or memory counts as changed only beyond {tolerance:.0%}")
    rows = compare(old, new, tolerance, again)
    shown = [row for row in rows if options.all or row["verdict"] in (*JUDGED, PEER_CHANGED)]
    if shown:
        print_table(shown)
    print(summary([row["verdict"] for row in rows]))
    limits = judge_budget(budget, new) if budget else []
    if limits:
        print_table(limits)
    return exit_code(rows, limits)


def summary(verdicts: Sequence[str]) -> str:
    """Return how many rows have each verdict; what was not judged does not count as unchanged."""
    count = {verdict.lower(): verdicts.count(verdict) for verdict in JUDGED}
    if changed := verdicts.count(PEER_CHANGED):
        count["changed beside a peer (not judged)"] = changed
    if not_judged := sum(verdicts.count(verdict) for verdict in (OTHER_MACHINE, OTHER_FILES)):
        count["not judged (--all shows them)"] = not_judged
    count["unchanged"] = len(verdicts) - sum(count.values())
    return ", ".join(f"{number} {verdict}" for verdict, number in count.items())


def exit_code(rows: list[Row], limits: list[Row]) -> int:
    """Return the code that the help promises."""
    verdicts = {row["verdict"] for row in rows}
    if WORSE in verdicts or not all(row["kept"] for row in limits):
        return REFUSED
    return PARTLY_DONE if verdicts & {UNTOLD, GONE} else DONE


def check_repeated(old: Record, again: Sequence[Record]) -> None:
    """Raise UsageError where the old records are not of one bundle on one machine, measured with the same options."""
    for record in again:
        found = [*differences(old, record)]
        if old["bundle"]["content_sha256"] != record["bundle"]["content_sha256"]:
            found.append("The bundles differ")
        if found:
            raise UsageError(
                f"expected the records before the last to be of one bundle on one machine, found: {found[0]}; "
                "leave the others out"
            )


def cautions(old: Record, new: Record, again: Sequence[Record] = ()) -> list[str]:
    """Return what a reader of the comparison must know, a line each."""
    lines = [*differences(old, new)]
    minutes = [record["options"]["sustained_minutes"] for record in (old, new)]
    if minutes[0] != minutes[1]:
        lines.append(
            f"The sustained runs lasted {minutes[0]:g} and {minutes[1]:g} minutes: a machine may slow down later"
        )
    for name, record in (*(("old", record) for record in (old, *again)), ("new", new)):
        if record["load"]["busy"]:
            most = max(record["load"]["others"].values())
            lines.append(
                f"While the {name} record was taken, other processes took up to {most:.0%} of the machine, which may "
                "be why something is slower in it"
            )
    if added := len(judged_figures(new) - judged_figures(old)):
        lines.append(f"{added} figures of the new record were not measured for the old one: they are not compared")
    if old["options"]["quick"] != new["options"]["quick"]:
        lines.append("One record was taken with --quick and the other was not")
    if old["bundle"]["content_sha256"] == new["bundle"]["content_sha256"]:
        lines.append("Both records are of the same bundle: what differs is the machine's or its software's doing")
    old_cells, new_cells = (sha256s(record["sections"]["parity"]) for record in (old, new))
    if old_cells and old_cells == new_cells:
        lines.append(f"Accuracy is tested on the same cells: {CELLS_AS_INDEPENDENT}")
    return lines


def differences(old: Record, new: Record) -> Iterator[str]:
    """Yield how the two records differ in what they measured, so that some figures are not compared."""
    if machines := other_machine(old, new):
        yield f"The machines differ ({machines}): times are not judged"
    if work := other_work(old, new):
        yield f"What was timed differs ({work}): only the model's own times are judged"
    before, after = case_name(old["deployed"]), case_name(new["deployed"])
    if before != after:
        yield f"What is deployed differs ({before} and {after}): so does what ran for long and beside peers"


if __name__ == "__main__":
    run_command(main)
