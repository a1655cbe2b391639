from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.command_line import INTERRUPTED
from runtime.errors import RunError, UsageError
from runtime.schema import FitOptions, SplitOptions
from tests.small_compact import small_compact
from train.__main__ import main
from train.decision import calibrated
from train.drawn_cells import draw_cells
from train.fit import fit
from train.placed_cells import PARTS, cells_of_part
from train.run_folder import RunFolder
from train.teacher import COLUMNS, refuse_unfit_teacher, targets_of


@pytest.fixture(scope="module", autouse=True)
def few_layers(finished_run: Path) -> Iterator[None]:
    """Students of few layers; the teacher, which other tests take too, was fitted before."""
    with small_compact():
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def student_of(teacher: Path, data: Path) -> FitOptions:
    split = SplitOptions("fixed", (0.6, 0.4, 0.0), source=str(teacher))
    return FitOptions("compact", str(data), split, 2, 6, 64, "none", 0, teacher=str(teacher), teacher_share=0.5)


@pytest.fixture(scope="module")
def student(finished_run: Path, drawn: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at 64 px that was taught by one at 75 px."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    command = ["distill", "--teacher", str(finished_run), "--data", str(drawn), "--out", str(folder)]
    options = ["--epochs", "2", "--batch-size", "6", "--image-size", "64", "--cache", str(cache)]
    assert main([*command, *options]) == 0
    return folder


def parts_of(run: Path) -> dict[str, set[str]]:
    return {part: {cell.sha256 for cell in cells_of_part(RunFolder(run).cells(), part)} for part in PARTS}


def test_the_student_keeps_the_parts_of_its_teacher(finished_run: Path, student: Path, drawn: Path) -> None:
    assert parts_of(student) == parts_of(finished_run)
    assert RunFolder(student).config().options == student_of(finished_run, drawn)


def test_the_teacher_speaks_of_the_training_cells_as_it_would_itself(
    finished_run: Path, student: Path, drawn: Path, cache: Path, tmp_path: Path
) -> None:
    rows = [line.split(",") for line in RunFolder(student).teaching.read_text().splitlines()]
    assert tuple(rows[0]) == COLUMNS
    said = {sha256: float(p) for sha256, p in rows[1:]}
    assert set(said) == parts_of(finished_run)["training"], "of no cell that the student is judged by"
    # The same cells, called the validation part: what evaluate writes of them is the teacher's own opinion.
    copy = RunFolder(shutil.copytree(finished_run, tmp_path / "teacher"))
    temperature = copy.decision().temperature
    copy.write_cells([replace(cell, part={"training": "test"}.get(cell.part, cell.part)) for cell in copy.cells()])
    assert main(["evaluate", "--run", str(copy.path), "--data", str(drawn), "--split-part", "test"]) == 0
    scores = copy.scores("test")
    own = dict(zip(scores.hashes, calibrated(scores.p_all, temperature), strict=True))
    assert said == pytest.approx(own, abs=1e-5)


def test_targets_lie_between_label_and_teacher(tmp_path: Path, student: Path) -> None:
    cells = cells_of_part(RunFolder(student).cells(), "training")[:2]
    cells = [replace(cell, label=label) for cell, label in zip(cells, (0, 1), strict=True)]
    table = tmp_path / "teacher.csv"
    table.write_text(f"sha256,p_all\n{cells[0].sha256},0.2\n{cells[1].sha256},0.4\n")
    np.testing.assert_allclose(targets_of(table, cells, 0.25), [0.05, 0.85])
    table.write_text(f"sha256,p_all\n{cells[0].sha256},0.2\n")
    with pytest.raises(RunError, match="expected the teacher's answers at"):
        targets_of(table, cells, 0.25)


def test_a_student_that_was_cut_off_goes_on_when_its_teacher_is_gone(
    finished_run: Path, student: Path, drawn: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = shutil.copytree(finished_run, tmp_path / "teacher")
    command = ["distill", "--teacher", str(teacher), "--data", str(drawn), "--out", str(tmp_path / "cut")]
    options = ["--epochs", "2", "--batch-size", "6", "--image-size", "64", "--cache", str(cache)]
    real = RunFolder.write_network

    def write_network(self: RunFolder, model: object, path: Path) -> None:
        if self.history():
            raise KeyboardInterrupt
        real(self, model, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_network", write_network)
        assert main([*command, *options]) == INTERRUPTED
    assert len(RunFolder(tmp_path / "cut").history()) == 1
    shutil.rmtree(teacher)
    assert main([*command, *options, "--resume"]) == 0
    losses = [[epoch.loss for epoch in RunFolder(run).history()] for run in (student, tmp_path / "cut")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_resumed_student_must_follow_the_same_options(
    finished_run: Path, student: Path, drawn: Path, cache: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(student, tmp_path / "student")
    with pytest.raises(UsageError, match=r"resume with --teacher-share 0\.5$"):
        fit(replace(student_of(finished_run, drawn), teacher_share=0.4), copy, resume=True, cache=cache)
    with pytest.raises(UsageError, match=r"resume with python -m train distill$"):
        fit(replace(student_of(finished_run, drawn), teacher="", teacher_share=0.0), copy, resume=True, cache=cache)


def test_a_teacher_must_be_a_finished_run(finished_run: Path, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected a run folder with config\.json"):
        refuse_unfit_teacher(student_of(tmp_path, drawn))
    begun = RunFolder(shutil.copytree(finished_run, tmp_path / "begun"))
    begun.write_history(begun.history()[:3])
    with pytest.raises(RunError, match=r"expected a finished run, found 3 of 20 epochs at .*--resume"):
        refuse_unfit_teacher(student_of(begun.path, drawn))


def test_the_parts_of_a_teacher_that_was_tested_on_other_data_are_kept(
    drawn: Path, tmp_path: Path, cache: Path
) -> None:
    draw_cells(tmp_path / "test", 12, seed=9)
    subjects = ["--split", "subject", "--fractions", "0.5", "0.5", "0", "--test-data", str(tmp_path / "test")]
    size = ["--epochs", "1", "--batch-size", "6", "--image-size", "32", "--cache", str(cache)]
    table = tmp_path / "cells.csv"
    rows = [
        f"{cell},{cell.parent.name},{n % 7}x{cell.parent.name}" for n, cell in enumerate(sorted(drawn.glob("*/*.bmp")))
    ]
    table.write_text("\n".join(["path,label,subject", *rows]) + "\n")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert main(["fit", "--model", "compact", "--data", str(table), "--out", str(teacher), *size, *subjects]) == 0
    assert main(["distill", "--teacher", str(teacher), "--data", str(table), "--out", str(student), *size]) == 0
    assert parts_of(student) == parts_of(teacher)
    assert len(parts_of(student)["test"]) == 12


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_both_label_and_teacher_must_count(finished_run: Path, drawn: Path, share: float) -> None:
    with pytest.raises(UsageError, match="expected --teacher-share above 0 and below 1"):
        refuse_unfit_teacher(replace(student_of(finished_run, drawn), teacher_share=share))


def test_a_student_is_never_judged_by_cells_that_its_teacher_learnt(finished_run: Path, drawn: Path) -> None:
    with pytest.raises(UsageError, match="expected the teacher's own split"):
        refuse_unfit_teacher(replace(student_of(finished_run, drawn), split=SplitOptions("image", (0.5, 0.5, 0.0))))
