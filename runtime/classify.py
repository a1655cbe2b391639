"""python -m runtime.classify: images in, a results table out."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from runtime.classifier import Classifier
from runtime.classifier_arguments import add_classifier_arguments, classifier_options
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE, ArgumentParser, run_command
from runtime.demo import DEMO_CELLS
from runtime.errors import UsageError
from runtime.inputs import Inputs, find_inputs, read_list
from runtime.results import LiveResults, ResultsFile, check_results_name, columns
from runtime.schema import CLASSES, Prediction
from runtime.unfinished import UnfinishedResults, find_unfinished


@dataclass
class Summary:
    """Counts over one run; memory does not grow with the number of rows."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    review: int = 0  # of those
    errors: int = 0
    resumed: int = 0  # rows that an earlier run had made
    started: float = field(default_factory=time.perf_counter)

    def add(self, status: str, label: str) -> None:
        """Count one row."""
        if status == "error":
            self.errors += 1
        else:
            self.counts[label] += 1
            self.review += status == "review"

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return self.errors + sum(self.counts.values())

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.started
        counts = ", ".join(f"{self.counts[label]} {label}" for label in reversed(CLASSES))
        rate = (self.rows - self.resumed) / seconds if seconds else 0.0
        return (
            f"{self.rows} files in {seconds:.1f} s ({rate:.0f} a second): {counts}, {self.review} of them for review, "
            f"{self.errors} not readable"
        )


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.classify",
        description="Classify images of single white blood cells as ALL or healthy. For research, not a diagnosis.",
        epilog="Exit codes: 0 all files read; 1 nothing classified; 2 finished, but some files could not be read.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="image, folder with its sub-folders, or pattern")
    parser.add_argument("--list", metavar="FILE", help="names one path in each line; - for standard input")
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="of folders take these names, such as '*.bmp'"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv or .jsonl; default: CSV on standard output")
    add_classifier_arguments(parser)
    parser.add_argument(
        "--audit", action="store_true", help="add to each row the image's SHA-256, the time, and what classified it"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the --out of a run that was cut off")
    parser.add_argument("--demo", action="store_true", help="classify the drawn cells that come with the package")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Classify what the command line names; return the exit code."""
    options = build_parser().parse_args(arguments)
    inputs = requested_inputs(options)
    if options.out:
        check_results_name(options.out)
    elif options.resume:
        raise UsageError("expected the --out of the run that was cut off for --resume, received none")
    with Classifier(classifier_options(options, audit=options.audit)) as classifier:
        tell(f"{classifier.description}; ALL from p_all {classifier.threshold:g} on. For research, not a diagnosis.")
        summary = Summary()
        unfinished = unfinished_results(options, classifier)
        sink = results_sink(options, classifier)
        try:
            with sink:
                done = taken_over(unfinished, sink, summary)
                paths = without_done(inputs.paths, done)
                write_rows(classifier.classify(paths), sink, summary, total=len(paths))
        except KeyboardInterrupt:
            kept = f", kept in {sink.partial_path}: go on with --resume" if isinstance(sink, ResultsFile) else ""
            tell(f"interrupted: {summary}{kept}")
            return INTERRUPTED
    report(summary, inputs, options)
    return PARTLY_DONE if summary.errors else DONE


def requested_inputs(options: argparse.Namespace) -> Inputs:
    """Return the files that the command line names, or the drawn cells for --demo."""
    if options.demo and (options.paths or options.list):
        raise UsageError("expected either --demo or paths, received both; leave one away")
    if options.demo:
        return find_inputs([str(DEMO_CELLS)])
    if not options.paths and not options.list:
        raise UsageError("expected an image or a folder of images, received no path; or try --demo")
    return find_inputs(options.paths, read_list(options.list) if options.list else (), options.include)


def results_sink(options: argparse.Namespace, classifier: Classifier) -> ResultsFile | LiveResults:
    """Return where the rows go."""
    if options.out:
        return ResultsFile(options.out, run=run_of(options, classifier), audited=options.audit)
    return LiveResults(audited=options.audit)


def run_of(options: argparse.Namespace, classifier: Classifier) -> str:
    """Return a short hash of all that decides what a row says: rows of two runs with the same one may be mixed."""
    decides = (classifier.bundle.content_sha256, classifier.precision, classifier.threshold, options.audit)
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:8]


def unfinished_results(options: argparse.Namespace, classifier: Classifier) -> UnfinishedResults | None:
    """Return what a run that was cut off left, where --resume asks for it."""
    if not options.resume:
        return None
    unfinished = find_unfinished(options.out, run_of(options, classifier), columns(audited=options.audit))
    if unfinished is None:
        tell(f"no run was cut off that would have written {options.out}: all is classified")
    return unfinished


def taken_over(unfinished: UnfinishedResults | None, sink: ResultsFile | LiveResults, summary: Summary) -> Counter[str]:
    """Keep the rows of the run that was cut off; return how often each path stands in them."""
    done: Counter[str] = Counter()
    if unfinished and isinstance(sink, ResultsFile):
        for row in sink.take_over(unfinished):
            done[row["path"]] += 1
            summary.add(row["status"], row["label"])
        summary.resumed = summary.rows
        tell(f"{summary.resumed} rows of the run that was cut off are kept")
    return done


def without_done(paths: Sequence[str], done: Counter[str]) -> list[str]:
    """Return the paths that are still to be classified; one that is named twice gets two rows."""
    left: list[str] = []
    for path in paths:
        if done[path]:
            done[path] -= 1
        else:
            left.append(path)
    return left


def write_rows(
    predictions: Iterable[Prediction], sink: ResultsFile | LiveResults, summary: Summary, *, total: int
) -> None:
    """Write and count every prediction; show a progress bar on a terminal that does not show the table itself."""
    table_on_terminal = isinstance(sink, LiveResults) and sys.stdout.isatty()
    hidden = True if table_on_terminal else None  # None: tqdm hides it where standard error is no terminal
    for prediction in tqdm(predictions, total=total, unit="cell", disable=hidden, leave=False):
        sink.write(prediction)
        summary.add(prediction.status, prediction.label)


def report(summary: Summary, inputs: Inputs, options: argparse.Namespace) -> None:
    """Print the closing lines to standard error: counts, what was left out, what to run next."""
    tell(str(summary))
    if inputs.left_out:
        filtered = ", or not of the names in --include" if options.include else ""
        tell(f"{inputs.left_out} files of the folders were left out: hidden, beside images (such as .csv){filtered}")
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
