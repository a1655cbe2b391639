from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from runtime.errors import DataError, RunError, UsageError
from train.dataset import Cell
from train.splits import PlacedCell, cells_of_part, read_cells, refuse_too_few, split_by_image, write_cells

PAPER = (0.6, 0.2, 0.2)


def cells(positives: int, negatives: int) -> list[Cell]:
    return [
        Cell(Path(f"{index}.bmp"), int(index < positives), str(index % 5), f"{index:064d}")
        for index in range(positives + negatives)
    ]


def test_the_shares_are_those_asked_for_in_each_class() -> None:
    placed = split_by_image(cells(200, 100), [], PAPER, seed=0)
    assert Counter((cell.part, cell.label) for cell in placed) == {
        ("training", 1): 120,
        ("validation", 1): 40,
        ("test", 1): 40,
        ("training", 0): 60,
        ("validation", 0): 20,
        ("test", 0): 20,
    }


def test_the_same_seed_gives_the_same_split_in_any_order_of_files() -> None:
    given = cells(50, 50)
    one, other = split_by_image(given, [], PAPER, seed=3), split_by_image(given[::-1], [], PAPER, seed=3)
    assert {cell.sha256: cell.part for cell in one} == {cell.sha256: cell.part for cell in other}


def test_another_seed_gives_another_split() -> None:
    one, other = (split_by_image(cells(50, 50), [], PAPER, seed=seed) for seed in (0, 1))
    assert [cell.part for cell in one] != [cell.part for cell in other]


def test_a_test_part_may_be_left_out() -> None:
    placed = split_by_image(cells(40, 40), [], (0.75, 0.25, 0), seed=0)
    assert Counter(cell.part for cell in placed) == {"training": 60, "validation": 20}


def test_of_identical_files_one_is_kept() -> None:
    given = cells(20, 20)
    twin = Cell(Path("twin.bmp"), 1, "99", given[0].sha256)
    placed = split_by_image([*given, twin], [], (0.5, 0.5, 0), seed=0)
    assert [cell.path for cell in placed if cell.part == "duplicate"] == ["twin.bmp"]
    kept = [cell.sha256 for part in ("training", "validation") for cell in cells_of_part(placed, part)]
    assert len(kept) == len(set(kept)) == 40


def test_an_unreadable_file_is_in_no_part_and_keeps_its_row() -> None:
    given = cells(20, 20)
    placed = split_by_image(given, [given[5].sha256], (0.5, 0.5, 0), seed=0)
    assert [cell.path for cell in placed if cell.part == "unreadable"] == ["5.bmp"]
    assert len(placed) == 40


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.2, -0.2, 0.0)])
def test_fractions_that_are_no_shares_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match=r"expected three shares .* for example 0\.6 0\.2 0\.2"):
        split_by_image(cells(10, 10), [], fractions, seed=0)


def test_a_part_without_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="expected cells of both classes in the validation part, found 2 ALL and 0"):
        split_by_image(cells(10, 1), [], (0.8, 0.2, 0), seed=0)


def test_fewer_cells_than_a_batch_are_refused() -> None:
    placed = split_by_image(cells(10, 10), [], (0.5, 0.5, 0), seed=0)
    refuse_too_few(placed, batch_size=10)
    with pytest.raises(DataError, match="expected at least one batch of 11 cells in the training part, found 10"):
        refuse_too_few(placed, batch_size=11)


def test_cells_csv_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    placed = split_by_image(cells(10, 10), [], PAPER, seed=0)
    placed.append(PlacedCell('a "b", \udcff.bmp', 1, "", "", "test", "f" * 64))
    write_cells(tmp_path / "cells.csv", placed)
    assert read_cells(tmp_path / "cells.csv") == placed


def test_a_file_that_is_no_cells_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("path,label\n")
    with pytest.raises(RunError, match="expected the columns path,label,subject,group,part,sha256"):
        read_cells(tmp_path / "cells.csv")
