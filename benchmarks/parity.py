"""python -m benchmarks.parity: do a bundle's variants decide like the Keras model, on labelled cells?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.record import check_record_folder, write_record
from export.reference import add_run_argument, reference_file
from runtime.bundle import Bundle
from runtime.command_line import DONE, PARTLY_DONE, REFUSED, ArgumentParser, positive_int, run_command
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from export.gate import Verdict
    from export.verify import Verification


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.parity",
        description="Compare every variant of a bundle with the Keras model it came from, on labelled cells.",
        epilog="Exit codes: 0 all variants within their tolerance; 1 not, or nothing could be compared; "
        "2 within their tolerance, but some files could not be read, or the cells are too few for a proof.",
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled cells")
    add_run_argument(parser)
    parser.add_argument("--cells", "--limit", type=positive_int, metavar="N", help="take N cells, spread over the data")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where parity.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    bundle = Bundle.open(options.bundle)
    keras_file = reference_file(bundle, options.run)
    with quiet_tensorflow():
        from export.gate import recorded_tolerances, verdict_row
        from export.verify import chosen_cells, print_verification, verify

    cells = chosen_cells(options.data, options.cells)
    verification = verify(bundle, keras_file, cells, recorded_tolerances(bundle), options.data.resolve().name)
    print_verification(verification)
    print(verification.seen)
    content = {
        "rows": [verdict_row(verdict, verification.too_few) for verdict in verification.verdicts],
        "proofs": {verdict.precision: asdict(verdict.proof) for verdict in verification.verdicts},
        "flipped": {verdict.precision: flipped_paths(verdict, verification) for verdict in verification.verdicts},
        "metrics": {name: asdict(metrics) for name, metrics in verification.metrics.items()},
        "unreadable": verification.scores.unreadable,
    }
    write_record(options.out, "parity", options.bundle, content)
    if not verification.passed:
        return REFUSED
    if verification.too_few:
        print(f"Nothing is proved: {verification.too_few}")
    return PARTLY_DONE if verification.scores.unreadable or verification.too_few else DONE


def flipped_paths(verdict: Verdict, verification: Verification) -> list[str]:
    """Return the paths of the cells to which a variant gives another label."""
    return [str(verification.scores.cells[index].path) for index in np.flatnonzero(verdict.flipped)]


if __name__ == "__main__":
    run_command(main)
