"""python -m benchmarks.latency: how long cells that come at once take, in the model alone and from file to result."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.cells import bmp_cells
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.windows import WindowPlan, Work, figures, time_in_turns
from benchmarks.wrapped import ClockedBackend
from runtime.backends.select import BACKENDS
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import DONE, ArgumentParser, batch_size, positive_float, print_table, run_command
from runtime.errors import DataError
from runtime.preprocessing import load_cell
from runtime.results import ResultsWriter
from runtime.schema import Prediction

MODEL, FILE_TO_RESULT = "model", "file to result"
PARTS = ("preprocess_ms", "inference_ms", "postprocess_ms")


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.latency",
        description="Time cells that come at once: a batch in the model alone, and BMP files to results.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument(
        "--batch-sizes",
        type=batch_size,
        nargs="+",
        default=[1, 8, 32],
        metavar="N",
        help="cells in a batch of the model, and files that come at once; default 1 8 32",
    )
    parser.add_argument(
        "--seconds",
        type=positive_float,
        default=3.0,
        help=f"of timing for each row, in {WindowPlan.fewest_windows} windows or more until they agree; default 3",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where latency.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    window = options.seconds / WindowPlan.fewest_windows
    plan = WindowPlan(seconds=window, warm_up_seconds=min(WindowPlan.warm_up_seconds, window))
    settings = ClassifierOptions(bundle=options.bundle, backend=options.backend)
    with bmp_cells() as paths, Classifier(settings) as classifier:
        timings = time_in_turns(works_at_once(classifier, paths, options.batch_sizes), plan)
        description = classifier.description
    timings.check()
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}
    for (name, size), timing in timings.by_work.items():
        rows.append({"measured": name, "cells": size, **figures(timing, size)})
        samples[f"{name}, {size} at once"] = [round(sample, 4) for sample in timing.samples_ms]
    print(description)
    print_table(rows)
    print(
        "Times are milliseconds for cells that come at once, after a warm-up. model: one batch. file to result: read, "
        f"decode, resize, infer, write the row, in batches of {settings.batch_size} at most, the first ones small"
    )
    write_record(options.out, "latency", options.bundle, {"model": description, "rows": rows, "samples_ms": samples})
    return DONE


def works_at_once(classifier: Classifier, paths: Sequence[str], sizes: Sequence[int]) -> dict[tuple[str, int], Work]:
    """Return the MODEL's and the FILE_TO_RESULT work of each number of cells that come at once."""
    works: dict[tuple[str, int], Work] = {}
    for size in sizes:
        works[MODEL, size] = model_work(classifier, paths, size)
        works[FILE_TO_RESULT, size] = file_to_result_work(classifier, paths, size)
    return works


def model_work(classifier: Classifier, paths: Sequence[str], size: int) -> Work:
    """Return what infers one batch of `size` cells, with the transfers to the model's device and back."""
    cells = np.stack([load_cell(path, classifier.manifest.image) for path in islice(cycle(paths), size)])
    return lambda: classifier.backend.infer(cells)


def file_to_result_work(classifier: Classifier, paths: Sequence[str], size: int) -> Work:
    """Return what classifies `size` files; each run takes the next ones, so that it shows how they differ.

    classify makes batches of its own: the first ones are small, none is larger than the classifier's.
    """
    files = cycle(paths)
    return lambda: write_results(classifier, list(islice(files, size)))


def write_results(classifier: Classifier, paths: Sequence[str]) -> float:
    """Classify files and write their rows into memory; return the seconds that reading and inferring took.

    Threads overlap, so that it may be more than the time that went by. Raises DataError for a file that has no answer:
    it would count as a very fast one.
    """
    writer = ResultsWriter(io.StringIO(), ".csv")
    busy = 0.0
    for prediction in classifier.classify(paths):
        refuse_without_answer(prediction)
        writer.write(prediction)
        busy += prediction.seconds
    return busy


def refuse_without_answer(prediction: Prediction) -> None:
    """Raise DataError where a file that is timed could not be classified."""
    if prediction.status == "error":
        raise DataError(f"expected a cell that can be classified at {prediction.path}, found: {prediction.reason}")


def measure_parts(classifier: Classifier, paths: Sequence[str], runs: int) -> Row:
    """Divide the way of a single file to its row, which nothing overlaps; medians of `runs`, in milliseconds.

    Each run takes the next file. preprocess: read, decode, resize, look at it. inference: with transfers. postprocess:
    all that is left, as finding the label, writing the row, and the threads that classify starts and ends.
    """
    clocked = ClockedBackend(classifier.backend, classifier.manifest.image)
    classifier.backend = clocked
    samples = []
    try:
        for path in islice(cycle(paths), runs):
            clocked.seconds.clear()
            started = time.perf_counter()
            busy = write_results(classifier, [path])
            whole = time.perf_counter() - started
            inference = sum(clocked.seconds)
            samples.append((busy - inference, inference, whole - busy))
    finally:
        classifier.backend = clocked.inner
    medians = np.median(samples, axis=0) * 1e3
    return {name: round(float(value), 3) for name, value in zip(PARTS, medians, strict=True)}


if __name__ == "__main__":
    run_command(main)
