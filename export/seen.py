"""What a run has seen of labelled cells: the files that it was fitted on, and their subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.dataset import Cell
from train.splits import TRAINING, cells_of_part, read_cells


def count_fitted(keras_file: Path, cells: Sequence[Cell]) -> int:
    """Return how many of the cells the run was fitted on: on those the metrics flatter the model."""
    fitted = {cell.sha256 for cell in cells_of_part(read_cells(keras_file.parent / "cells.csv"), TRAINING)}
    return sum(cell.sha256 in fitted for cell in cells)


def unseen_groups(keras_file: Path, cells: Sequence[Cell]) -> list[str] | None:
    """Return the group of subjects of each cell; None unless all subjects are known and the run was fitted on none.

    Subjects who share identical files in the run are one group; one whom the run does not know is a group of its own.
    """
    placed = read_cells(keras_file.parent / "cells.csv")
    fitted = cells_of_part(placed, TRAINING)
    subject_to_group = {cell.subject: cell.group for cell in placed}
    groups = [subject_to_group.get(cell.subject, cell.subject) for cell in cells]
    known = {cell.group for cell in fitted} | {cell.sha256 for cell in fitted}
    is_seen = any(group in known or cell.sha256 in known for group, cell in zip(groups, cells, strict=True))
    return None if is_seen or "" in known or "" in groups else groups
