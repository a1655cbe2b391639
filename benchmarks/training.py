"""python -m benchmarks.training: is it the network that takes the time of an epoch, or its input?

Both figures are ratios within one run, so that a busy machine changes neither much: the batches of an epoch beside the
paper's generator, and training steps on one batch in memory beside whole epochs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record import Row, check_record_folder, print_table, write_record
from runtime.command_line import DONE, ArgumentParser, batch_size, positive_int, quiet_tensorflow, run_command
from runtime.preprocessing import load_cell
from runtime.schema import MODELS, ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from train.batches import Batches
    from train.dataset import Cell
    from train.standardization import Standardization


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.training",
        description="Time the input of training beside the paper's generator, and the training step beside an epoch.",
    )
    parser.add_argument("--model", choices=MODELS, default="compact")
    parser.add_argument("--data", type=Path, metavar="DIR", help="labelled cells; default: drawn ones")
    parser.add_argument("--cells", type=positive_int, default=256, metavar="N", help="drawn cells; default 256")
    parser.add_argument("--image-size", type=positive_int, metavar="PX", help="default: the model's own")
    parser.add_argument("--batch-size", type=batch_size, default=32, metavar="N")
    parser.add_argument("--rounds", type=positive_int, default=3, help="default 3")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where training.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    with quiet_tensorflow():
        import train.fit  # noqa: F401  all that follows needs keras
    with TemporaryDirectory() as folder:
        training = Training(options, Path(folder))
        input_rows = input_side(training, options.rounds)
        step_rows = step_share(training, options.rounds)
    print("Cells a second that the input gives, after the first epoch")
    print_table(input_rows)
    print("Share of an epoch that is the training step: the same number of steps on one batch in memory")
    print_table(step_rows)
    if options.out:
        write_record(options.out, "training", None, {"input": input_rows, "step": step_rows})
    return DONE


class Training:
    """A network about to be trained on cells that are prepared already."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        from train.batches import Batches
        from train.dataset import find_cells
        from train.models.network import build_network, compile_network, default_size, recipe_of
        from train.prepared import prepare_images
        from train.splits import TRAINING, PlacedCell
        from train.standardization import standardization_of

        self.size = options.image_size or default_size(options.model)
        self.cells = find_cells(options.data or draw(folder / "cells", options.cells))
        images = prepare_images(self.cells, self.size, folder / "cache")
        placed = [PlacedCell(str(c.path), c.label, c.subject, "", TRAINING, c.sha256) for c in self.cells]
        self.standardization = standardization_of(images.pixels, images.rows([cell.sha256 for cell in placed]))
        recipe = recipe_of(options.model)
        self.batches = Batches(images, placed, batch_size=options.batch_size, shuffle_seed=0, recipe=recipe)
        self.plain_batches = Batches(images, placed, batch_size=options.batch_size, shuffle_seed=0)
        self.network = build_network(options.model, self.size, self.standardization, "none")
        compile_network(self.network, recipe, steps=len(self.batches))


def draw(folder: Path, count: int) -> Path:
    """Draw cells as 450x450 BMP files, the format of the release."""
    from train.drawn_cells import draw_cells

    draw_cells(folder, count)
    return folder


def input_side(training: Training, rounds: int) -> list[Row]:
    """Compare the batches with the paper's generator, which opens every file in every epoch."""
    candidates: dict[str, Callable[[], object]] = {
        "paper's generator": lambda: list(
            paper_batches(training.cells, training.size, training.standardization, len(training.batches))
        ),
        "prepared, not augmented": lambda: list(all_batches(training.plain_batches)),
        "prepared, augmented": lambda: list(all_batches(training.batches)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for work in candidates.values():
        work()
    for _ in range(rounds):
        for name, work in candidates.items():
            seconds[name].append(seconds_of(work))
    paper = seconds["paper's generator"]
    return [
        {
            "input": name,
            "cells_per_second": round(len(training.cells) / float(np.median(own)), 1),
            "times_the_papers": round(float(np.median(np.divide(paper, own))), 1),
        }
        for name, own in seconds.items()
    ]


def paper_batches(
    cells: list[Cell], size: int, standardization: Standardization, count: int
) -> Iterator[NDArray[np.float32]]:
    """Yield batches as the paper's ImageGenerator is described: read, resize and standardize one file after another."""
    mean, std = (np.asarray(values, np.float32) for values in (standardization.mean, standardization.std))
    image = ImageSpec(size, size)
    for chosen in np.array_split(np.arange(len(cells)), count):
        yield np.stack([(load_cell(cells[index].path, image).astype(np.float32) - mean) / std for index in chosen])


def all_batches(batches: Batches) -> Iterator[Any]:
    """Yield every batch of an epoch."""
    return (batches[index] for index in range(len(batches)))


def step_share(training: Training, rounds: int) -> list[Row]:
    """Compare epochs with as many steps on one batch that is held in memory."""
    cells, labels = training.batches[0]
    held = np.tile(cells, (len(training.batches), 1, 1, 1)), np.tile(labels, (len(training.batches), 1))

    def epoch() -> None:
        training.network.fit(training.batches, epochs=1, verbose=0, shuffle=False)

    def steps() -> None:
        training.network.fit(*held, batch_size=len(cells), epochs=1, verbose=0, shuffle=False)

    epoch()
    steps()
    pairs = [(seconds_of(steps), seconds_of(epoch)) for _ in range(rounds)]
    shares = sorted(step / whole for step, whole in pairs)
    return [
        {
            "epochs": rounds,
            "epoch_s": round(float(np.median([whole for _, whole in pairs])), 2),
            "share": round(float(np.median(shares)), 3),
            "lowest": round(shares[0], 3),
            "highest": round(shares[-1], 3),
        }
    ]


def seconds_of(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
