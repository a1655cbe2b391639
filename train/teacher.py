"""What a trained run teaches another: its calibrated probabilities as targets beside the labels.

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531). Binary cross-entropy is linear in its target, so the weighted sum of
the losses against label and teacher is the loss against their weighted mean. The temperature that softens the teacher
is the one that calibrates it on its validation part.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import RunError, UsageError
from runtime.files import write_csv_aside
from runtime.schema import FitOptions, SplitOptions
from train.batches import Batches
from train.dataset import Cell
from train.decision import calibrated
from train.evaluate import unrounded
from train.evaluated_run import read_run
from train.models.network import load_network
from train.placed_cells import PlacedCell
from train.prepared import prepare_images
from train.run_folder import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("sha256", "p_all")


def refuse_unfit_teacher(options: FitOptions) -> None:
    """Raise UsageError or RunError unless the teacher is a finished run whose split the student follows."""
    if not options.teacher:
        return
    if not 0 < options.teacher_share < 1:
        raise UsageError(f"expected --teacher-share above 0 and below 1, received {options.teacher_share:g}")
    if options.split.kind != "fixed" or options.split.source != options.teacher:
        raise UsageError(
            "expected the teacher's own split: a teacher that saw the student's validation cells flatters it"
        )
    read_run(Path(options.teacher), options.teacher)


def split_of_teacher(run: Path) -> SplitOptions:
    """Return the split that puts each cell into the part that it has in the teacher's run."""
    own = RunFolder(run).config().options.split
    return SplitOptions("fixed", own.fractions, source=str(run), test_data=own.test_data)


def write_teaching(
    path: Path, options: FitOptions, sources: Sequence[Cell], cells: Sequence[PlacedCell], cache: Path | None
) -> None:
    """Write what the teacher says of each of `cells`, calibrated, to a table with the columns sha256 and p_all.

    `sources` are all cells as found on disk: the teacher may look at another image size than its student.
    """
    run = RunFolder(Path(options.teacher))
    images = prepare_images(sources, run.config().options.image_size, cache)
    network = load_network(run.best_model, "finish the teacher's run first")
    p_all = unrounded(network, Batches(images, cells, batch_size=options.batch_size))
    taught = calibrated(p_all, run.decision().temperature)
    rows = ((cell.sha256, repr(float(p))) for cell, p in zip(cells, taught, strict=True))
    write_csv_aside(path, COLUMNS, rows)


def targets_of(path: Path, cells: Sequence[PlacedCell], share: float) -> NDArray[np.float32]:
    """Return (1 - share) * label + share * teacher's p_all of each cell, float32 [N].

    Raises RunError where the table cannot be read or lacks a cell.
    """
    try:
        with path.open(newline="") as stream:
            taught = {row["sha256"]: float(row["p_all"]) for row in csv.DictReader(stream)}
        return np.array([(1 - share) * cell.label + share * taught[cell.sha256] for cell in cells], dtype=np.float32)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"expected the teacher's answers at {path}, found: {error!r}; distill into a new --out"
        ) from error
