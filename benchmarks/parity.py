"""python -m benchmarks.parity: do a bundle's variants decide like the Keras model, on labelled cells?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from benchmarks.cells import spread_over
from benchmarks.record import Row, print_table, write_record
from export.gate import Verdict, judge
from runtime.backends.base import Backend
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.command_line import DONE, REFUSED, ArgumentParser, positive_int, quiet_tensorflow, run_command
from runtime.errors import BundleError, UnreadableCellError
from runtime.files import sha256_of_file
from runtime.preprocessing import load_cell
from runtime.schema import Metrics
from train.dataset import Cell, find_cells, refuse_one_class
from train.metrics import measure, metrics_table
from train.splits import cells_of_part, read_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.to_onnx import KerasModel

REFERENCE = "keras"
BATCH_SIZE = 32


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.parity",
        description="Compare every variant of a bundle with the Keras model it came from, on labelled cells.",
        epilog="Exit codes: 0 all variants within their tolerance; 1 not, or nothing could be compared.",
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled cells")
    parser.add_argument("--run", type=Path, metavar="RUN", help="default: where the run lay when it was exported")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="take N cells, spread over the data")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where parity.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    keras_file = reference_file(bundle, options.run)
    cells = chosen_cells(options.data, options.limit)
    labels, scores, unreadable = score_all(bundle, keras_file, cells)
    threshold = bundle.manifest.decision.threshold
    name_to_metrics = {name: measure(labels, p_all, threshold) for name, p_all in scores.items()}
    verdicts = [
        judge(precision, p_all, scores[REFERENCE], threshold)
        for precision, p_all in scores.items()
        if precision != REFERENCE
    ]
    readable = [cell for cell in cells if str(cell.path) not in unreadable]
    rows = [row_of(verdict, readable) for verdict in verdicts]
    report(name_to_metrics, rows, unreadable)
    print(f"{seen_in_training(keras_file.parent, readable)} of these cells are of the run's training part")
    if options.out:
        content = {
            "rows": rows,
            "metrics": {name: asdict(metrics) for name, metrics in name_to_metrics.items()},
            "unreadable": unreadable,
        }
        write_record(options.out, "parity", options.bundle, content)
    return DONE if all(verdict.passed for verdict in verdicts) else REFUSED


def reference_file(bundle: Bundle, run: Path | None) -> Path:
    """Return the Keras file that the bundle came from; raise BundleError where it is not at hand or another one."""
    training = bundle.manifest.training
    file = (run or bundle.folder.resolve() / training.run) / "best.keras"
    if not file.is_file():
        raise BundleError(
            f"expected the Keras model of the bundle at {file}, found none; give its run folder with --run"
        )
    found = sha256_of_file(file)
    if found != training.keras_sha256:
        raise BundleError(
            f"expected {file} to have the SHA-256 {training.keras_sha256[:12]}…, found {found[:12]}…: the bundle came "
            "from another run; name that one with --run, or export this one again"
        )
    return file


def seen_in_training(run: Path, cells: list[Cell]) -> int:
    """Return how many of the cells the run was fitted on: on those the metrics flatter the model."""
    fitted = {cell.sha256 for cell in cells_of_part(read_cells(run / "cells.csv"), "training")}
    return sum(cell.sha256 in fitted for cell in cells)


def chosen_cells(data: Path, limit: int | None) -> list[Cell]:
    """Return the labelled cells of `data`, or `limit` of them; raise DataError unless both classes are there."""
    path_to_cell = {str(cell.path): cell for cell in find_cells(data)}
    cells = [path_to_cell[path] for path in spread_over(list(path_to_cell), limit)]
    refuse_one_class(cells, str(data))
    return cells


def score_all(
    bundle: Bundle, keras_file: Path, cells: list[Cell]
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return labels [N], p_all [N] of the reference and each variant, and the reasons for unreadable files."""
    with quiet_tensorflow():
        from export.to_onnx import KerasModel

    reference = KerasModel(keras_file, bundle.manifest.decision.temperature)
    backends = {variant.precision: open_backend(bundle, "cpu", variant) for variant in bundle.manifest.variants}
    labels: list[bool] = []
    scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in (REFERENCE, *backends)}
    unreadable: dict[str, str] = {}
    for batch in loaded_batches(bundle, cells, labels, unreadable):
        for name, p_all in score_batch(reference, backends, batch):
            scores[name].append(p_all)
    if not labels:
        raise BundleError(f"expected cells that can be read, found none of {len(cells)}; check --data")
    return np.array(labels), {name: np.concatenate(parts) for name, parts in scores.items()}, unreadable


def loaded_batches(
    bundle: Bundle, cells: list[Cell], labels: list[bool], unreadable: dict[str, str]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the readable cells in batches, uint8 [B, height, width, 3]; note labels and reasons as they come."""

    def readable() -> Iterator[NDArray[np.uint8]]:
        for cell in tqdm(cells, unit="cell", disable=None, leave=False):
            try:
                pixels = load_cell(cell.path, bundle.manifest.image)
            except UnreadableCellError as error:
                unreadable[str(cell.path)] = str(error)
                continue
            labels.append(cell.label == 1)
            yield pixels

    pixels = readable()
    while batch := list(islice(pixels, BATCH_SIZE)):
        yield np.stack(batch)


def score_batch(
    reference: KerasModel, backends: dict[str, Backend], batch: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the name and p_all, float32 [B], of the reference and of each variant."""
    yield REFERENCE, reference.predict(batch)
    for precision, backend in backends.items():
        yield precision, backend.infer(batch)


def row_of(verdict: Verdict, cells: list[Cell]) -> Row:
    """Sum up a verdict as a row of the table."""
    return {
        "variant": verdict.precision,
        "cells": len(verdict.difference),
        "max_difference": f"{verdict.max_difference:.2e}",
        "tolerance": f"{verdict.tolerance:.0e}",
        "flipped": int(verdict.flipped.sum()),
        "verdict": "passed" if verdict.passed else "FAILED",
        "flipped_cells": [str(cells[index].path) for index in np.flatnonzero(verdict.flipped)],
    }


def report(name_to_metrics: dict[str, Metrics], rows: list[Row], unreadable: dict[str, str]) -> None:
    """Print the metrics, the verdicts, the flipped cells by name and what could not be read."""
    print(metrics_table(name_to_metrics))
    print_table([{key: value for key, value in row.items() if key != "flipped_cells"} for row in rows])
    for row in rows:
        for path in row["flipped_cells"]:
            print(f"{row['variant']} flips {path}")
    for path, reason in unreadable.items():
        print(f"not readable: {path}: {reason}")


if __name__ == "__main__":
    run_command(main)
