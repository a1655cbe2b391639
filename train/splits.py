"""Puts each cell into one part: training, validation or test."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime.errors import DataError, RunError, UsageError
from runtime.files import output_errors, written_aside
from train.dataset import Cell, refuse_one_class

PARTS = ("training", "validation", "test")
DUPLICATE = "duplicate"  # an identical file was kept under another name; in no part
UNREADABLE = "unreadable"  # no picture could be read from it; in no part
COLUMNS = ("path", "label", "subject", "group", "part", "sha256")


@dataclass(frozen=True)
class PlacedCell:
    """A cell and the part it is in: a row of cells.csv."""

    path: str
    label: int
    subject: str
    group: str  # cells of one group must not stand on two sides of a subject-level split
    part: str
    sha256: str


def split_by_image(
    cells: Sequence[Cell], unreadable: Iterable[str], fractions: Sequence[float], seed: int
) -> list[PlacedCell]:
    """Deal the cells to the parts at random, each class on its own, so that all parts have the same share of ALL.

    This is the paper's protocol: cells of one subject stand in several parts, so its figures say nothing about
    unseen subjects. Of identical files the first is kept, so that no picture stands in two parts.

    Args:
        cells: All cells that were found.
        unreadable: SHA-256 of the files from which no picture could be read.
        fractions: Shares of training, validation and test, which sum to 1.
        seed: Makes the split repeatable; the order of `cells` does not matter, only their content.

    Raises UsageError for fractions that are no shares; DataError where a part would lack a class.
    """
    check_fractions(fractions)
    sha256_to_part: dict[str, str] = dict.fromkeys(unreadable, UNREADABLE)
    for label in (0, 1):
        hashes = sorted({cell.sha256 for cell in cells if cell.label == label} - sha256_to_part.keys())
        sha256_to_part |= _deal(hashes, fractions, np.random.default_rng([seed, label]))
    placed = _keep_first_of_identical([_place(cell, sha256_to_part[cell.sha256]) for cell in cells])
    for part, fraction in zip(PARTS, fractions, strict=True):
        if fraction > 0:
            refuse_one_class((c for c in cells if sha256_to_part[c.sha256] == part), f"the {part} part")
    return placed


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise UsageError unless there are three shares that sum to 1, the first two of them above 0."""
    training, validation, test = fractions
    if not (training > 0 and validation > 0 and test >= 0 and abs(sum(fractions) - 1) < 1e-6):
        raise UsageError(
            "expected three shares for training, validation and test that sum to 1, the first two above 0, "
            f"received {' '.join(f'{share:g}' for share in fractions)}; for example 0.6 0.2 0.2"
        )


def cells_of_part(placed: Iterable[PlacedCell], part: str) -> list[PlacedCell]:
    """Return the cells of one part, in the order of their hashes, which no path can change."""
    return sorted((cell for cell in placed if cell.part == part), key=lambda cell: cell.sha256)


def write_cells(path: Path, placed: Iterable[PlacedCell]) -> None:
    """Write cells.csv."""
    with (
        written_aside(path) as aside,
        output_errors(path),
        aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(cell, column) for column in COLUMNS] for cell in placed)


def read_cells(path: Path) -> list[PlacedCell]:
    """Read cells.csv; raise RunError where it is missing or not one."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise RunError(f"expected the columns {','.join(COLUMNS)} in {path}, found {reader.fieldnames}")
            return [PlacedCell(**{**row, "label": int(row["label"])}) for row in reader]  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"expected the cells of a run at {path}, found: {error}; check the run folder") from error


def _deal(hashes: list[str], fractions: Sequence[float], rng: np.random.Generator) -> dict[str, str]:
    shuffled = rng.permutation(np.array(hashes, dtype=object))
    ends = np.rint(np.cumsum(fractions) * len(hashes)).astype(int)
    starts = [0, *ends[:-1]]
    return {
        str(sha256): part
        for part, start, end in zip(PARTS, starts, ends, strict=True)
        for sha256 in shuffled[start:end]
    }


def _place(cell: Cell, part: str) -> PlacedCell:
    return PlacedCell(str(cell.path), cell.label, cell.subject, cell.subject, part, cell.sha256)


def _keep_first_of_identical(placed: list[PlacedCell]) -> list[PlacedCell]:
    seen: set[str] = set()
    kept = []
    for cell in placed:
        is_copy = cell.sha256 in seen and cell.part != UNREADABLE
        kept.append(replace(cell, part=DUPLICATE) if is_copy else cell)
        seen.add(cell.sha256)
    return kept


def refuse_too_few(placed: Sequence[PlacedCell], batch_size: int) -> None:
    """Raise DataError where the training part does not fill one batch."""
    size = len(cells_of_part(placed, "training"))
    if size < batch_size:
        raise DataError(
            f"expected at least one batch of {batch_size} cells in the training part, found {size}; "
            "add cells or lower --batch-size"
        )
