"""python -m benchmarks.footprint: start-up time and memory of `python -m runtime.classify` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np

from benchmarks.cells import bmp_cells
from benchmarks.peak_memory import last_line, refuse_system_without_peak, run_measured
from benchmarks.record import Row, check_record_folder, write_record
from runtime.bundle import DEFAULT_BUNDLE
from runtime.command_line import DONE, ArgumentParser, positive_int, print_table, run_command
from runtime.errors import BackendError


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.footprint",
        description="Time from the start of the process to the first result, and peak memory by number of files.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--starts", type=positive_int, default=5, help="how often it is started; default 5")
    parser.add_argument("--files", type=positive_int, nargs="+", default=[1000, 20000], metavar="N")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where footprint.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    refuse_system_without_peak()
    with bmp_cells() as cells:
        classify = command(options.bundle)
        starts = [seconds_to_first_row(classify, cells[0]) for _ in range(options.starts)]
        start_rows: list[Row] = [
            {"starts": len(starts), "median_s": float(np.median(starts)), "slowest_s": max(starts)}
        ]
        memory_rows = [memory_row(classify, cells, count) for count in options.files]
    print("From the start of the process to the first row on standard output")
    print_table(start_rows)
    print("Peak resident memory while classifying")
    print_table(memory_rows)
    if options.out:
        write_record(options.out, "footprint", options.bundle, {"start": start_rows, "memory": memory_rows})
    return DONE


def seconds_to_first_row(classify: list[str], cell: str) -> float:
    """Start a process that classifies one cell; return the seconds until its row is there."""
    started = time.perf_counter()
    with (
        TemporaryFile("w+") as said,
        subprocess.Popen([*classify, cell], stdout=subprocess.PIPE, stderr=said) as process,
    ):
        lines = [process.stdout.readline() for _ in range(2)] if process.stdout else []  # the header, then the row
        seconds = time.perf_counter() - started
        if process.wait() or not all(lines):
            said.seek(0)
            raise BackendError(f"runtime.classify failed with exit code {process.returncode}; {last_line(said.read())}")
    return seconds


def memory_row(classify: list[str], cells: Sequence[str], count: int) -> Row:
    """Classify `count` files in a process of its own; return its peak memory and its rate."""
    with TemporaryDirectory() as folder:
        names = Path(folder) / "files.txt"
        names.write_bytes(b"".join(os.fsencode(f"{cell}\n") for cell in islice(cycle(cells), count)))
        done = run_measured([*classify, "--list", str(names), "--out", f"{folder}/results.csv"], quiet=True)
    return {"files": count, "peak_mb": done.peak_mb, "files_per_second": round(count / done.seconds, 1)}


def command(bundle: Path, *options: str, backend: str = "cpu") -> list[str]:
    """Return the command line that is measured, without its inputs."""
    return [sys.executable, "-m", "runtime.classify", "--bundle", str(bundle), "--backend", backend, *options]


if __name__ == "__main__":
    run_command(main)
