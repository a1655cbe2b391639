"""python -m runtime.classify: images in, a results table out."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.command_line import import_quietly

    import_quietly()

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from runtime.cell_names import printable, shell_word
from runtime.classifier import Classifier
from runtime.classifier_arguments import classifier_options
from runtime.classify_arguments import build_parser, check_outputs, requested_inputs
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE, print_table, run_command, tell
from runtime.contact_sheet import ContactSheet, Origin
from runtime.errors import OutputError, UsageError
from runtime.explanation_folder import ExplanationFolder
from runtime.files import refuse_unwritable
from runtime.groups import DEFAULT_MIN_CELLS, GroupCounts, groups_path
from runtime.inputs import Inputs, left_out_text
from runtime.outcomes import nouns
from runtime.progress import with_progress
from runtime.results import LiveResults, ResultsFile, columns
from runtime.schema import Prediction
from runtime.shift import ShiftCheck
from runtime.summary import Summary
from runtime.unfinished import UnfinishedResults, find_unfinished

MOST_EMPTY_TOLD = 20  # folders without images
MOST_PRINTED = 40  # groups on the screen, where the roll-up's file has them all


class Collector(Protocol):
    """What is told of every row and remembers what it needs."""

    def add(self, prediction: Prediction) -> None: ...  # noqa: D102


def main(arguments: list[str] | None = None) -> int:
    """Classify what the command line names; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_outputs(options)
    inputs = requested_inputs(options)
    tell_empty(inputs.empty)
    with Classifier(classifier_options(options, audit=options.audit)) as classifier:
        tell(f"{classifier.description}; ALL from p_all {classifier.threshold:g} on. For research, not a diagnosis.")
        summary = Summary()
        groups = requested_groups(options)
        shift = ShiftCheck(classifier.manifest.typical.subjects)
        sheet = ContactSheet(options.html, Origin.of(classifier), shift) if options.html else None
        explanations = ExplanationFolder(options.explain, classifier) if options.explain else None
        collectors: list[Collector] = [each for each in (summary, shift, groups, sheet, explanations) if each]
        unfinished = unfinished_results(options, classifier)
        sink = results_sink(options, classifier)
        try:
            with sink:
                done = taken_over(unfinished, sink, collectors)
                summary.resumed = summary.rows
                paths = [path for path in inputs.paths if path not in done]
                if others := len(done.difference(inputs.paths)):
                    tell(f"kept rows of files that this command line does not name: {others}")
                write_rows(classifier.classify(paths), sink, collectors, total=len(paths))
                finished = str(summary)
                # This takes long; as long as the table has no name, a run cut off here continues with --resume.
                is_shown = not sheet or try_write(sheet.write)
        except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C, SIGTERM
            kept = f", kept in {sink.partial_path}: continue with --resume" if isinstance(sink, ResultsFile) else ""
            tell(f"interrupted: {summary}{kept}")
            if isinstance(stop, SystemExit):
                raise
            return INTERRUPTED
    tell(finished)
    if warning := shift.warning:
        tell(warning)
    is_rolled_up = not groups or try_write(partial(report_groups, groups, options.out))
    if sheet and is_shown:
        tell(f"Contact sheet: {sheet.path}")
    is_explained = not explanations or try_write(partial(report_explanations, explanations))
    report(inputs, options)
    is_complete = is_rolled_up and is_shown and is_explained and not summary.errors
    return DONE if is_complete else PARTLY_DONE


def tell_empty(names: Sequence[str]) -> None:
    """Say which folders hold nothing to classify, a line for each up to MOST_EMPTY_TOLD."""
    for name in names[:MOST_EMPTY_TOLD]:
        tell(f"no images in {printable(name)}")
    if len(names) > MOST_EMPTY_TOLD:
        more = len(names) - MOST_EMPTY_TOLD
        tell(f"no images in {more} more {nouns(more, 'folder')} of those that were named")


def requested_groups(options: argparse.Namespace) -> GroupCounts | None:
    """Return empty counts for the roll-up that --group-by asks for; raise OutputError if its file cannot be written."""
    if not options.group_by:
        return None
    if options.out:
        refuse_unwritable(groups_path(options.out, options.group_by))
    return GroupCounts(options.group_by, options.min_cells or DEFAULT_MIN_CELLS)


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
    """Return what a run that was cut off left, where --resume asks for it; raise UsageError after a finished one."""
    if not options.resume:
        return None
    unfinished = find_unfinished(options.out, run_of(options, classifier), columns(audited=options.audit))
    if unfinished is None and options.out.exists():
        raise UsageError(
            f"expected a run that was cut off, found that {options.out} is complete; omit --resume to "
            "classify all files again and replace it"
        )
    if unfinished is None:
        tell(f"found no run of {options.out} that was cut off: starting with the first file")
    return unfinished


def taken_over(
    unfinished: UnfinishedResults | None, sink: ResultsFile | LiveResults, collectors: Sequence[Collector]
) -> set[str]:
    """Keep the rows of the run that was cut off; return the paths in them."""
    done: set[str] = set()
    if unfinished and isinstance(sink, ResultsFile):
        for prediction in sink.take_over(unfinished):
            done.add(prediction.path)
            for collector in collectors:
                collector.add(prediction)
        tell(f"kept {len(done)} {nouns(len(done), 'row')} of the run that was cut off")
    return done


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
    counted = predictions if table_on_terminal else with_progress(predictions, total=total, unit="cell")
    for prediction in counted:
        sink.write(prediction)
        for collector in collectors:
            collector.add(prediction)


def report(inputs: Inputs, options: argparse.Namespace) -> None:
    """Print the closing lines to standard error: what was left out, where the results are, what to run next."""
    if inputs.left_out:
        tell(left_out_text(inputs.left_out, options.include))
    if inputs.repeated:
        tell(f"left out {inputs.repeated} {nouns(inputs.repeated, 'path')} to files that were already given")
    if options.demo:
        tell("These cells are drawn: what a model fitted on photographs says about them means nothing.")
        tell("Next: python -m runtime.classify FOLDER --out results.csv")
    elif options.out:
        latency = f"python -m benchmarks.latency --bundle {shell_word(options.bundle)}"
        tell(f"Results: {options.out}. Next: {latency} times this machine")
    else:
        tell("Next: add --out results.csv to keep the table")


def report_groups(groups: GroupCounts, results: Path | None) -> None:
    """Print the roll-up to standard error and, beside a results file, write it; without one all of it is printed."""
    rows = groups.table()
    print_table(rows[:MOST_PRINTED] if results else rows, sys.stderr)
    for note in groups.notes():
        tell(note)
    if results:
        path = groups_path(results, groups.by)
        groups.write(path)
        unseen = max(len(rows) - MOST_PRINTED, 0)
        more = f", with {unseen} more {nouns(unseen, groups.by)}" if unseen else ""
        tell(f"Roll-up: {path}{more}")


def report_explanations(explanations: ExplanationFolder) -> None:
    """Write the table of the pictures and say where they are; raise OutputError where not all could be written."""
    explanations.write_index()
    if explanations.failure:
        raise OutputError(f"not every cell has its picture in {explanations.folder}: {explanations.failure}")
    tell(f"Explanations: {explanations.folder}")


def try_write(write: Callable[[], None]) -> bool:
    """Write what goes beside the table and return whether that worked; if not, say so: the table is complete."""
    try:
        write()
    except OutputError as error:
        tell(f"error: {error}; the results table is complete without it")
        return False
    return True


if __name__ == "__main__":
    run_command(main)
