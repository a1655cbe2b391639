from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from export.finished_run import FinishedRun
from export.run_cells import training_cells, validation_cells
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.errors import DataError, UsageError
from runtime.files import sha256_of_file
from tests.forbidden_file import forbid
from train.placed_cells import PlacedCell, read_cells, write_cells

# A cell of each class in turn; what a file holds is not looked at here.
PARTS = {"training": 12, "validation": 4, "test": 4, "duplicate": 1, "left out": 1}
NAMES = ("all", "hem")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder that the run was fitted on."""
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def run(data: Path, tmp_path: Path) -> FinishedRun:
    """A finished run with a cells.csv and no more."""
    placed = []
    for part, count in PARTS.items():
        for index in range(count):
            label = 1 - index % 2
            path = data / NAMES[index % 2] / f"{part.replace(' ', '-')}-{index}.bmp"
            path.write_text(path.name)
            placed.append(PlacedCell(str(path), label, f"S{index}", "", part, sha256_of_file(path)))
    (tmp_path / "run").mkdir()
    write_cells(tmp_path / "run" / "cells.csv", placed)
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    training = manifest.training
    return FinishedRun(tmp_path / "run", training.config, training.validation, manifest.decision, training.best_epoch)


def names_of(paths: Iterable[Path]) -> list[str]:
    return sorted(path.name for path in paths)


def cell_names(part: str, count: int) -> list[str]:
    return sorted(f"{part}-{index}.bmp" for index in range(count))


def move(data: Path) -> Path:
    """Move the cells to another folder under other names; return it."""
    moved = data.with_name("moved")
    for name in NAMES:
        (moved / name).mkdir(parents=True)
        for path in (data / name).iterdir():
            path.rename(moved / name / f"renamed-{path.name}")
    shutil.rmtree(data)
    return moved


def keep(data: Path, tmp_path: Path, *names: str) -> Path:
    """A folder with copies of some of the cells."""
    folder = tmp_path / "some"
    for name in names:
        [path] = data.glob(f"*/{name}")
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


def test_validation_cells_are_those_of_the_part_with_label_and_subject(run: FinishedRun) -> None:
    cells = validation_cells(run, None, None)
    assert names_of(cell.path for cell in cells) == cell_names("validation", 4)
    assert {(cell.path.name, cell.label, cell.subject) for cell in cells} == {
        (f"validation-{index}.bmp", 1 - index % 2, f"S{index}") for index in range(4)
    }


def test_moved_validation_cells_are_found_by_their_content(run: FinishedRun, data: Path) -> None:
    before = validation_cells(run, None, None)
    moved = move(data)
    cells = validation_cells(run, moved, None)
    assert names_of(cell.path for cell in cells) == [f"renamed-{name}" for name in cell_names("validation", 4)]
    assert [(cell.sha256, cell.label, cell.subject) for cell in cells] == [
        (cell.sha256, cell.label, cell.subject) for cell in before
    ]


def test_a_limit_spreads_over_the_validation_cells(run: FinishedRun) -> None:
    cells, all_cells = validation_cells(run, None, 3), validation_cells(run, None, None)
    assert [all_cells.index(cell) for cell in cells] == [0, 1, 2]
    assert validation_cells(run, None, 99) == all_cells


def test_a_validation_part_of_one_class_is_refused(run: FinishedRun) -> None:
    cells = read_cells(run.folder / "cells.csv")
    write_cells(run.folder / "cells.csv", [cell for cell in cells if cell.part != "validation" or cell.label == 1])
    with pytest.raises(
        DataError, match=r"expected cells of both classes in the validation part of .*run, found 2 ALL and 0 healthy"
    ):
        validation_cells(run, None, None)


@pytest.mark.parametrize("part", ["validation", "training"])
@pytest.mark.parametrize(("content", "found"), [(None, "none"), ("another", "another one")])
def test_a_cell_that_is_missing_or_changed_is_named(
    run: FinishedRun, data: Path, part: str, content: str | None, found: str
) -> None:
    path = data / "hem" / f"{part}-1.bmp"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    expected = rf"expected the cell of the run at {path}, found {found}; say with --data where the cells lie now"
    with pytest.raises(DataError, match=expected):
        if part == "validation":
            validation_cells(run, None, None)
        else:
            training_cells(run, None, 128)


def test_cells_that_would_be_too_few_for_a_proof_are_refused(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 2)
    with pytest.raises(
        UsageError,
        match=r"to leave enough of the validation part of .*run, received 3, compared on too few cells "
        r"for a proof: (2 ALL and 1|1 ALL and 2) healthy, where 2 of each class are needed; take more, or leave",
    ):
        validation_cells(run, None, 3)
    assert len(validation_cells(run, None, 4)) == 4


def test_a_small_validation_part_is_taken_whole(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 3)
    assert len(validation_cells(run, None, None)) == len(validation_cells(run, None, 200)) == 4


@pytest.mark.parametrize("part", ["validation", "training"])
def test_a_cell_that_may_not_be_read_is_named_with_the_reason(
    run: FinishedRun, data: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    path = data / "all" / f"{part}-0.bmp"
    forbid(monkeypatch, path)
    expected = rf"cannot read the cell of the run at {path}: Permission denied; make it readable, or say with --data"
    with pytest.raises(DataError, match=expected):
        if part == "validation":
            validation_cells(run, None, None)
        else:
            training_cells(run, None, 128)


def test_validation_cells_that_are_not_in_the_data_are_counted_and_named(
    run: FinishedRun, data: Path, tmp_path: Path
) -> None:
    folder = keep(data, tmp_path, "validation-0.bmp", "validation-1.bmp", "validation-2.bmp", "test-0.bmp")
    with pytest.raises(
        DataError,
        match=r"expected the 4 validation cells of the run in --data, 1 are missing, such as .*validation-3\.bmp",
    ):
        validation_cells(run, folder, None)


@pytest.mark.parametrize("is_given", [False, True], ids=["where they lay", "in --calibration-data"])
def test_training_cells_are_of_the_training_part_alone(run: FinishedRun, data: Path, is_given: bool) -> None:
    cells = training_cells(run, data if is_given else None, 128)
    assert names_of(cell.path for cell in cells) == cell_names("training", 12)
    assert {cell.label for cell in cells} == {0, 1}
    in_training = {cell.sha256 for cell in read_cells(run.folder / "cells.csv") if cell.part == "training"}
    assert {cell.sha256 for cell in cells} == in_training


def test_moved_training_cells_are_found_by_their_content_with_label_and_subject(run: FinishedRun, data: Path) -> None:
    cells = training_cells(run, move(data), 128)
    assert {(cell.path.name, cell.label, cell.subject) for cell in cells} == {
        (f"renamed-training-{index}.bmp", 1 - index % 2, f"S{index}") for index in range(12)
    }


def test_a_part_of_the_training_cells_is_enough_to_calibrate(
    run: FinishedRun, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("validation-0.bmp", "test-1.bmp", "test-2.bmp", "left-out-0.bmp")
    folder = keep(data, tmp_path, *cell_names("training", 10), *names)
    assert names_of(cell.path for cell in training_cells(run, folder, 128)) == cell_names("training", 10)
    assert capsys.readouterr().err == (
        f"of the cells in {folder}, 1 of no part, 2 of test part, 1 of validation part are left out: how cells look is "
        "taken from the training part alone\n"
    )


def test_a_duplicate_of_a_training_cell_counts_as_one(
    run: FinishedRun, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = read_cells(run.folder / "cells.csv")
    write_cells(run.folder / "cells.csv", [*placed, replace(placed[0], path="copy.bmp", part="duplicate")])
    for part in PARTS:
        for path in data.glob(f"*/{part.replace(' ', '-')}-*") if part != "training" else ():
            path.unlink()
    shutil.copy(data / "all" / "training-0.bmp", data / "all" / "copy.bmp")
    assert len(training_cells(run, data, 128)) == 12
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_given", [False, True], ids=["where they lay", "in --calibration-data"])
def test_not_more_training_cells_are_taken_than_are_needed(run: FinishedRun, data: Path, is_given: bool) -> None:
    everything = sorted(cell.sha256 for cell in read_cells(run.folder / "cells.csv") if cell.part == "training")
    cells = training_cells(run, data if is_given else None, 3)
    assert [cell.sha256 for cell in cells] == everything[::4], "evenly spread over the part"


WRONG_DATA: dict[str, tuple[tuple[str, ...], str]] = {
    "of the test part": (
        ("test-0.bmp", "test-1.bmp"),
        r"expected cells of the run's training part in .*some, found 2 of test part; choose the folder that the run",
    ),
    "of several other parts": (
        ("test-0.bmp", "validation-0.bmp", "validation-1.bmp"),
        r"found (1 of test part, 2 of validation part|2 of validation part, 1 of test part); choose",
    ),
    "of one class": (
        ("training-0.bmp", "training-2.bmp"),
        r"expected at least 5 cells of each class in the training part of .*some, found 2 ALL and 0 healthy; give more",
    ),
    "too few of a class": (
        tuple(cell_names("training", 9)),
        r"expected at least 5 cells of each class in the training part of .*some, found 5 ALL and 4 healthy; give more",
    ),
}


@pytest.mark.parametrize(("names", "message"), WRONG_DATA.values(), ids=WRONG_DATA.keys())
def test_training_data_of_the_wrong_kind_is_refused(
    run: FinishedRun, data: Path, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    folder = keep(data, tmp_path, *names)
    with pytest.raises(DataError, match=message) as refused:
        training_cells(run, folder, 128)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["validation", "training"])
@pytest.mark.parametrize("is_copied", [False, True], ids=["moved", "copied"])
def test_a_cell_that_lies_among_the_other_class_is_refused_by_name(
    run: FinishedRun, data: Path, part: str, is_copied: bool
) -> None:
    put = shutil.copy if is_copied else shutil.move
    put(data / "hem" / f"{part}-1.bmp", data / "all" / f"{part}-1.bmp")
    expected = (
        rf"expected {data}/all/{part}-1\.bmp to be labelled healthy as in the run, found ALL; move it back to its class"
    )
    with pytest.raises(DataError, match=expected):
        if part == "validation":
            validation_cells(run, data, None)
        else:
            training_cells(run, data, 128)


def test_a_run_that_was_fitted_on_a_few_cells_is_refused(run: FinishedRun) -> None:
    cells = read_cells(run.folder / "cells.csv")
    few = [cell for cell in cells if cell.part != "training" or cell.subject in ("S0", "S1", "S2", "S3")]
    write_cells(run.folder / "cells.csv", few)
    with pytest.raises(DataError, match=r"in the training part of .*run, found 2 ALL and 2 healthy; .* or fit on more"):
        training_cells(run, None, 128)


def test_training_data_that_the_run_does_not_know_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "cell.bmp").write_text(f"other {name}")
    with pytest.raises(
        DataError, match=r"in .*other, found 2 of no part; choose the folder .* with --calibration-data"
    ):
        training_cells(run, tmp_path / "other", 128)


def test_a_place_without_training_cells_is_named_and_no_other_option(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a folder of cells .* at .*nowhere, found neither; check the path$"):
        training_cells(run, tmp_path / "nowhere", 8)
