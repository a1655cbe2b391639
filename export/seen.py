"""What a run has seen of labelled cells: the files that it was fitted and chosen on, and their subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.dataset import Cell
from train.placed_cells import CELLS_NAME, TRAINING, VALIDATION, PlacedCell, cells_of_part, read_cells


@dataclass(frozen=True)
class Seen:
    """What a run has seen of some cells: on those of its parts the metrics flatter the model."""

    fitted: int  # of its training part
    chosen_on: int  # of its validation part, on which epoch, temperature and threshold were chosen
    unseen_groups: list[str] | None  # of each cell's subject; None unless all are known and none was fitted on

    def __str__(self) -> str:
        return (
            f"{self.fitted} of these cells are of the run's training part\n"
            f"{self.chosen_on} are of its validation part: epoch, temperature and threshold were chosen on them"
        )


def seen_by_run(keras_file: Path, cells: Sequence[Cell]) -> Seen:
    """Return what the run of a Keras file has seen of the cells; raise RunError where its cells.csv cannot be read."""
    placed = read_cells(keras_file.parent / CELLS_NAME)
    fitted, chosen_on = ({cell.sha256 for cell in cells_of_part(placed, part)} for part in (TRAINING, VALIDATION))
    return Seen(
        sum(cell.sha256 in fitted for cell in cells),
        sum(cell.sha256 in chosen_on for cell in cells),
        _unseen_groups(placed, cells),
    )


def _unseen_groups(placed: Sequence[PlacedCell], cells: Sequence[Cell]) -> list[str] | None:
    """Return the group of subjects of each cell; None unless all subjects are known and the run was fitted on none.

    Subjects who share identical files in the run are one group; one whom the run does not know is a group of its own.
    Those of the validation part are unseen here, as in the run's own intervals: `chosen_on` counts them.
    """
    fitted = cells_of_part(placed, TRAINING)
    subject_to_group = {cell.subject: cell.group for cell in placed}
    groups = [subject_to_group.get(cell.subject, cell.subject) for cell in cells]
    known = {cell.group for cell in fitted} | {cell.sha256 for cell in fitted}
    is_seen = any(group in known or cell.sha256 in known for group, cell in zip(groups, cells, strict=True))
    return None if is_seen or "" in known or "" in groups else groups
