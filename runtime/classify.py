"""python -m runtime.classify: images in, a results table out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from runtime.backends.select import BACKENDS
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import DEFAULT_BATCH_SIZE, Classifier, ClassifierOptions
from runtime.command_line import (
    DONE,
    INTERRUPTED,
    PARTLY_DONE,
    ArgumentParser,
    batch_size,
    positive_int,
    print_table,
    probability,
    run_command,
)
from runtime.contact_sheet import MOST_SHOWN, ContactSheet, Origin, check_page_name
from runtime.demo import DEMO_CELLS
from runtime.errors import UsageError
from runtime.files import refuse_unwritable
from runtime.groups import DEFAULT_MIN_CELLS, GROUPINGS, GroupCounts, groups_path
from runtime.inputs import Inputs, find_inputs
from runtime.results import LiveResults, ResultsFile, check_results_name
from runtime.schema import CLASSES, PRECISIONS, Prediction


class Collector(Protocol):
    """What is told of every row and remembers what it needs."""

    def add(self, prediction: Prediction) -> None: ...  # noqa: D102


@dataclass
class Summary:
    """Counts over one run; memory does not grow with the number of rows."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    errors: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, prediction: Prediction) -> None:
        """Count one row."""
        if prediction.status == "error":
            self.errors += 1
        else:
            self.counts[prediction.label] += 1

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return self.errors + sum(self.counts.values())

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.started
        counts = ", ".join(f"{self.counts[label]} {label}" for label in reversed(CLASSES))
        rate = self.rows / seconds if seconds else 0.0
        return f"{self.rows} files in {seconds:.1f} s ({rate:.0f} a second): {counts}, {self.errors} not readable"


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.classify",
        description="Classify images of single white blood cells as ALL or healthy. For research, not a diagnosis.",
        epilog="Exit codes: 0 all files read; 1 nothing classified; 2 finished, but some files could not be read.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="image, or folder with its sub-folders")
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="default: the model of the package")
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv or .jsonl; default: CSV on standard output")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")
    parser.add_argument("--batch-size", type=batch_size, default=DEFAULT_BATCH_SIZE, metavar="N")
    parser.add_argument(
        "--threshold", type=probability, metavar="T", help="ALL from this p_all on; default: the bundle's"
    )
    parser.add_argument(
        "--unproved", action="store_true", help="use a variant even if it failed against the Keras model"
    )
    parser.add_argument(
        "--group-by",
        choices=GROUPINGS,
        help="roll the cells up by the subject in their C-NMC names, or by folder: a table after the run, and with "
        "--out results.csv the file results.subjects.csv or results.folders.csv beside it",
    )
    parser.add_argument(
        "--min-cells",
        type=positive_int,
        metavar="N",
        help=f"with --group-by: claim no share of ALL for a group of fewer cells; default: {DEFAULT_MIN_CELLS}",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help=f".html: one page with a picture of each cell, sorted by p_all; of {MOST_SHOWN} where there are more",
    )
    parser.add_argument("--demo", action="store_true", help="classify the drawn cells that come with the package")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Classify what the command line names; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_outputs(options)
    inputs = requested_inputs(options)
    with Classifier(classifier_options(options)) as classifier:
        tell(f"{classifier.description}; ALL from p_all {classifier.threshold:g} on. For research, not a diagnosis.")
        summary = Summary()
        groups = requested_groups(options)
        sheet = ContactSheet(options.html, Origin.of(classifier)) if options.html else None
        collectors: list[Collector] = [each for each in (summary, groups, sheet) if each]
        sink = ResultsFile(options.out) if options.out else LiveResults()
        try:
            with sink:
                write_rows(classifier.classify(inputs.paths), sink, collectors, total=len(inputs.paths))
        except KeyboardInterrupt:
            kept = f", kept in {sink.partial_path}" if isinstance(sink, ResultsFile) else ""
            tell(f"interrupted: {summary}{kept}")
            return INTERRUPTED
    tell(str(summary))
    if groups:
        report_groups(groups, options.out)
    if sheet:
        sheet.write()
        tell(f"Contact sheet: {sheet.path}")
    report(inputs, options)
    return PARTLY_DONE if summary.errors else DONE


def check_outputs(options: argparse.Namespace) -> None:
    """Raise UsageError or OutputError where what is to be written cannot be, or would be of no use."""
    if options.out:
        check_results_name(options.out)
    if options.html:
        check_page_name(options.html)
    if options.min_cells and not options.group_by:
        raise UsageError("expected --group-by with --min-cells, received none; add --group-by subject, or folder")


def requested_groups(options: argparse.Namespace) -> GroupCounts | None:
    """Return empty counts for the roll-up that --group-by asks for; raise OutputError where its file cannot be."""
    if not options.group_by:
        return None
    if options.out:
        refuse_unwritable(groups_path(options.out, options.group_by))
    return GroupCounts(options.group_by, options.min_cells or DEFAULT_MIN_CELLS)


def classifier_options(options: argparse.Namespace) -> ClassifierOptions:
    """Take from the command line what the classifier needs."""
    return ClassifierOptions(
        bundle=options.bundle,
        backend=options.backend,
        precision=options.precision,
        batch_size=options.batch_size,
        threshold=options.threshold,
        unproved=options.unproved,
    )


def requested_inputs(options: argparse.Namespace) -> Inputs:
    """Return the files that the command line names, or the drawn cells for --demo."""
    if options.demo and options.paths:
        raise UsageError("expected either --demo or paths, received both; leave one away")
    if options.demo:
        return find_inputs([str(DEMO_CELLS)])
    if not options.paths:
        raise UsageError("expected an image or a folder of images, received no path; or try --demo")
    return find_inputs(options.paths)


def write_rows(
    predictions: Iterable[Prediction],
    sink: ResultsFile | LiveResults,
    collectors: Sequence[Collector],
    *,
    total: int,
) -> None:
    """Write every prediction and hand it to the collectors.

    A progress bar shows on a terminal that does not show the table itself.
    """
    table_on_terminal = isinstance(sink, LiveResults) and sys.stdout.isatty()
    hidden = True if table_on_terminal else None  # None: tqdm hides it where standard error is no terminal
    for prediction in tqdm(predictions, total=total, unit="cell", disable=hidden, leave=False):
        sink.write(prediction)
        for collector in collectors:
            collector.add(prediction)


def report(inputs: Inputs, options: argparse.Namespace) -> None:
    """Print the closing lines to standard error: what was left out, where the results are, what to run next."""
    if inputs.left_out:
        tell(f"{inputs.left_out} hidden or companion files (such as .csv) were left out")
    if options.demo:
        tell("These cells were drawn: what a model that was fitted on photographs says of them means nothing.")
        tell("Next: python -m runtime.classify FOLDER --out results.csv")
    elif options.out:
        tell(f"Results: {options.out}. Next: python -m benchmarks.latency --bundle {options.bundle} times this machine")
    else:
        tell("Next: add --out results.csv to keep the table")


def report_groups(groups: GroupCounts, results: Path | None) -> None:
    """Print the roll-up to standard error and, beside a results file, write it."""
    print_table(groups.table(), sys.stderr)
    for note in groups.notes():
        tell(note)
    if results:
        path = groups_path(results, groups.by)
        groups.write(path)
        tell(f"Roll-up: {path}")


def tell(line: str) -> None:
    """Print a line for people; standard output is the table's."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
