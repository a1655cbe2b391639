"""python -m benchmarks.training: is it the network that takes the time of an epoch, or its input?

Figures are compared within one run, so that a busy machine changes them little: the input with the paper's generator,
the steps with their epoch, a training on many cells with one on few, a step's arithmetic with matrix products.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.peak_memory import refuse_system_without_peak
from benchmarks.record import FAILED, Row, check_record_folder, write_record
from benchmarks.training_memory import memory_row
from runtime.command_line import DONE, PARTLY_DONE, ArgumentParser, batch_size, positive_int, print_table, run_command
from runtime.schema import MODELS, TRAINING_PRECISIONS, Recipe
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from train.batches import Batches

EVERY_CHANGE = Recipe("adam", 1e-3, "constant", turn=True, scale=0.05, stain_jitter=0.1, blur=1.0)
GPU_STEPS = 50
TITLES = {
    "input": "Cells a second that the input gives on one core, after the first epoch",
    "epoch": "Mean of the epochs, and the share of them all that is the training step",
    "memory": "Peak memory of `train fit` as a process of its own",
    "steps": "Training steps beside matrix products in the same precision, and the paper's training at that rate",
}


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.training",
        description="Time the input of training beside the paper's generator, and the training step beside its epoch "
        "and beside matrix products; compare the memory of training on few and on many cells.",
    )
    parser.add_argument("--model", choices=MODELS, default="compact")
    parser.add_argument("--data", type=Path, metavar="DIR", help="labelled cells; default: drawn ones")
    parser.add_argument("--cells", type=positive_int, default=256, metavar="N", help="drawn cells; default 256")
    parser.add_argument("--image-size", type=positive_int, metavar="PX", help="default: the model's own")
    parser.add_argument("--batch-size", type=batch_size, default=32, metavar="N")
    parser.add_argument("--rounds", type=positive_int, default=3, help="default 3")
    parser.add_argument(
        "--epoch-steps", type=positive_int, default=64, metavar="N", help="at least, in a timed epoch; default 64"
    )
    parser.add_argument(
        "--memory-cells",
        type=positive_int,
        nargs="*",
        default=[256, 4096],
        metavar="N",
        help="sizes of the trainings whose memory is compared, none without a number; default 256 4096",
    )
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help=f"timed steps in each precision; default: {GPU_STEPS} on a GPU, none on a CPU",
    )
    parser.add_argument(
        "--precisions",
        choices=TRAINING_PRECISIONS,
        nargs="+",
        help="of these steps; default: all on a GPU, float32 on a CPU",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where training.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    if options.memory_cells:
        refuse_system_without_peak()
    with quiet_tensorflow():
        from benchmarks.steps import device_names

    tables: dict[str, list[Row]] = {}
    with TemporaryDirectory() as folder:
        for name, rows in measured(options, Path(folder)):
            print(TITLES[name])
            print_table(rows)
            tables[name] = rows
    write_record(options.out, "training", None, {"devices": device_names(), **tables})
    has_failed = any(row["status"] == FAILED for row in tables.get("steps", []))
    return PARTLY_DONE if has_failed else DONE


def measured(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """Take one measurement after the other; yield its name, a key of TITLES, and its rows."""
    from benchmarks.epochs import epoch_rows
    from benchmarks.steps import has_gpu, step_rows
    from benchmarks.training_input import input_rows

    cells = options.data or draw(folder / "drawn", options.cells)
    training = Training(options.model, cells, options.image_size, options.batch_size, folder / "cache")
    inputs = {
        "prepared, not augmented": training.batches(None),
        "prepared, augmented as for the model": training.batches(training.recipe),
        "prepared, augmented in every way": training.batches(EVERY_CHANGE),
    }
    yield "input", input_rows(training.cells, training.size, training.standardization, inputs, options.rounds)
    batches = training.batches(training.recipe, options.epoch_steps)
    yield "epoch", epoch_rows(training.network(training.recipe), batches, options.rounds)
    if options.memory_cells:
        yield "memory", [memory_row(folder / f"{count}", count) for count in options.memory_cells]
    steps = options.steps or (GPU_STEPS if has_gpu() else 0)
    if steps:
        precisions = options.precisions or (TRAINING_PRECISIONS if has_gpu() else ("float32",))
        recipes = [
            replace(training.recipe, precision=precision, compiled=is_compiled)
            for precision in precisions
            for is_compiled in (False, True)
        ]
        yield "steps", step_rows(training.network, recipes, batches[0], steps)


class Training:
    """Networks about to be trained, and cells that are prepared for it."""

    def __init__(self, model: str, data: Path, image_size: int | None, batch_size: int, cache: Path) -> None:
        from train.dataset import find_cells
        from train.models.network import NETWORKS, refuse_unfit_size
        from train.placed_cells import TRAINING, PlacedCell
        from train.prepared import prepare_images
        from train.standardization import standardization_of

        self.size = image_size or NETWORKS[model].size
        refuse_unfit_size(model, self.size)
        self.recipe = NETWORKS[model].recipe
        self.cells = find_cells(data)
        self._model = model
        self._batch_size = batch_size
        self._images = prepare_images(self.cells, self.size, cache)
        self._placed = [PlacedCell(str(c.path), c.label, c.subject, "", TRAINING, c.sha256) for c in self.cells]
        rows = self._images.rows([cell.sha256 for cell in self.cells])
        self.standardization = standardization_of(self._images.pixels, rows)

    def batches(self, recipe: Recipe | None, least: int = 1) -> Batches:
        """Return an epoch of at least `least` batches, for which the cells are repeated, augmented by `recipe`."""
        from train.batches import Batches

        repeats = math.ceil(least * self._batch_size / len(self._placed))
        return Batches(self._images, self._placed * repeats, batch_size=self._batch_size, shuffle_seed=0, recipe=recipe)

    def network(self, recipe: Recipe) -> Any:
        """Return a network with random weights, compiled by `recipe`."""
        from train.models.network import build_network, compile_network

        network = build_network(self._model, self.size, self.standardization, "none", recipe.precision)
        compile_network(network, recipe, steps=math.ceil(len(self.cells) / self._batch_size))
        return network


def network_flops(model: str, size: int) -> int:
    """Count the arithmetic of a network's forward pass on one cell of `size` pixels, as benchmarks.flops does."""
    from benchmarks.flops import forward_flops
    from train.models.network import build_network
    from train.standardization import Standardization

    return forward_flops(build_network(model, size, Standardization((0.0,) * 3, (1.0,) * 3), "none"))


def draw(folder: Path, count: int) -> Path:
    """Draw cells as 450x450 BMP files, the format of the release."""
    from train.drawn_cells import draw_cells

    draw_cells(folder, count)
    return folder


if __name__ == "__main__":
    run_command(main)
