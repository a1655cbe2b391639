"""python -m benchmarks.footprint: start-up time and memory of `python -m runtime.classify` as a process of its own.

In each round it is started beside a process that does nothing but open the same model with ONNX Runtime.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np

from benchmarks.cells import bmp_cells, linked_cells
from benchmarks.peak_memory import last_line, refuse_system_without_peak, run_measured, waited_for
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.turns import ratio_columns
from runtime.backends.select import best_variant
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.command_line import DONE, ArgumentParser, positive_int, print_table, run_command
from runtime.errors import MeasurementError

FIRST_ROW, OPENING, IMPORT = "classify: first row", "ONNX Runtime: model open", "import runtime"
# What one would write by hand; it prints how long that took.
OPEN_MODEL = """
import sys, time
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
started = time.perf_counter()
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(time.perf_counter() - started)
"""
IMPORT_RUNTIME = "import time; started = time.perf_counter(); import runtime; print(time.perf_counter() - started)"


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.footprint",
        description="Time from the start of the process to the first result, and peak memory by number of files.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--starts", type=positive_int, default=5, help="how often it is started; default 5")
    parser.add_argument(
        "--files",
        type=positive_int,
        nargs="+",
        default=[1000, 50000],
        metavar="N",
        help="to classify in a process; default 1000 50000, which takes some minutes",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where footprint.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    refuse_system_without_peak()
    with bmp_cells() as cells:
        classify = command(options.bundle)
        seconds = start_seconds(options.bundle, classify, cells[0], options.starts)
        memory_rows = [memory_row(classify, cells, count) for count in options.files]
    start_rows = [start_row(name, own, seconds[OPENING]) for name, own in seconds.items()]
    print_table(start_rows)
    print(
        "classify: from the start of its process; the others without that of Python. ratio: to ONNX Runtime's opening"
    )
    print("Peak resident memory while classifying")
    print_table(memory_rows)
    content = {"start": start_rows, "seconds": seconds, "memory": memory_rows}
    write_record(options.out, "footprint", options.bundle, content)
    return DONE


def start_seconds(folder: Path, classify: list[str], cell: str, starts: int) -> dict[str, list[float]]:
    """Return the seconds of each start, in turns."""
    bundle = Bundle.open(folder)
    model = bundle.path(best_variant(bundle, "cpu", "auto"))
    ways: dict[str, Callable[[], float]] = {
        FIRST_ROW: lambda: seconds_to_first_row(classify, cell),
        OPENING: lambda: told_seconds(OPEN_MODEL, str(model)),
        IMPORT: lambda: told_seconds(IMPORT_RUNTIME),
    }
    rounds = [{name: way() for name, way in ways.items()} for _ in range(starts)]
    return {name: [one[name] for one in rounds] for name in ways}


def told_seconds(code: str, *arguments: str) -> float:
    """Run code in a process of its own; return the seconds that it prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(
            f"expected the seconds of a start, found exit code {done.returncode}; {last_line(done.stderr)}"
        )
    return float(done.stdout)


def start_row(name: str, seconds: list[float], opening: list[float]) -> Row:
    """Sum up one way of starting."""
    row = {"start": name, "starts": len(seconds), "median_s": round(float(np.median(seconds)), 4)}
    return {**row, "slowest_s": round(max(seconds), 4), **ratio_columns(seconds, opening)}


def seconds_to_first_row(classify: list[str], cell: str) -> float:
    """Start a process that classifies one cell; return the seconds until its row is there."""
    started = time.perf_counter()
    with (
        TemporaryFile("w+") as said,
        waited_for(subprocess.Popen([*classify, cell], stdout=subprocess.PIPE, stderr=said)) as process,
    ):
        lines = [process.stdout.readline() for _ in range(2)] if process.stdout else []  # the header, then the row
        seconds = time.perf_counter() - started
        if process.wait() or not all(lines):
            said.seek(0)
            raise MeasurementError(
                f"runtime.classify failed with exit code {process.returncode}; {last_line(said.read())}"
            )
    return seconds


def memory_row(classify: list[str], cells: Sequence[str], count: int) -> Row:
    """Classify `count` files in a process of its own; return its peak memory and its rate.

    Raises MeasurementError where it fails, or does not give a row for each file.
    """
    with TemporaryDirectory() as folder:
        results = Path(folder) / "results.csv"
        cells_folder = linked_cells(Path(folder) / "cells", cells, count)
        done = run_measured([*classify, str(cells_folder), "--out", str(results)], quiet=True)
        rows = len(results.read_text("utf-8").splitlines()) - 1
    if rows != count:
        raise MeasurementError(f"expected {count} rows of runtime.classify, found {rows}")
    return {"files": count, "peak_mb": done.peak_mb, "files_per_second": round(count / done.seconds, 1)}


def command(bundle: Path, *options: str, backend: str = "cpu") -> list[str]:
    """Return the command line that is measured, without its inputs."""
    return [sys.executable, "-m", "runtime.classify", "--bundle", str(bundle), "--backend", backend, *options]


if __name__ == "__main__":
    run_command(main)
