"""python -m export: onnx."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from runtime.allocator import keep_freed_memory
from runtime.command_line import DONE, ArgumentParser, quiet_tensorflow, run_command


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(prog="python -m export", description="Turn a run into a bundle that the runtime reads.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{onnx}")
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
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    _write_onnx(build_parser().parse_args(arguments))
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


if __name__ == "__main__":
    run_command(main)
