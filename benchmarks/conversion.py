"""python -m benchmarks.conversion: what an export costs, how large its files are and how fast they are.

The export runs as a process of its own, so that its peak memory is its own. The files are then timed on the same cells
in turns, beside the Keras model they came from and, where it is installed, beside OpenVINO.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cells import bmp_cells
from benchmarks.peak_memory import Finished, refuse_system_without_peak, run_measured
from benchmarks.peers import openvino_run
from benchmarks.record import FAILED, OK, Row, check_record_folder, tried, write_record
from benchmarks.turns import Candidate, ratio_columns, tried_in_turns
from export.reference import reference_file
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.command_line import (
    DONE,
    PARTLY_DONE,
    ArgumentParser,
    batch_size,
    positive_int,
    print_table,
    run_command,
    tell,
)
from runtime.preprocessing import load_cell
from runtime.schema import MANIFEST_NAME, PRECISIONS, Variant
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from numpy.typing import NDArray


FIRST_GATE_CELLS = 64  # for fp32 alone: enough of each class for a proof, and few, since its conversion is measured
GRAPH_ALONE = "fp32, the graph alone"
RATIO_COLUMNS = ("ratio", "lowest", "highest")
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
        epilog="Exit codes: 0 all was measured; 1 not even fp32 can be exported, or the record cannot be written; "
        "2 finished, but an export or a timing failed, which is a row that says so.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where the run's cells are now; default: where they were"
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
    with TemporaryDirectory() as name:
        folder = Path(name)
        exports = [
            export_row(options.run, options.data, folder / "fp32", ("fp32",), FIRST_GATE_CELLS) | {"status": OK},
            tried({"export": GRAPH_ALONE}, lambda: graph_row(options.run, folder / "model.onnx")),
            *exports_of_all(options.run, options.data, folder, options.cells),
        ]
        print_rows(exports, ("export", "gate_cells", "seconds", "peak_mb"))
        variants = exported_variants(folder)
        sizes = size_rows(variants)
        print_table(sizes)
        speeds = speed_rows(variants, options.run, options.batch_size, options.rounds)
        print_rows(speeds, ("candidate", "ms_per_cell", *RATIO_COLUMNS))
        print("ratio: the candidate's time as a multiple of fp32's in the same round")
        content = {"exports": exports, "sizes": sizes, "speeds": speeds}
        write_record(options.out, "conversion", variants["fp32"].bundle.folder, content)
    return PARTLY_DONE if any(row["status"] == FAILED for row in [*exports, *speeds]) else DONE


def print_rows(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print the rows that hold figures as a table, and below it each that failed with its reason."""
    print_table([{column: row[column] for column in columns} for row in rows if row["status"] == OK])
    for row in rows:
        if row["status"] == FAILED:
            print(f"{row[columns[0]]} failed: {row['reason']}")


def exports_of_all(run: Path, data: Path | None, folder: Path, cells: int) -> Iterator[Row]:
    """Export every precision into one bundle; where that fails, each beside fp32 too, to see which one it is."""
    yield (together := _tried_export(run, data, folder, PRECISIONS, cells))
    if together["status"] == FAILED:
        for precision in PRECISIONS:
            if precision != "fp32":
                yield _tried_export(run, data, folder, ("fp32", precision), cells)


def _tried_export(run: Path, data: Path | None, folder: Path, precisions: tuple[str, ...], cells: int) -> Row:
    name = " ".join(precisions)
    tell(f"exporting {name}")
    return tried({"export": name}, lambda: export_row(run, data, folder / name, precisions, cells, quiet=True))


@dataclass(frozen=True)
class Exported:
    """A variant and the bundle that it lies in."""

    bundle: Bundle
    variant: Variant

    @property
    def file(self) -> Path:
        """Its graph."""
        return self.bundle.path(self.variant)


def exported_variants(folder: Path) -> dict[str, Exported]:
    """Return the variants of all bundles in a folder by precision, from the bundle with most of them."""
    bundles = [Bundle.open(manifest.parent) for manifest in folder.glob(f"*/{MANIFEST_NAME}")]
    by_size = sorted(bundles, key=lambda bundle: len(bundle.manifest.variants))
    found = {variant.precision: Exported(bundle, variant) for bundle in by_size for variant in bundle.manifest.variants}
    return {precision: found[precision] for precision in PRECISIONS if precision in found}


