"""python -m benchmarks.watch: a watching service beside runtime.classify on the same files.

The service runs as a process of its own. In each round the same files are classified, moved into its folder at once,
and moved there one by one; then single files are written there. What counts are the ratios within a round.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cells import given_or_drawn, linked_cells
from benchmarks.peers import CLASSIFY, classify
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.started_service import StartedService
from benchmarks.turns import ratio_columns
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import DEFAULT_BATCH_SIZE, Classifier, ClassifierOptions
from runtime.command_line import DONE, ArgumentParser, batch_size, positive_int, print_table, run_command
from runtime.errors import MeasurementError

CLASSIFY_ONE = "classify one file"
LONGEST_WAIT_S = 600.0  # for the service to classify what it was given
POLL_MANY_S = 0.01  # between two questions to the database, which take a hundredth of a CPU from the service then
POLL_ONE_S = 0.0005


class Service(StartedService):
    """A watching service on a folder of its own."""

    def __init__(self, folder: Path, bundle: Path, batch_size: int) -> None:
        self.watched = folder / "watched"
        self.watched.mkdir()
        database = folder / "results.sqlite"
        command = ["runtime.watch", str(self.watched), "--db", str(database)]
        super().__init__(command, bundle, batch_size, sign="is watched")
        self._reader = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)

    def wait_for(self, rows: int, poll_s: float) -> None:
        """Return when the database holds this many rows; raise MeasurementError where it never does."""
        give_up = time.perf_counter() + LONGEST_WAIT_S
        while self.rows() < rows:
            if time.perf_counter() > give_up or self._process.poll() is not None:
                raise MeasurementError(f"expected {rows} rows of runtime.watch, found {self.rows()}")
            time.sleep(poll_s)

    def rows(self) -> int:
        """Return how many rows there are; the last number is known without counting."""
        [last] = self._reader.execute("SELECT max(rowid) FROM results").fetchone()
        return last or 0

    def close(self) -> None:
        """Let go of the database and end the process."""
        self._reader.close()
        super().close()


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.watch",
        description="Rate and latency of runtime.watch, beside runtime.classify on the same files, on the CPU.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--data", type=Path, metavar="DIR", help="images; default: drawn cells as 450x450 BMP")
    parser.add_argument("--cells", type=positive_int, default=1000, metavar="N", help="files in a drop; default 1000")
    parser.add_argument("--rounds", type=positive_int, default=5, help="default 5")
    parser.add_argument(
        "--singles", type=positive_int, default=20, metavar="N", help="single files a round; default 20"
    )
    parser.add_argument("--batch-size", type=batch_size, default=DEFAULT_BATCH_SIZE, metavar="N")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where watch.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    # The service's rows carry an audit, and so must those that it is compared with.
    settings = ClassifierOptions(bundle=options.bundle, audit=True, backend="cpu", batch_size=options.batch_size)
    with (
        files_of(options.data, options.cells) as (folder, files),
        Classifier(settings) as classifier,
        Service(folder, options.bundle, options.batch_size) as service,
    ):
        drop = [str(path) for path in islice(cycle(files), options.cells)]
        drops = drops_in_turns(classifier, service, folder, drop, options.rounds)
        singles = singles_in_turns(classifier, service, islice(cycle(files), options.rounds * options.singles))
    rows = [drop_row(name, seconds, drops[CLASSIFY], options.cells) for name, seconds in drops.items()]
    single_rows = [single_row(name, seconds, singles[CLASSIFY_ONE]) for name, seconds in singles.items()]
    print(service.first_line)
    print_table(rows)
    print(f"{options.cells} files a drop, {options.rounds} rounds in turns; ratio: time as a multiple of classify's")
    print_table(single_rows)
    print("from the last byte of a file to its row on the disk; added: beyond what classifying that file alone took")
    content = {"service": service.first_line, "rows": rows, "singles": single_rows}
    write_record(options.out, "watch", options.bundle, {**content, "seconds": {**drops, **singles}})
    return DONE


@contextmanager
def files_of(data: Path | None, limit: int) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder, and in it a copy of each file that is used: only within one file system is moving instant."""
    with TemporaryDirectory() as name, given_or_drawn(data, limit) as paths:
        folder = Path(name).resolve()
        (folder / "files").mkdir()
        yield (
            folder,
            [
                Path(shutil.copy(path, folder / "files" / f"{index}{Path(path).suffix}"))
                for index, path in enumerate(paths)
            ],
        )


def drops_in_turns(
    classifier: Classifier, service: Service, folder: Path, paths: list[str], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each way by round; the first round warms up."""

    def move_at_once(prepared: Path) -> None:
        expected = service.rows() + len(paths)
        prepared.rename(service.watched / prepared.name)
        service.wait_for(expected, POLL_MANY_S)

    def move_one_by_one(prepared: Path) -> None:
        expected = service.rows() + len(paths)
        for path in prepared.iterdir():
            path.rename(service.watched / f"{prepared.name}-{path.name}")
        service.wait_for(expected, POLL_MANY_S)

    ways: dict[str, Callable[[Path], object]] = {
        CLASSIFY: lambda _: classify(classifier, paths, folder),
        "watch, a folder moved in": move_at_once,
        "watch, moved in one by one": move_one_by_one,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for place, (name, way) in enumerate(ways.items()):
            prepared = linked_cells(folder / f"{turn}-{place}", paths, len(paths))
            started = time.perf_counter()
            way(prepared)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def singles_in_turns(classifier: Classifier, service: Service, files: Iterable[Path]) -> dict[str, list[float]]:
    """Classify a file alone, then write its copy into the watched folder; return the seconds of each, in turns."""
    own: list[float] = []
    watched: list[float] = []
    for index, file in enumerate(files):
        started = time.perf_counter()
        list(classifier.classify([str(file)]))
        own.append(time.perf_counter() - started)
        content, expected = file.read_bytes(), service.rows() + 1
        (service.watched / f"single-{index}{file.suffix}").write_bytes(content)
        started = time.perf_counter()
        service.wait_for(expected, POLL_ONE_S)
        watched.append(time.perf_counter() - started)
    return {CLASSIFY_ONE: own, "watch": watched}


def drop_row(name: str, samples: list[float], classify: list[float], cells: int) -> Row:
    """Sum up a way to get many files classified."""
    rate = round(cells / float(np.median(samples)), 1)
    return {"many files": name, "cells_per_second": rate, **ratio_columns(samples, classify)}


def single_row(name: str, samples: list[float], alone: list[float]) -> Row:
    """Sum up a way to get one file classified, in milliseconds."""
    added = [1000 * (sample - own) for sample, own in zip(samples, alone, strict=True)]
    row: Row = {"one file": name, "p50_ms": float(np.median(samples)) * 1000}
    row |= {"p95_ms": float(np.percentile(samples, 95)) * 1000, "ratio": ratio_columns(samples, alone)["ratio"]}
    return row | {"added_p50_ms": float(np.median(added)), "added_p95_ms": float(np.percentile(added, 95))}


if __name__ == "__main__":
    run_command(main)
