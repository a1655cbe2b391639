"""python -m runtime.watch: a service that classifies what a microscope writes into a folder."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.command_line import import_quietly

    import_quietly()

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime.classifier import Classifier
from runtime.classifier_arguments import add_classifier_arguments, classifier_options
from runtime.command_line import DONE, INTERRUPTED, REFUSED, ArgumentParser, positive_float, run_command, tell
from runtime.errors import UsageError
from runtime.inputs import is_not_yet_a_cell
from runtime.outcomes import nouns
from runtime.results import ResultsFile, check_results_name
from runtime.schema import Prediction
from runtime.shift import ShiftAlarm
from runtime.stopping import stop_signals
from runtime.watching.database import own_files
from runtime.watching.events import has_events
from runtime.watching.folder import WatchedFolder
from runtime.watching.news import Bell, News
from runtime.watching.result_reader import read_predictions
from runtime.watching.result_store import ResultStore
from runtime.watching.service import WatchService
from runtime.watching.systemd import Notifier, unit_text

DEFAULT_INTERVAL_S = 1.0


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.watch",
        description="Classify every cell that is written into a folder, once. For research, not a diagnosis.",
        epilog="Exit codes: 0 stopped by SIGTERM, or 130 by Ctrl-C, all results written; 1 refused, or results could "
        "not be written.",
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="watched with its sub-folders")
    parser.add_argument(
        "--db", type=Path, required=True, metavar="FILE", help="SQLite database of the results, on a local disk"
    )
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the results to a .csv or .jsonl and end")
    add_classifier_arguments(parser)
    parser.add_argument("--poll", action="store_true", help="use no file events, which network shares do not send")
    parser.add_argument(
        "--interval",
        type=positive_float,
        default=DEFAULT_INTERVAL_S,
        metavar="SECONDS",
        help=f"between two looks at a file, which must find it unchanged; default {DEFAULT_INTERVAL_S:g}",
    )
    parser.add_argument("--systemd-unit", action="store_true", help="print a unit file for this command line and end")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Watch until SIGTERM or Ctrl-C, or do what else the command line asks for; return the exit code."""
    options = build_parser().parse_args(arguments)
    if options.export:
        return export(options)
    check_folder(options.folder)
    if options.systemd_unit:
        print(unit_text(command_of(options), f"ALLNet Edge watches {options.folder.absolute()}"), end="")
        return DONE
    return watch(options)


def export(options: argparse.Namespace) -> int:
    """Write the database's rows, in the order in which they came, to a results file."""
    check_results_name(options.export)
    if options.export.exists() and options.db.exists() and options.export.samefile(options.db):
        raise UsageError(f"expected another file for --export than the database {options.db}, received both as one")

    def write(predictions: Iterator[Prediction]) -> int:
        rows = 0
        with ResultsFile(options.export, audited=True) as results:
            for prediction in predictions:
                results.write(prediction)
                rows += 1
        return rows

    rows = read_predictions(options.db, write)
    tell(f"Results: {options.export}, {rows} {nouns(rows, 'row')}")
    return DONE


def watch(options: argparse.Namespace) -> int:
    """Watch until SIGTERM or Ctrl-C; return 1 where results could not be written even then."""
    bell = Bell()
    with (
        stop_signals(bell.ring) as received,
        Classifier(classifier_options(options, audit=True)) as classifier,
        ResultStore(options.db) as store,
    ):
        classifier.warm_up()
        alarm = ShiftAlarm(classifier.manifest.typical.subjects, tell, store.keep_warning)
        service = WatchService(
            classifier,
            store,
            bell,
            observe=alarm.add,
            is_stopping=lambda: bool(received),
            notifier=Notifier(),
            tell=tell,
        )
        with watched_folder(options, service, News(bell)) as folder:
            tell_start(options, classifier, folder)
            service.run(folder)
        tell(f"stopped: {service.summary}")
        if store.unwritten:
            tell(f"results not written: {store.unwritten}; their files are classified again at the next start")
            return REFUSED
    return INTERRUPTED if received[0] == signal.SIGINT else DONE


def watched_folder(options: argparse.Namespace, service: WatchService, news: News) -> WatchedFolder:
    """Begin to watch the folder that the command line names."""
    own = own_files(options.db)
    return WatchedFolder(
        str(options.folder.absolute()),
        news,
        is_known=service.is_known,
        is_left_out=lambda file: is_not_yet_a_cell(file) or os.path.basename(file) in own,  # noqa: PTH119
        with_events=has_events() and not options.poll,
        interval=options.interval,
        tell=tell,
    )


def tell_start(options: argparse.Namespace, classifier: Classifier, folder: WatchedFolder) -> None:
    """Say what is watched, how, and where the results go."""
    if folder.has_events:
        how = "by file events"
    elif options.poll or has_events():
        how = f"by a look every {options.interval:g} s"
    else:
        how = f"by a look every {options.interval:g} s (for file events: pip install watchdog)"
    tell(
        f"{folder.root} is watched {how}, results go to {options.db}: {classifier.description}; "
        f"ALL from p_all {classifier.threshold:g} on. For research, not a diagnosis."
    )


def check_folder(folder: Path | None) -> None:
    """Raise UsageError where there is no such folder."""
    if folder is None:
        raise UsageError("expected a folder to watch, received none; name the one that the microscope writes into")
    if not folder.is_dir():
        raise UsageError(f"expected a folder at {folder}, found none; create it, or check the path")


def command_of(options: argparse.Namespace) -> list[str]:
    """Return the command line that does from any folder what this one does from here."""
    command = [sys.executable, "-m", "runtime.watch", str(options.folder.absolute())]
    for name, value in vars(options).items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("folder", "export", "systemd_unit") or value is None or value is False:
            continue
        if value is True:
            command.append(flag)
        else:
            command += [flag, str(value.absolute() if isinstance(value, Path) else value)]
    return command


if __name__ == "__main__":
    run_command(main)
