"""python -m benchmarks.gpu: what a card can do at most, and what training and inference make of it.

It needs no network and no TensorFlow: Keras runs on JAX or Torch, ONNX Runtime where it has CUDA. It was written
without a GPU at hand and has run on CPUs alone (--device cpu), where its figures say nothing of a card.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.environment import nvidia_gpus
from benchmarks.peers import resident_session
from benchmarks.record import FAILED, OK, SKIPPED, Row, check_record_folder, tried, write_record
from benchmarks.training import Training, draw, network_flops
from benchmarks.windows import WindowPlan, figures, time_in_windows
from runtime.backends.onnxruntime import PROVIDERS, has_provider
from runtime.backends.select import open_backend
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.command_line import DONE, PARTLY_DONE, ArgumentParser, batch_size, positive_int, print_table, run_command
from runtime.errors import BackendError
from runtime.schema import MODELS, TRAINING_PRECISIONS, Variant
from train.tensorflow_import import quiet_tensorflow

DTYPES = {"fp32": "float32", "fp16": "float16"}  # of which matrix products are measured
PROVIDER_OF = {"gpu": "cuda", "cpu": "cpu"}


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Matrix products and copies of a card; training and inference beside them; the parity of fp16.",
        epilog="Exit codes: 0 all was measured; 1 nothing was; 2 finished, but something failed.",
    )
    parser.add_argument("--device", choices=tuple(PROVIDER_OF), default="gpu", help="cpu: to try the script itself")
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["allnet", "compact"])
    parser.add_argument("--image-size", type=positive_int, metavar="PX", help="default: each model's own")
    parser.add_argument("--batch-sizes", type=batch_size, nargs="+", default=[1, 8, 32, 128], metavar="N")
    parser.add_argument("--precisions", choices=TRAINING_PRECISIONS, nargs="+", default=list(TRAINING_PRECISIONS))
    parser.add_argument("--training-batch", type=batch_size, default=32, metavar="N")
    parser.add_argument("--steps", type=positive_int, default=50, metavar="N", help="of training; default 50")
    parser.add_argument("--cells", type=positive_int, default=128, metavar="N", help="drawn cells; default 128")
    parser.add_argument("--copied-mb", type=positive_int, default=256, metavar="MB")
    parser.add_argument("--bundles", type=Path, nargs="*", default=[DEFAULT_BUNDLE], metavar="BUNDLE")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where gpu-<card>.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    choose_keras_backend()
    with quiet_tensorflow():
        import keras

        from benchmarks.steps import device_names, has_gpu
    if options.device == "gpu" and not has_gpu():
        raise BackendError(
            f"expected a GPU for Keras on {keras.backend.backend()}, found {', '.join(device_names())}; install JAX or "
            "Torch for CUDA and set KERAS_BACKEND, or try the script with --device cpu"
        )
    tables: dict[str, list[Row]] = {}
    with TemporaryDirectory() as folder, keras.device(f"{options.device}:0"):
        for name, rows in measured(options, Path(folder)):
            print(name)
            print_tables(rows)
            tables[name] = rows
    content = {"devices": device_names(), "keras": f"{keras.__version__} on {keras.backend.backend()}", **tables}
    write_record(options.out, f"gpu-{machine_name(options.device)}", None, content)
    return PARTLY_DONE if any(row["status"] == FAILED for rows in tables.values() for row in rows) else DONE


def choose_keras_backend() -> None:
    """Take JAX or Torch where KERAS_BACKEND names nothing and TensorFlow is not installed."""
    if "KERAS_BACKEND" not in os.environ and not find_spec("tensorflow"):
        for name in ("jax", "torch"):
            if find_spec(name):
                os.environ["KERAS_BACKEND"] = name
                return


def measured(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """Take one measurement after the other; yield its name and its rows."""
    from benchmarks.card import inference_rows, limit_rows, precision_parity_row
    from benchmarks.steps import step_rows

    yield "limits", limit_rows(options.copied_mb * 2**20)
    drawn = draw(folder / "drawn", options.cells)
    for model in options.models:
        training = Training(model, drawn, options.image_size, options.training_batch, folder / model)
        compiled = options.device == "gpu"  # by XLA, which takes minutes for a CPU
        recipes = [replace(training.recipe, precision=name, compiled=compiled) for name in options.precisions]
        batch = training.batches(training.recipe)[0]
        yield f"{model} training", step_rows(training.network, recipes, batch, options.steps)

        def build(precision: str, training: Training = training) -> Any:
            return training.network(replace(training.recipe, precision=precision))

        yield f"{model} inference", inference_rows(build, batch[0], options.batch_sizes, options.precisions)
        narrow = [precision for precision in options.precisions if precision != "float32"]
        yield f"{model} parity", [precision_parity_row(build, batch[0], precision) for precision in narrow]
    for path in options.bundles:
        rows = bundle_rows(Bundle.open(path), PROVIDER_OF[options.device], options.batch_sizes)
        yield f"{path.name} in ONNX Runtime", list(rows)


def bundle_rows(bundle: Bundle, backend: str, batch_sizes: Sequence[int]) -> Iterator[Row]:
    """Yield a row for each variant and batch size in ONNX Runtime, with its parity on the golden cells."""
    if not has_provider(backend):
        yield {"variant": "", "status": SKIPPED, "reason": f"ONNX Runtime here has no {PROVIDERS[backend]}"}
        return
    for variant in bundle.manifest.variants:
        for size in batch_sizes:
            row: Row = {"variant": variant.precision, "batch": size}
            yield tried(row, partial(_bundle_figures, bundle, variant, backend, size))


def _bundle_figures(bundle: Bundle, variant: Variant, backend: str, size: int) -> Row:
    """Time with transfers and without; compare with the Keras model's answers to the golden cells."""
    from benchmarks.card import parity_columns, share_of_limit

    golden = bundle.golden()
    cells = np.resize(golden.cells, (size, *golden.cells.shape[1:]))
    plan = WindowPlan(seconds=0.3, fewest_runs=3)
    with open_backend(bundle, backend, variant) as opened:
        parity = parity_columns(golden.p_all["keras"], opened.infer(golden.cells), bundle.manifest.decision.threshold)
        row = figures(time_in_windows(lambda: opened.infer(cells), plan), size)
    resident = resident_session(bundle.path(variant), PROVIDERS[backend], backend)
    alone = figures(time_in_windows(resident(cells), plan), size)
    share: Row = {"tflops": "", "share_of_matrix": ""}
    if variant.precision in DTYPES:
        flops = network_flops(bundle.manifest.training.config.options.model, bundle.manifest.image.width)
        share = share_of_limit(flops * alone["cells_per_second"], DTYPES[variant.precision])
    return {
        "p50_ms": row["p50_ms"],
        "cells_per_second": row["cells_per_second"],
        "without_transfers": alone["cells_per_second"],
        **share,
        **parity,
    }


def print_tables(rows: list[Row]) -> None:
    """Print the rows that were measured, then a line for each that was not."""
    good = [row for row in rows if row["status"] == OK]
    if good:
        print_table(good)
    for row in rows:
        if row["status"] != OK:
            print(", ".join(f"{name} {value}" for name, value in row.items() if value != ""))


def machine_name(device: str) -> str:
    """Return a name for the record's file: that of the card."""
    names = [gpu["name"] for gpu in nvidia_gpus()] if device == "gpu" else []
    return re.sub(r"[^a-z0-9]+", "-", (names or [device])[0].lower()).strip("-")


if __name__ == "__main__":
    run_command(main)
