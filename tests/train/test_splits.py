from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import DataError, RunError, UsageError
from runtime.schema import SplitOptions
from train.dataset import Cell
from train.groups import groups_of_subjects
from train.placed_cells import PlacedCell, cells_of_part, has_unseen_subjects, read_cells, write_cells
from train.splits import refuse_too_few, split_cells

PAPER = (0.6, 0.2, 0.2)


def cells(positives: int, negatives: int) -> list[Cell]:
    return [
        Cell(
            Path(f"{index}.bmp"),
            int(index < positives),
            f"{'' if index < positives else 'H'}{index % 5}",
            f"{index:064d}",
        )
        for index in range(positives + negatives)
    ]


def split_by_image(
    given: list[Cell], unreadable: list[str], fractions: tuple[float, ...], seed: int
) -> list[PlacedCell]:
    return split_cells(given, [], unreadable, SplitOptions("image", fractions), seed)


def split_by_subject(given: list[Cell], seed: int = 0, **options: Any) -> list[PlacedCell]:
    return split_cells(given, [], [], SplitOptions("subject", options.pop("fractions", PAPER), **options), seed)


def subjects_of(placed: list[PlacedCell], part: str) -> set[str]:
    return {cell.subject for cell in placed if cell.part == part}


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
    twin = Cell(Path("twin.bmp"), 1, "0", given[0].sha256)
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


def test_subjects_that_share_a_file_directly_or_through_others_are_one_group() -> None:
    def cell(subject: str, content: str) -> Cell:
        return Cell(Path(f"{subject}-{content}.bmp"), 1, subject, content)

    given = [cell("20", "a"), cell("21", "a"), cell("21", "b"), cell("9", "b"), cell("7", "c"), cell("", "c")]
    assert groups_of_subjects(given, []) == {"7": "7", "9": "9=20=21", "20": "9=20=21", "21": "9=20=21"}


def test_identical_files_without_a_picture_make_no_group_and_their_subjects_stay_known() -> None:
    empty = [Cell(Path(f"{subject}.bmp"), 1, subject, "e" * 64) for subject in ("0", "1", "8")]
    assert groups_of_subjects(empty, ["e" * 64]) == {"0": "0", "1": "1", "8": "8"}
    placed = split_cells([*cells(40, 40), *empty], [], ["e" * 64], SplitOptions("subject", PAPER), 0)
    assert {cell.group for cell in placed} == {*"012348", "H0", "H1", "H2", "H3", "H4"}


