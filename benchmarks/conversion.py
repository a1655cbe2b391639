"""python -m benchmarks.conversion: what an export costs, how large its files are and how fast they are.

The export runs as a process of its own, so that its peak memory is its own. The files are then timed on the same cells
in turns, beside the Keras model they came from and, where it is installed, beside OpenVINO.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cells import bmp_cells
from benchmarks.peak_memory import Finished, refuse_system_without_peak, run_measured
from benchmarks.peers import openvino_run
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.turns import Candidate, ratio_columns, timed_in_turns
from export.reference import reference_file
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.command_line import (
    DONE,
    ArgumentParser,
    batch_size,
    positive_int,
    print_table,
    run_command,
)
from runtime.preprocessing import load_cell
from runtime.schema import PRECISIONS
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from numpy.typing import NDArray


FIRST_GATE_CELLS = 64  # for fp32 alone: enough of each class for a proof, and few, since its conversion is measured
# The graph alone, without a proof: what Keras' `model.export` does.
CONVERT = """
import sys
from pathlib import Path
from export.finished_run import find_run
from train.tensorflow_import import quiet_tensorflow
with quiet_tensorflow():
    from export.to_onnx import KerasModel
run = find_run(Path(sys.argv[1]))
KerasModel(run.keras_file, run.decision.temperature).write_onnx(Path(sys.argv[2]))
"""


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.conversion",
        description="Export a run in every precision: seconds, peak memory, file sizes, milliseconds a cell on a CPU.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where the run's cells lie now; default: where they lay"
    )
    parser.add_argument("--cells", type=positive_int, default=200, metavar="N", help="for the gate; default 200")
    parser.add_argument("--batch-size", type=batch_size, default=8, metavar="N", help="of the timed cells; default 8")
    parser.add_argument("--rounds", type=positive_int, default=5, help="default 5")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where conversion.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    refuse_system_without_peak()
    check_record_folder(options.out)
    with TemporaryDirectory() as folder:
        exports = [
            export_row(options.run, options.data, Path(folder) / "fp32", ("fp32",), cells=FIRST_GATE_CELLS),
            graph_row(options.run, Path(folder) / "model.onnx"),
            export_row(options.run, options.data, Path(folder) / "all", PRECISIONS, cells=options.cells),
        ]
        print_table(exports)
        bundle = Bundle.open(Path(folder) / "all")
        sizes = size_rows(bundle)
        print_table(sizes)
        speeds = speed_rows(bundle, options.run, options.batch_size, options.rounds)
        print_table(speeds)
        print("ratio: the candidate's time as a multiple of fp32's in the same round")
        content = {"exports": exports, "sizes": sizes, "speeds": speeds}
        write_record(options.out, "conversion", bundle.folder, content)
    return DONE


def graph_row(run: Path, file: Path) -> Row:
    """Convert the run's network to fp32 in a process of its own, without comparing it; return what it took."""
    done = run_measured([sys.executable, "-c", CONVERT, str(run), str(file)])
    return _export_row("fp32, the graph alone", 0, done)


def export_row(run: Path, data: Path | None, out: Path, precisions: tuple[str, ...], cells: int) -> Row:
    """Export the run in a process of its own; return what it took."""
    command = [sys.executable, "-m", "export", "onnx", "--run", str(run), "--out", str(out)]
    command += ["--precision", *precisions, "--cells", str(cells)]
    if data:
        command += ["--data", str(data)]
    done = run_measured(command)
    return _export_row(" ".join(precisions), Bundle.open(out).variant("fp32").proof.cells, done)


def _export_row(name: str, gate_cells: int, done: Finished) -> Row:
    return {"export": name, "gate_cells": gate_cells, "seconds": round(done.seconds, 1), "peak_mb": done.peak_mb}


def size_rows(bundle: Bundle) -> list[Row]:
    """Return the size of each variant's file."""
    megabytes = {
        variant.precision: (bundle.folder / variant.file).stat().st_size / 2**20 for variant in bundle.manifest.variants
    }
    kept = {variant.precision: len(variant.kept_in_fp32) for variant in bundle.manifest.variants}
    return [
        {
            "variant": name,
            "mb": round(size, 2),
            "share_of_fp32": round(size / megabytes["fp32"], 3),
            "layers_kept_in_fp32": kept[name],
        }
        for name, size in megabytes.items()
    ]


def speed_rows(bundle: Bundle, run: Path, batch_size: int, rounds: int) -> list[Row]:
    """Time every variant, the Keras model and OpenVINO on the same cells in turns."""
    with bmp_cells() as paths:
        loaded = np.stack([load_cell(path, bundle.manifest.image) for path in paths])
    cells = np.resize(loaded, (batch_size, *loaded.shape[1:]))
    candidates: dict[str, Candidate] = {}
    for variant in bundle.manifest.variants:
        candidates[f"onnxruntime {variant.precision}"] = partial(open_backend(bundle, "cpu", variant).infer, cells)
    candidates["keras predict"] = keras_predict(reference_file(bundle, run), cells)
    if find_spec("openvino"):
        for variant in bundle.manifest.variants:
            candidates[f"openvino {variant.precision}"] = partial(openvino_run(bundle.path(variant)), cells)
    else:
        print("OpenVINO is not installed: not measured (pip install openvino)")
    seconds = timed_in_turns(candidates, rounds)
    baseline = seconds["onnxruntime fp32"]
    return [
        {
            "candidate": name,
            "ms_per_cell": round(1000 * float(np.median(samples)) / len(cells), 3),
            **ratio_columns(samples, baseline),
        }
        for name, samples in seconds.items()
    ]


def keras_predict(file: Path, cells: NDArray[np.uint8]) -> Candidate:
    """Return keras.Model.predict on cells that lie in memory."""
    with quiet_tensorflow():
        import keras

    model = keras.models.load_model(file, compile=False)
    return lambda: model.predict(cells, batch_size=len(cells), verbose=0)


if __name__ == "__main__":
    run_command(main)
