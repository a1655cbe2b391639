"""python -m runtime.classify: images in, a results table out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from runtime.classifier import Classifier
from runtime.classifier_arguments import add_classifier_arguments, classifier_options
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE, ArgumentParser, run_command
from runtime.demo import DEMO_CELLS
from runtime.errors import UsageError
from runtime.inputs import Inputs, find_inputs
from runtime.results import LiveResults, ResultsFile, check_results_name
from runtime.schema import CLASSES, Prediction


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
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv or .jsonl; default: CSV on standard output")
    add_classifier_arguments(parser)
    parser.add_argument("--demo", action="store_true", help="classify the drawn cells that come with the package")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Classify what the command line names; return the exit code."""
    options = build_parser().parse_args(arguments)
    inputs = requested_inputs(options)
    if options.out:
        check_results_name(options.out)
    with Classifier(classifier_options(options)) as classifier:
        tell(f"{classifier.description}; ALL from p_all {classifier.threshold:g} on. For research, not a diagnosis.")
        summary = Summary()
        sink = ResultsFile(options.out) if options.out else LiveResults()
        try:
            with sink:
                write_rows(classifier.classify(inputs.paths), sink, summary, total=len(inputs.paths))
        except KeyboardInterrupt:
            kept = f", kept in {sink.partial_path}" if isinstance(sink, ResultsFile) else ""
            tell(f"interrupted: {summary}{kept}")
            return INTERRUPTED
    report(summary, inputs, options)
    return PARTLY_DONE if summary.errors else DONE


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
    predictions: Iterable[Prediction], sink: ResultsFile | LiveResults, summary: Summary, *, total: int
) -> None:
    """Write and count every prediction; show a progress bar on a terminal that does not show the table itself."""
    table_on_terminal = isinstance(sink, LiveResults) and sys.stdout.isatty()
    hidden = True if table_on_terminal else None  # None: tqdm hides it where standard error is no terminal
    for prediction in tqdm(predictions, total=total, unit="cell", disable=hidden, leave=False):
        sink.write(prediction)
        summary.add(prediction)


def report(summary: Summary, inputs: Inputs, options: argparse.Namespace) -> None:
    """Print the closing lines to standard error: counts, what was left out, what to run next."""
    tell(str(summary))
    if inputs.left_out:
        tell(f"{inputs.left_out} hidden or companion files (such as .csv) were left out")
    if options.demo:
        tell("These cells were drawn: what a model that was fitted on photographs says of them means nothing.")
        tell("Next: python -m runtime.classify FOLDER --out results.csv")
    elif options.out:
        tell(f"Results: {options.out}. Next: python -m benchmarks.latency --bundle {options.bundle} times this machine")
    else:
        tell("Next: add --out results.csv to keep the table")


def tell(line: str) -> None:
    """Print a line for people; standard output is the table's."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
