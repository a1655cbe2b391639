"""python -m export: onnx, engine."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from export.engine import (
    DEFAULT_BATCH,
    DEFAULT_OPTIMIZATION_LEVEL,
    DEFAULT_WORKSPACE_MIB,
    HARDWARE_LEVELS,
    OPTIMIZATION_LEVELS,
    PRECISION_TO_DATATYPE,
    EngineOptions,
    build_engine,
)
from runtime.allocator import keep_freed_memory
from runtime.command_line import DONE, ArgumentParser, batch_size, positive_int, quiet_tensorflow, run_command


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(prog="python -m export", description="Turn a run into a bundle that the runtime reads.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{onnx,engine}")
    onnx = commands.add_parser("onnx", help="write a bundle with ONNX variants")
    onnx.add_argument(
        "--run", type=Path, required=True, metavar="RUN", help="a run folder, or a folder of runs: the best"
    )
    onnx.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="an older bundle there is replaced")
    onnx.add_argument("--precision", nargs="+", choices=("fp32",), default=["fp32"])
    onnx.add_argument(
        "--data-source",
        default="not stated",
        metavar="TEXT",
        help="where the cells come from, for the model card",
    )
    onnx.set_defaults(run_it=_write_onnx)
    _add_engine(commands)
    return parser


def _add_engine(commands: Any) -> None:
    engine = commands.add_parser("engine", help="build a TensorRT engine on the device that will run it")
    engine.add_argument("bundle", type=Path, metavar="BUNDLE", help="the engine is put into it")
    engine.add_argument("--precision", choices=PRECISION_TO_DATATYPE, help="of the bundle's variant; default: fp16")
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
        help="from 0, built fastest, to 5, running fastest; default: %(default)s",
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
        "--timing-cache", type=Path, metavar="FILE", help="what earlier builds learnt; default: kept in the bundle"
    )
    engine.set_defaults(run_it=_build_engine)


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    options = build_parser().parse_args(arguments)
    options.run_it(options)
    return DONE


def _write_onnx(options: argparse.Namespace) -> None:
    from export.finished_run import find_run

    run = find_run(options.run)
    accuracy = run.validation.accuracy.value
    print(f"{run.config.options.model} of {run.folder}, validation accuracy {accuracy:.2%}, epoch {run.best_epoch}")
    started = time.perf_counter()
    with quiet_tensorflow():
        from export.bundle_writer import write_bundle

    keep_freed_memory()
    manifest = write_bundle(run, options.out, options.data_source)
    for variant in manifest.variants:
        print(
            f"{variant.file}: p_all within {variant.parity.max_difference:.1e} of the Keras model on "
            f"{variant.parity.cells} cells at batch sizes {' and '.join(map(str, variant.parity.batch_sizes))}"
        )
    print(f"{options.out} written in {time.perf_counter() - started:.0f} s")
    print(f"Next: python -m runtime.classify FOLDER --bundle {options.out} --out results.csv")


def _build_engine(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    path = build_engine(
        options.bundle,
        EngineOptions(
            precision=options.precision,
            batch=tuple(options.batch),
            workspace_mib=options.workspace,
            optimization_level=options.optimization_level,
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
            timing_cache=options.timing_cache,
        ),
    )
    print(f"{path} written in {time.perf_counter() - started:.0f} s")
    print(f"Next: python -m runtime.classify FOLDER --bundle {options.bundle} --backend tensorrt")


if __name__ == "__main__":
    run_command(main)
