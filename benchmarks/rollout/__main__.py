"""python -m benchmarks.rollout: measures a bundle on this machine, judges it, writes a report and a record."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.record import check_record_folder
from benchmarks.rollout.budget import read_budget
from benchmarks.rollout.material import found_material
from benchmarks.rollout.options import RolloutOptions, quick
from benchmarks.rollout.record import NAME, Record, failures_of, measured_rows, write
from benchmarks.rollout.verdict import NO
from export.reference import add_run_argument, reference_file
from runtime.backends.select import BACKENDS
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.cell_names import shell_word
from runtime.command_line import (
    DONE,
    PARTLY_DONE,
    REFUSED,
    ArgumentParser,
    batch_size,
    positive_float,
    positive_int,
    print_table,
    run_command,
    tell,
)
from runtime.schema import PRECISIONS

# Option, its name in RolloutOptions, type, unit, what it is.
LENGTHS = (
    ("--sustained", "sustained_minutes", positive_float, "MINUTES", "of files to results"),
    ("--cells", "cells", positive_int, "N", "labelled cells for parity, spread over the data"),
    ("--rounds", "rounds", positive_int, "N", "rounds in which the peers are timed"),
    ("--peer-cells", "peer_cells", positive_int, "N", "files in a round of the peers"),
    ("--starts", "starts", positive_int, "N", "starts of a process for each variant"),
)


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    default = RolloutOptions(Path(), Path())
    short = quick(default)
    parser = ArgumentParser(
        prog="python -m benchmarks.rollout",
        description="Measure a bundle on this machine: latency, sustained rate, cold start, memory, scaling, parity "
        "with the Keras model, and hand-written alternatives. Writes report.html and record.json.",
        epilog="Exit codes: 0 all was measured and nothing speaks against the bundle; 1 a variant fails its parity, a "
        "limit of the budget is not kept, or nothing could be measured; 2 finished, but a measurement failed, or "
        "Ctrl-C ended the measuring; 130 Ctrl-C before anything was measured, so that nothing is written.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="default: the package's own")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="labelled cells; without them drawn cells are timed and nothing is judged",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the report and the record go; older ones are replaced",
    )
    add_run_argument(parser)
    parser.add_argument("--budget", type=Path, metavar="FILE", help="limits in TOML or JSON, such as p95_ms = 20")
    parser.add_argument(
        "--quick", action="store_true", help="measure everything, but for less time; name what was left out"
    )
    what = parser.add_argument_group("what is deployed, as for runtime.classify")
    what.add_argument("--backend", choices=BACKENDS, default="auto")
    what.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")
    what.add_argument("--batch-size", type=batch_size, default=default.batch_size, metavar="N")
    measured = parser.add_argument_group("what else is measured")
    measured.add_argument("--backends", choices=BACKENDS[1:], nargs="+", default=(), help="default: all available")
    measured.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=(), help="default: all of the bundle")
    measured.add_argument(
        "--batch-sizes",
        type=batch_size,
        nargs="+",
        metavar="N",
        help="cells in a batch of the model, and files that come at once; "
        f"default {' '.join(map(str, default.batch_sizes))}, quick {' '.join(map(str, short.batch_sizes))}",
    )
    lengths = parser.add_argument_group("for how long")
    for option, name, kind, unit, said in LENGTHS:
        own, quickly = getattr(default, name), getattr(short, name)
        both = f"default {'all' if own is None else f'{own:g}'}, quick {quickly:g}"
        lengths.add_argument(option, dest=name, type=kind, metavar=unit, help=f"{said}; {both}")
    return parser


def options_of(parsed: argparse.Namespace, *, is_large: bool = False) -> RolloutOptions:
    """Return the options, with the lengths of --quick where it was asked for and none was chosen by hand.

    Those are others for a network that is large on this machine.
    """
    options = RolloutOptions(
        bundle=parsed.bundle,
        out=parsed.out,
        data=parsed.data,
        run=parsed.run,
        budget=parsed.budget,
        backend=parsed.backend,
        precision=parsed.precision,
        backends=tuple(parsed.backends),
        precisions=tuple(parsed.precisions),
        batch_size=parsed.batch_size,
    )
    if parsed.quick:
        options = quick(options, is_large=is_large)
    chosen = {name: value for _, name, *_ in LENGTHS if (value := getattr(parsed, name)) is not None}
    if parsed.batch_sizes:
        chosen["batch_sizes"] = tuple(sorted({1, *parsed.batch_sizes}))  # a single file is what a budget speaks of
    return replace(options, **chosen)


def main(arguments: list[str] | None = None) -> int:
    """Measure, write report and record, print the summary; return the exit code."""
    parsed = build_parser().parse_args(arguments)
    options = options_of(parsed)
    check_record_folder(options.out)
    if (options.out / NAME).exists():
        tell(f"the record and report in {options.out} will be replaced; to compare, choose another --out")
    budget = read_budget(options.budget) if options.budget else None
    bundle = Bundle.open(options.bundle)
    if options.run:
        reference_file(bundle, options.run)  # one that was named is used, or refused before anything is measured
    # Here, so that what is not installed is said before anything is measured.
    from benchmarks.rollout.cases import is_large
    from benchmarks.rollout.measurement import measure
    from benchmarks.rollout.report import write_report

    if options.quick:
        options = options_of(parsed, is_large=is_large(bundle, options))

    with found_material(options.data, bundle.manifest.image) as material:
        record = measure(options, bundle, material, budget, tell)
        print_figures(record)  # first: where the disk is full by now, they are not lost
        path = write(record, options.out)
        report = write_report(record, options.out)
    print(f"Report: {report}")
    print(f"Record: {path}")
    print(f"Next: python -m benchmarks.compare OLD {shell_word(path)}")
    print_verdict(record)
    return exit_code(record)


def exit_code(record: Record) -> int:
    """Return the code that the help promises."""
    if record["verdict"]["may_be_deployed"] == NO:
        return REFUSED
    return PARTLY_DONE if any(failures_of(record)) else DONE


def print_figures(record: Record) -> None:
    """Print the most important rows."""
    shown = {
        "latency": ("backend", "precision", "cells", "measured", "p50_ms", "p95_ms", "cells_per_second", "agreed"),
        "cold_start": ("backend", "precision", "median_s", "peak_mb"),
        "sustained": ("backend", "precision", "cells_per_minute", "slowest", "fastest", "last_to_first"),
        "parity": ("variant", "cells", "flipped", "sensitivity", "specificity", "auc", "verdict"),
        "peers": ("peer", "cells_per_second", "ratio", "lowest", "highest", "largest_difference"),
    }
    for name, columns in shown.items():
        if rows := measured_rows(record, name):
            print_table([{column: row.get(column, "") for column in columns} for row in rows])
            print()
    if record["budget"]:
        print_table(record["budget"])


def print_verdict(record: Record) -> None:
    """Print the answer with its reasons, last, where it is seen."""
    verdict = record["verdict"]
    print(f"May it be deployed: {verdict['may_be_deployed']}{', with caution' if verdict['cautions'] else ''}")
    for reason in [*verdict["against"], *verdict["unsure"], *(f"caution: {line}" for line in verdict["cautions"])]:
        print(f"- {reason}")


if __name__ == "__main__":
    run_command(main)
