"""The command line of export: its options, which of them go together, and the objects they become."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from export.engine import (
    DEFAULT_BATCH,
    DEFAULT_OPTIMIZATION_LEVEL,
    DEFAULT_WORKSPACE_MIB,
    HARDWARE_LEVELS,
    OPTIMIZATION_LEVELS,
    EngineOptions,
)
from export.fewest_cells import FEWEST_TO_CONVERT, FEWEST_TO_PROVE
from export.reference import add_run_argument
from runtime.command_line import ArgumentParser, batch_size, positive_int, probability
from runtime.errors import UsageError
from runtime.schema import ENGINE_PRECISIONS, PRECISIONS, Tolerance

TOLERANCE_LIMITS = tuple(field.name for field in fields(Tolerance))


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(prog="python -m export", description="Turn a run into a bundle that the runtime reads.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{onnx,verify,engine,triton,sign,install}")
    _add_onnx(
        commands.add_parser(
            "onnx",
            help="write a bundle with ONNX variants",
            epilog="Exit codes: 0 written, every variant proved; 1 refused, or a variant failed; 2 written, but some "
            "cells could not be read, or the validation part has too few for a proof.",
        )
    )
    _add_verify(
        commands.add_parser(
            "verify",
            help="prove a bundle's variants on labelled cells",
            epilog="Exit codes: 0 every variant passed; 1 refused, or a variant failed; 2 no variant failed, but some "
            "cells could not be read, or they were too few for a proof, or fewer than a variant failed on before.",
        )
    )
    _add_engine(commands.add_parser("engine", help="build a TensorRT engine on the device that will run it"))
    _add_triton(commands.add_parser("triton", help="write a model repository for the Triton inference server"))
    _add_sign(commands.add_parser("sign", help="sign a bundle with an Ed25519 key, for devices that install it"))
    _add_install(commands.add_parser("install", help="put a bundle into use on the device that will run it"))
    return parser


def tolerances_of(options: argparse.Namespace, usual: Mapping[str, Tolerance]) -> dict[str, Tolerance]:
    """Return the usual tolerances by precision, with the limits that the command line changes."""
    changed = dict(usual)
    for precision, limit, value in options.tolerance:
        changed[precision] = replace(changed[precision], **{limit: value})
    return changed


def refuse_ignored(options: argparse.Namespace, precisions: Sequence[str]) -> None:
    """Raise UsageError for options about precisions that are not there."""
    for precision, limit, _ in options.tolerance:
        if precision not in precisions:
            raise UsageError(
                f"expected --tolerance of {', '.join(precisions)}, received {precision}:{limit}; leave it out, or "
                f"export with --precision {precision}"
            )
    if options.debug_precision and set(precisions) == {"fp32"}:
        raise UsageError(
            "expected a precision to compare with fp32 for --debug-precision, found none; leave it out, or export with "
            "--precision fp16 or int8"
        )


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """Return how an engine is to be built."""
    return EngineOptions(
        precision=options.precision,
        batch=tuple(options.batch),
        workspace_mib=options.workspace,
        optimization_level=options.optimization_level,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        timing_cache=options.timing_cache,
        unproved=options.unproved,
    )


def _add_onnx(onnx: ArgumentParser) -> None:
    onnx.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="RUN",
        help="a run folder, or a folder of runs, of which the best is taken",
    )
    onnx.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="an older bundle there is replaced")
    onnx.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="fp32 is always written")
    onnx.add_argument(
        "--data", type=Path, metavar="DIR", help="where the run's cells are now; default: where they were"
    )
    onnx.add_argument(
        "--calibration-data",
        type=Path,
        metavar="DIR",
        help=f"where the run's training cells are now, {FEWEST_TO_CONVERT} or more of each class: their look goes "
        "into the bundle, and all but fp32 is fitted to them; default: --data",
    )
    onnx.add_argument(
        "--cells",
        type=positive_int,
        metavar="N",
        help=f"compare on N of the validation cells, {FEWEST_TO_PROVE} or more of each class; default: all",
    )
    _add_judging(onnx, "the bundle records them")
    onnx.add_argument(
        "--data-source",
        default="not stated",
        metavar="TEXT",
        help="where the cells come from, for the model card",
    )


def _add_judging(parser: ArgumentParser, note: str) -> None:
    parser.add_argument(
        "--debug-precision", action="store_true", help="name the layers where a failing variant departs"
    )
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        action="append",
        default=[],
        metavar="PRECISION:LIMIT=VALUE",
        help=f"such as int8:sensitivity=0.01, may be repeated; limits: {', '.join(TOLERANCE_LIMITS)}; {note}",
    )


def _add_verify(verify: ArgumentParser) -> None:
    verify.add_argument("bundle", type=Path, metavar="BUNDLE", help="the verdict is written into it")
    verify.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"labelled cells; with fewer than {FEWEST_TO_PROVE} of a class the verdict is shown but not written",
    )
    add_run_argument(verify)
    verify.add_argument("--cells", type=positive_int, metavar="N", help="take N cells, spread over the data")
    verify.add_argument("--out", type=csv_file, metavar="FILE.csv", help="write each variant's answer for each cell")
    _add_judging(verify, "the others stay as the bundle records them")


def _add_triton(triton: ArgumentParser) -> None:
    triton.add_argument("bundle", type=Path, metavar="BUNDLE")
    triton.add_argument("--out", type=Path, required=True, metavar="REPO", help="an older repository there is replaced")


def _add_engine(engine: ArgumentParser) -> None:
    engine.add_argument("bundle", type=Path, metavar="BUNDLE", help="the engine is written into it")
    engine.add_argument("--precision", choices=ENGINE_PRECISIONS, help="which of the bundle's variants; default: fp16")
    engine.add_argument(
        "--batch",
        type=batch_size,
        nargs=3,
        default=DEFAULT_BATCH,
        metavar=("MIN", "OPT", "MAX"),
        help=f"the smallest batch, the one to optimize for, the largest; default: {' '.join(map(str, DEFAULT_BATCH))}",
    )
    engine.add_argument(
        "--workspace",
        type=positive_int,
        default=DEFAULT_WORKSPACE_MIB,
        metavar="MIB",
        help="memory that the layers may use; default: %(default)s",
    )
    engine.add_argument(
        "--optimization-level",
        type=int,
        choices=OPTIMIZATION_LEVELS,
        default=DEFAULT_OPTIMIZATION_LEVEL,
        help="from 0, fastest to build, to 5, fastest to run; default: %(default)s",
    )
    engine.add_argument(
        "--hardware-compatible",
        nargs="?",
        choices=HARDWARE_LEVELS,
        const="ampere-plus",
        default="",
        help="an engine for other GPUs too, slower; without a value: ampere-plus",
    )
    engine.add_argument(
        "--version-compatible", action="store_true", help="an engine for newer versions of TensorRT too, slower"
    )
    engine.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="kernel times of earlier builds; default: a file in the bundle",
    )
    engine.add_argument(
        "--unproved", action="store_true", help="build from a variant that failed or is not proved, too"
    )


def _add_sign(sign: ArgumentParser) -> None:
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="the signature is written into it")
    sign.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="private.pem",
        help="as `openssl genpkey -algorithm ed25519 -out private.pem` makes it",
    )


def _add_install(install: ArgumentParser) -> None:
    install.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="with its signature")
    install.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="DIR/current is the bundle in use, DIR/previous the one before",
    )
    source = install.add_mutually_exclusive_group(required=True)
    source.add_argument("--public-key", type=Path, metavar="public.pem", help="of whoever signs the bundles")
    source.add_argument("--unsigned", action="store_true", help="do not check a signature")
    source.add_argument("--roll-back", action="store_true", help="put DIR/previous into use again; without BUNDLE")
    install.add_argument(
        "--engine",
        action=argparse.BooleanOptionalAction,
        help="build a TensorRT engine; default: if TensorRT and a GPU are present",
    )
    install.add_argument(
        "--precision", choices=PRECISIONS, help="of the engine, or of the self-test without one; default: fp16 or best"
    )


def tolerance(text: str) -> tuple[str, str, float]:
    """Parse PRECISION:LIMIT=VALUE."""
    precision, _, rest = text.partition(":")
    limit, _, value = rest.partition("=")
    if precision not in PRECISIONS or limit not in TOLERANCE_LIMITS or not value:
        raise argparse.ArgumentTypeError(
            f"expected {'|'.join(PRECISIONS)}:{'|'.join(TOLERANCE_LIMITS)}=VALUE, received {text}"
        )
    return precision, limit, probability(value)


def csv_file(text: str) -> Path:
    """Parse the name of a table, so that no model is overwritten by one."""
    path = Path(text)
    if path.suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .csv, received {text}")
    return path