@pytest.mark.parametrize("seed", range(5))
def test_no_subject_stands_in_two_parts_and_every_part_has_both_classes(seed: int) -> None:
    placed = split_by_subject(cells(200, 100), seed)
    parts = [subjects_of(placed, part) for part in ("training", "validation", "test")]
    assert all(any(name.startswith("H") for name in part) for part in parts)
    assert all(any(not name.startswith("H") for name in part) for part in parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert has_unseen_subjects(placed)
    assert not has_unseen_subjects(split_by_image(cells(200, 100), [], PAPER, seed))


def test_the_shares_of_a_split_by_subject_are_met_as_well_as_whole_subjects_allow() -> None:
    sizes = Counter(cell.part for cell in split_by_subject(cells(200, 100)))
    assert sizes == {"training": 180, "validation": 60, "test": 60}


def test_a_split_by_subject_depends_on_the_seed_and_not_on_the_order_of_files() -> None:
    given = cells(200, 100)
    assert subjects_of(split_by_subject(given), "test") == subjects_of(split_by_subject(given[::-1]), "test")
    assert len({frozenset(subjects_of(split_by_subject(given, seed), "test")) for seed in range(9)}) > 1


def test_subjects_that_share_a_file_stay_together() -> None:
    given = cells(200, 100)
    aliases = [Cell(Path(f"alias{n}.bmp"), 1, str(n), given[0].sha256) for n in (1, 2)]
    for seed in range(5):
        placed = split_by_subject([*given, *aliases], seed)
        assert len({cell.part for cell in placed if cell.subject in "012" and cell.part != "duplicate"}) == 1


def test_named_subjects_validate_with_those_that_share_their_files() -> None:
    given = cells(40, 40)
    alias = Cell(Path("alias.bmp"), 1, "4", given[3].sha256)
    placed = split_by_subject([*given, alias], validation_subjects=("3", "h1"))
    assert subjects_of(placed, "validation") == {"3", "4", "H1"}
    assert subjects_of(placed, "training") == {"0", "1", "2", "H0", "H2", "H3", "H4"}


def test_an_unknown_subject_is_named() -> None:
    with pytest.raises(UsageError, match=r"expected --validation-subjects out of 0 1 .* H4, received 99"):
        split_by_subject(cells(40, 40), validation_subjects=("99", "H1"))


def test_too_few_subjects_for_the_parts_are_refused() -> None:
    given = [cell for cell in cells(40, 40) if cell.subject not in ("H2", "H3", "H4")]
    with pytest.raises(DataError, match=r"expected at least 3 healthy subjects, .* found 2 \(H0, H1\)"):
        split_by_subject(given)


def test_cells_without_a_subject_cannot_be_split_by_subject() -> None:
    nameless = Cell(Path("x.png"), 1, "", "f" * 64)
    with pytest.raises(DataError, match=r"found none for 1 cells \(such as x\.png\)"):
        split_by_subject([*cells(40, 40), nameless])


def test_a_subject_under_both_labels_is_refused() -> None:
    odd = Cell(Path("odd.png"), 0, "3", "f" * 64)
    with pytest.raises(DataError, match="expected one label for each subject, found cells of both classes under 3"):
        split_by_image([*cells(40, 40), odd], [], PAPER, 0)


def test_a_fold_of_the_release_validates() -> None:
    given = [Cell(Path(f"data/fold_{n % 3}/x/{n}.bmp"), n % 2, str(n % 2), f"{n:064d}") for n in range(60)]
    placed = split_cells(given, [], [], SplitOptions("folds", PAPER, validation_fold="fold_2"), 0)
    assert {Path(cell.path).parts[1] for cell in placed if cell.part == "validation"} == {"fold_2"}
    assert {Path(cell.path).parts[1] for cell in placed if cell.part == "training"} == {"fold_0", "fold_1"}
    with pytest.raises(UsageError, match="expected cells in a folder named fold_7"):
        split_cells(given, [], [], SplitOptions("folds", PAPER, validation_fold="fold_7"), 0)


def test_a_fixed_split_is_read_back_from_another_run(tmp_path: Path) -> None:
    given = cells(40, 40)
    before = split_by_image(given, [], PAPER, seed=7)
    write_cells(tmp_path / "cells.csv", before)
    fixed = SplitOptions("fixed", PAPER, source=str(tmp_path))
    assert [cell.part for cell in split_cells(given, [], [], fixed, 0)] == [cell.part for cell in before]
    with pytest.raises(DataError, match=r"found 1 others \(such as new\.png\)"):
        split_cells([*given, Cell(Path("new.png"), 1, "", "f" * 64)], [], [], fixed, 0)


def test_a_test_part_given_apart_is_whole_and_nothing_of_it_is_trained_on() -> None:
    given = cells(100, 50)
    test_cells = [Cell(Path(f"t{n}.bmp"), n % 2, "3" if n % 2 else "H7", f"{1000 + n:064d}") for n in range(10)]
    test_cells.append(Cell(Path("copy.bmp"), 1, "3", given[8].sha256))
    options = SplitOptions("subject", PAPER, test_data="test")
    placed = split_cells(given, test_cells, [], options, seed=0)
    assert [cell.path for cell in placed if cell.part == "test"] == [str(cell.path) for cell in test_cells]
    assert subjects_of(placed, "left out") == {"3"}
    assert "3" not in subjects_of(placed, "training") | subjects_of(placed, "validation")
    sizes = Counter(cell.part for cell in placed)
    assert sizes["training"] / (sizes["training"] + sizes["validation"]) == pytest.approx(0.75, abs=0.05)


def test_too_few_subjects_are_explained_by_those_that_the_test_part_has() -> None:
    test_cells = [Cell(Path(f"t{n}.bmp"), 0, f"H{n}", f"{1000 + n:064d}") for n in range(4)]
    options = SplitOptions("subject", PAPER, test_data="test")
    message = r"at least 2 healthy subjects, .* found 1 \(H4\); .*; 4 subjects \(such as H0\) are left out"
    with pytest.raises(DataError, match=message):
        split_cells(cells(40, 40), test_cells, [], options, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SplitOptions("image", PAPER, validation_subjects=("3",)), "expected --split subject with --validation-sub"),
        (SplitOptions("image", PAPER, validation_fold="fold_1"), "expected --split folds with --validation-fold"),
        (SplitOptions("folds", PAPER), "expected --validation-fold with --split folds, received none"),
        (SplitOptions("fixed", PAPER), "expected --split-of with --split fixed, received none"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: SplitOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_cells(cells(40, 40), [], [], options, 0)


def test_no_part_stays_empty_however_few_and_large_the_subjects_are() -> None:
    given = [cell for cell in cells(200, 100) if cell.subject in ("0", "1", "2", "H0", "H1", "H2")]
    placed = split_by_subject(given, fractions=(0.9, 0.05, 0.05))
    assert Counter(cell.part for cell in placed if cell.label) == {"training": 40, "validation": 40, "test": 40}
