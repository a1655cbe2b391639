"""The cells of a run, each in its part: cells.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from runtime.errors import DataError, RunError
from runtime.files import write_csv_aside
from runtime.schema import CLASSES
from train.dataset import Cell

TRAINING, VALIDATION, TEST = PARTS = ("training", "validation", "test")
DUPLICATE = "duplicate"  # an identical file was kept under another name; in no part
UNREADABLE = "unreadable"  # no picture could be read from it; in no part
LEFT_OUT = "left out"  # its subject is in the separate test part; in no part
CELLS_NAME = "cells.csv"  # in a run's folder


@dataclass(frozen=True)
class PlacedCell:
    """A cell and the part it is in: a row of cells.csv."""

    path: str
    label: int
    subject: str
    group: str  # cells of one group must be in one part of a subject-level split
    part: str
    sha256: str


COLUMNS = tuple(field.name for field in fields(PlacedCell))


def cells_of_part(placed: Iterable[PlacedCell], part: str) -> list[PlacedCell]:
    """Return the cells of one part, in the order of their hashes, which no path can change."""
    return sorted((cell for cell in placed if cell.part == part), key=lambda cell: cell.sha256)


def has_unseen_subjects(placed: Iterable[PlacedCell]) -> bool:
    """Say whether each part holds subjects of its own: each cell's group is known and in one part alone."""
    group_to_parts: dict[str, set[str]] = {}
    for cell in placed:
        if cell.part in PARTS:
            group_to_parts.setdefault(cell.group, set()).add(cell.part)
    return "" not in group_to_parts and all(len(parts) == 1 for parts in group_to_parts.values())


def cells_without_subject(placed: Iterable[PlacedCell]) -> int:
    """Return of how many cells of the parts the subject is not known."""
    return sum(cell.part in PARTS and not cell.group for cell in placed)


def refuse_other_labels(placed: Iterable[PlacedCell], files: Iterable[Cell]) -> None:
    """Raise DataError where one of the files is a placed cell with another label: it was corrected since, or is wrong.

    Every copy of a cell is looked at: which one is read must not decide whether a wrong label is seen.
    """
    sha256_to_label = {cell.sha256: cell.label for cell in placed}
    for file in files:
        label = sha256_to_label.get(file.sha256, file.label)
        if file.label != label:
            raise DataError(
                f"expected {file.path} to be labelled {CLASSES[label]} as in the run, found {CLASSES[file.label]}; "
                "move it back to its class, or correct the label and fit again"
            )


def write_cells(path: Path, placed: Iterable[PlacedCell]) -> None:
    """Write cells.csv."""
    write_csv_aside(path, COLUMNS, map(astuple, placed))


def read_cells(path: Path) -> list[PlacedCell]:
    """Read cells.csv; raise RunError where it is missing or not one."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise RunError(
                    f"expected the columns {','.join(COLUMNS)} in {path}, found {reader.fieldnames}; "
                    "check the run folder"
                )
            return [PlacedCell(**{**row, "label": int(row["label"])}) for row in reader]  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"expected the cells of a run at {path}, found: {error}; check the run folder") from error
