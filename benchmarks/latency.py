"""python -m benchmarks.latency: how long one batch takes, in the model alone and from file to result."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.cells import bmp_cells
from benchmarks.record import Row, check_record_folder, write_record
from runtime.backends.select import BACKENDS
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import DONE, ArgumentParser, batch_size, positive_float, print_table, run_command
from runtime.preprocessing import load_cell

WARM_UP_RUNS = 5
WARM_UP_SECONDS = 0.5
FEWEST_RUNS = 20  # below that a 95th percentile means little


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.latency",
        description="Time one batch at a time: the model alone, and from BMP files to results.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--batch-sizes", type=batch_size, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--seconds", type=positive_float, default=3.0, help="of timing for each row; default 3")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where latency.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    description = ""
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}
    with bmp_cells() as paths:
        for size in options.batch_sizes:
            settings = ClassifierOptions(bundle=options.bundle, backend=options.backend, batch_size=size)
            with Classifier(settings) as classifier:
                description = classifier.description
                measured = measure_batch_size(classifier, list(islice(cycle(paths), size)), options.seconds)
            for name, milliseconds in measured:
                rows.append(row_of(name, size, milliseconds))
                samples[f"{name}, batch {size}"] = [round(sample, 4) for sample in milliseconds]
    print(description)
    print_table(rows)
    print("Times are milliseconds a batch, after a warm-up. file to result: read, decode, resize, infer, no overlap")
    if options.out:
        write_record(
            options.out, "latency", options.bundle, {"model": description, "rows": rows, "samples_ms": samples}
        )
    return DONE


def measure_batch_size(classifier: Classifier, batch: list[str], seconds: float) -> list[tuple[str, list[float]]]:
    """Return the samples in milliseconds of the model alone and from file to result."""
    cells = np.stack([load_cell(path, classifier.manifest.image) for path in batch])
    return [
        ("model", timed(lambda: classifier.backend.infer(cells), seconds)),
        ("file to result", timed(lambda: list(classifier.classify(batch)), seconds)),
    ]


def timed(work: Callable[[], object], seconds: float) -> list[float]:
    """Warm up, then repeat `work` for at least `seconds` and FEWEST_RUNS; return milliseconds for each run."""
    warm_up_ends = time.perf_counter() + min(WARM_UP_SECONDS, seconds)
    runs = 0
    while runs < WARM_UP_RUNS or time.perf_counter() < warm_up_ends:
        work()
        runs += 1
    samples: list[float] = []
    ends = time.perf_counter() + seconds
    while len(samples) < FEWEST_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        work()
        samples.append((time.perf_counter() - started) * 1e3)
    return samples


def row_of(name: str, batch_size: int, milliseconds: list[float]) -> Row:
    """Sum up samples as a row of the table."""
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {
        "measured": name,
        "batch": batch_size,
        "runs": len(milliseconds),
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "p99_ms": round(float(p99), 3),
        "cells_per_second": round(batch_size * len(milliseconds) / sum(milliseconds) * 1e3, 1),
    }


if __name__ == "__main__":
    run_command(main)
