"""python -m benchmarks.parity: do a bundle's variants decide like the Keras model, on labelled cells?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.record import Row, check_record_folder, print_table, write_record
from benchmarks.reference import reference_file
from export.gate import Verdict, judge
from runtime.bundle import Bundle
from runtime.command_line import DONE, PARTLY_DONE, REFUSED, ArgumentParser, positive_int, run_command

if TYPE_CHECKING:
    from train.dataset import Cell


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.parity",
        description="Compare every variant of a bundle with the Keras model it came from, on labelled cells.",
        epilog="Exit codes: 0 all variants within their tolerance; 1 not, or nothing could be compared; "
        "2 within their tolerance, but some files could not be read.",
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
    check_record_folder(options.out)
    bundle = Bundle.open(options.bundle)
    keras_file = reference_file(bundle, options.run)
    from benchmarks.scoring import REFERENCE, chosen_cells, fitted_hashes, score_all
    from train.metrics import measure, metrics_table

    fitted = fitted_hashes(keras_file.parent)
    cells = chosen_cells(options.data, options.limit)
    labels, scores, unreadable = score_all(bundle, keras_file, cells)
    readable = [cell for cell in cells if str(cell.path) not in unreadable]
    threshold = bundle.manifest.decision.threshold
    name_to_metrics = {name: measure(labels, p_all, threshold) for name, p_all in scores.items()}
    reference = scores.pop(REFERENCE)
    verdicts = [judge(precision, p_all, reference, threshold) for precision, p_all in scores.items()]
    rows = [row_of(verdict, readable) for verdict in verdicts]
    print(metrics_table(name_to_metrics))
    report(rows, unreadable)
    print(f"{sum(cell.sha256 in fitted for cell in readable)} of these cells are of the run's training part")
    if options.out:
        content = {
            "rows": rows,
            "metrics": {name: asdict(metrics) for name, metrics in name_to_metrics.items()},
            "unreadable": unreadable,
        }
        write_record(options.out, "parity", options.bundle, content)
    if not all(verdict.passed for verdict in verdicts):
        return REFUSED
    return PARTLY_DONE if unreadable else DONE


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


def report(rows: list[Row], unreadable: dict[str, str]) -> None:
    """Print the verdicts, the flipped cells by name and what could not be read."""
    print_table([{key: value for key, value in row.items() if key != "flipped_cells"} for row in rows])
    for row in rows:
        for path in row["flipped_cells"]:
            print(f"{row['variant']} flips {path}")
    for path, reason in unreadable.items():
        print(f"not readable: {path}: {reason}")


if __name__ == "__main__":
    run_command(main)
