from __future__ import annotations

from pathlib import Path

import pytest

from export.seen import seen_by_run
from train.dataset import Cell
from train.placed_cells import PlacedCell, write_cells

CELLS = [Cell(Path(), 1, "20", "a"), Cell(Path(), 1, "21", "b"), Cell(Path(), 0, "H7", "c")]


def groups_after(run: Path, *, subject: str = "5", group: str = "5", sha256: str = "z") -> list[str] | None:
    """Return what is found of CELLS where the run was fitted on one cell, and validated on one of subject 20."""
    placed = [
        PlacedCell("", 1, subject, group, "training", sha256),
        PlacedCell("", 1, "20", "20=21", "validation", "y"),
        PlacedCell("", 1, "21", "20=21", "validation", "x"),
    ]
    write_cells(run / "cells.csv", placed)
    return seen_by_run(run / "best.keras", CELLS).unseen_groups


def test_cells_that_were_fitted_on_and_those_that_chose_the_threshold_are_counted_apart(tmp_path: Path) -> None:
    parts = {"a": "training", "b": "validation", "c": "validation", "d": "test"}
    write_cells(tmp_path / "cells.csv", [PlacedCell("", 1, "5", "5", part, sha256) for sha256, part in parts.items()])
    cells = [*CELLS, Cell(Path(), 0, "H8", "d"), Cell(Path(), 0, "H9", "e")]
    seen = seen_by_run(tmp_path / "best.keras", cells)
    assert (seen.fitted, seen.chosen_on) == (1, 2)


def test_unseen_subjects_are_grouped_as_the_run_groups_them(tmp_path: Path) -> None:
    assert groups_after(tmp_path) == ["20=21", "20=21", "H7"]


@pytest.mark.parametrize(
    "fitted",
    [
        {"subject": "H7", "group": "H7"},
        {"subject": "22", "group": "20=21"},
        {"sha256": "c"},
        {"subject": "", "group": ""},
    ],
    ids=["subject", "group", "file", "unknown"],
)
def test_where_one_may_have_been_fitted_on_there_are_no_unseen_groups(tmp_path: Path, fitted: dict[str, str]) -> None:
    assert groups_after(tmp_path, **fitted) is None