def graph_row(run: Path, file: Path) -> Row:
    """Convert the run's network to fp32 in a process of its own, without comparing it; return what it took."""
    done = run_measured([sys.executable, "-c", CONVERT, str(run), str(file)], quiet=True)
    return _export_row(GRAPH_ALONE, 0, done)


def export_row(
    run: Path, data: Path | None, out: Path, precisions: tuple[str, ...], cells: int, *, quiet: bool = False
) -> Row:
    """Export the run in a process of its own; return what it took. Raises MeasurementError where it fails."""
    command = [sys.executable, "-m", "export", "onnx", "--run", str(run), "--out", str(out)]
    command += ["--precision", *precisions, "--cells", str(cells)]
    if data:
        command += ["--data", str(data)]
    done = run_measured(command, quiet=quiet)
    return _export_row(" ".join(precisions), Bundle.open(out).variant("fp32").proof.cells, done)


def _export_row(name: str, gate_cells: int, done: Finished) -> Row:
    return {"export": name, "gate_cells": gate_cells, "seconds": round(done.seconds, 1), "peak_mb": done.peak_mb}


def size_rows(variants: Mapping[str, Exported]) -> list[Row]:
    """Return the size of each variant's file."""
    megabytes = {name: exported.file.stat().st_size / 2**20 for name, exported in variants.items()}
    return [
        {
            "variant": name,
            "mb": round(size, 2),
            "share_of_fp32": round(size / megabytes["fp32"], 3),
            "layers_kept_in_fp32": len(variants[name].variant.kept_in_fp32),
        }
        for name, size in megabytes.items()
    ]


def speed_rows(variants: Mapping[str, Exported], run: Path, batch_size: int, rounds: int) -> list[Row]:
    """Time every variant, the Keras model and OpenVINO on the same cells in turns; what fails is a row that says so."""
    bundle = variants["fp32"].bundle
    with bmp_cells() as paths:
        loaded = np.stack([load_cell(path, bundle.manifest.image) for path in paths])
    cells = np.resize(loaded, (batch_size, *loaded.shape[1:]))
    openers: dict[str, Callable[[], Candidate]] = {
        f"onnxruntime {name}": partial(_onnxruntime_run, exported, cells) for name, exported in variants.items()
    }
    openers["keras predict"] = lambda: keras_predict(reference_file(bundle, run), cells)
    if find_spec("openvino"):
        openers |= {f"openvino {name}": partial(_openvino_run, exported, cells) for name, exported in variants.items()}
    else:
        print("OpenVINO is not installed: not measured (pip install openvino)")
    turns = tried_in_turns(openers, rounds)
    baseline = turns.seconds.get("onnxruntime fp32")
    rows: list[Row] = [
        {
            "candidate": name,
            "ms_per_cell": round(1000 * float(np.median(samples)) / len(cells), 3),
            **(ratio_columns(samples, baseline) if baseline else dict.fromkeys(RATIO_COLUMNS)),
            "status": OK,
        }
        for name, samples in turns.seconds.items()
    ]
    return rows + [{"candidate": name, "status": FAILED, "reason": why} for name, why in turns.failures.items()]


def _onnxruntime_run(exported: Exported, cells: NDArray[np.uint8]) -> Candidate:
    return partial(open_backend(exported.bundle, "cpu", exported.variant).infer, cells)


def _openvino_run(exported: Exported, cells: NDArray[np.uint8]) -> Candidate:
    return partial(openvino_run(exported.file), cells)


def keras_predict(file: Path, cells: NDArray[np.uint8]) -> Candidate:
    """Return keras.Model.predict on cells that lie in memory."""
    with quiet_tensorflow():
        import keras

    model = keras.models.load_model(file, compile=False)
    return lambda: model.predict(cells, batch_size=len(cells), verbose=0)


if __name__ == "__main__":
    run_command(main)
