from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from runtime.cell_names import printable
from runtime.command_line import DONE
from runtime.errors import OutputError, RunError, UsageError
from runtime.schema import FitOptions, RunConfig, SplitOptions
from train.__main__ import main
from train.compare import compare, pair_line
from train.decision import calibrated, decide
from train.evaluated_run import PartScores, read_run
from train.metrics import measure
from train.models.network import NETWORKS
from train.pictures import shortened
from train.placed_cells import PlacedCell
from train.run_folder import Epoch, RunFolder

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes the folder of a finished run whose scores are drawn with a given noise."""

    def make(
        name: str,
        *,
        noise: float = 0.6,
        first_cell: int = 0,
        parts: tuple[str, ...] = ("validation",),
        subjects: tuple[str, str] = ("H1", "1"),
    ) -> Path:
        folder = RunFolder(tmp_path / "runs" / name)
        options = FitOptions("compact", "cells", SplitOptions("image", (0.6, 0.2, 0.2)), 3, 32, 75, "none", 0)
        folder.write_config(
            RunConfig(options, NETWORKS["compact"].recipe, 5, {"training": 9}, False, (1.0,), (1.0,), "0", {}, ())
        )
        folder.write_history([Epoch(n, 0.5 / n, 0.8, 0.6 / n, 0.7, 0.1, 1.0, int(n == 2)) for n in (1, 2, 3)])
        all_cells: list[PlacedCell] = []
        for number, part in enumerate(parts):
            labels = np.arange(120) < 80
            rng = np.random.default_rng([number, round(noise * 100)])
            p_all = 1 / (1 + np.exp(-(2 * labels - 1) / noise + rng.normal(0, 2, 120)))
            cells = [
                PlacedCell("", label, subjects[label], subjects[label], part, f"{part}{first_cell + n:03d}")
                for n, label in enumerate(labels.astype(int).tolist())
            ]
            all_cells += cells
            order = rng.permutation(120)
            folder.write_scores(part, [cells[n] for n in order], p_all[order])
            if part == "validation":
                folder.write_decision(decide(labels, p_all))
            decision = folder.decision()
            folder.add_metrics(part, measure(labels, calibrated(p_all, decision.temperature), decision.threshold))
        folder.write_cells(all_cells)
        return folder.path

    return make


def test_both_tables_the_tests_and_the_pictures_come_from_one_command(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run("good", noise=0.4, parts=("validation", "test")), make_run("poor", noise=1.5)]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "out")]) == DONE
    said = capsys.readouterr().out
    assert said.index("Table I: validation") < said.index("Table II: test")
    assert re.search(r"good and poor: AUC differs by \+0\.\d{4} \(DeLong p = .*\); \d+ cells only the first", said)
    for text in (said, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")):
        assert "the tests treat cells as independent" in text
    assert "good: split by image, subjects in several parts; bootstrap over images" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = ("roc", "precision_recall", "calibration", "confusion")
    assert names == {
        "report.html",
        "training.png",
        "validation.csv",
        "test.csv",
        *(f"{part}_{kind}.png" for part in ("validation", "test") for kind in kinds),
    }


def test_the_page_needs_nothing_beside_it_and_holds_every_picture(make_run: MakeRun, tmp_path: Path) -> None:
    compare([make_run("one"), make_run("<two>", noise=2.0)], tmp_path / "out", lambda _: None)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 5
    assert not re.search(r"https?://|<script|<link", page)
    assert "&lt;two&gt;" in page
    assert "<two>" not in page
    assert "not a diagnosis" in page


def test_the_pictures_are_pictures_with_something_on_them(make_run: MakeRun, tmp_path: Path) -> None:
    compare([make_run("one")], tmp_path / "out", lambda _: None)
    for path in (tmp_path / "out").glob("*.png"):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert min(image.size) > 300
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_pictures_of_many_runs_with_long_names_have_room_for_them(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"2026-11-24_compact_{'x' * 60}_seed{n}", noise=0.4 + n / 5) for n in range(9)]
    compare(runs, tmp_path / "out", lambda _: None)  # a warning of matplotlib that nothing fits would be an error
    shapes = {}
    for path in (tmp_path / "out").glob("*.png"):
        with Image.open(path) as image:
            shapes[path.stem] = image.size
    assert shapes["validation_confusion"][0] <= 4 * 3.2 * 150
    assert shapes["validation_roc"][1] > shapes["validation_roc"][0], "the legend stands below the axes"


def test_a_shortened_name_keeps_its_ends() -> None:
    assert shortened("compact_seed1", 13) == "compact_seed1"
    assert shortened("compact_seed1", 10) == "compa…eed1"


def test_matplotlib_reads_no_formula_and_no_hidden_label_in_a_name() -> None:
    figure = Figure()
    figure.subplots().plot([0], label=shortened("_5$ and 9$", 20))
    [shown] = figure.legend().get_texts()
    assert shown.get_text() == r" _5\$ and 9\$"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no bytes that are no text in a name")
@pytest.mark.parametrize("name", [r"a$\b$", "a\nb", os.fsdecode(b"a\xff")])
def test_a_run_may_be_called_anything(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    compare([make_run(name)], tmp_path / "out", lambda _: None)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"<td>{printable(name)}</td>" in page


def test_the_csv_holds_what_metrics_json_holds(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    compare([run], tmp_path / "out", lambda _: None)
    [row] = csv.DictReader((tmp_path / "out" / "validation.csv").read_text().splitlines())
    metrics = RunFolder(run).metrics()["validation"]
    assert float(row["sensitivity"]) == metrics.sensitivity.value
    assert float(row["auc_high"]) == metrics.auc.high
    assert row["protocol"] == "split by image, subjects in several parts"


def test_runs_on_other_cells_are_not_tested_against_each_other(make_run: MakeRun, tmp_path: Path) -> None:
    said: list[str] = []
    compare([make_run("one"), make_run("other", first_cell=7)], tmp_path / "out", said.append)
    assert "one and other: not tested against each other, they were measured on different cells" in said


def test_runs_before_and_after_a_corrected_label_are_not_tested_against_each_other(make_run: MakeRun) -> None:
    runs = [read_run(make_run(name), name) for name in ("one", "other")]
    one, other = (run.parts["validation"] for run in runs)
    labels = other.labels.copy()
    labels[5] = ~labels[5]
    line = pair_line(("one", one), ("other", replace(other, labels=labels)))
    assert line == "one and other: not tested against each other, they were measured on different labels"


def test_the_order_of_the_cells_in_the_files_does_not_matter(make_run: MakeRun, tmp_path: Path) -> None:
    one = make_run("one")
    twin = make_run("two")
    path = twin / "scores-validation.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    said: list[str] = []
    compare([one, twin], tmp_path / "out", said.append)
    assert any("AUC differs by +0.0000 (DeLong p = 1); 0 cells only the first" in line for line in said)


def test_a_test_that_is_not_defined_is_called_that() -> None:
    labels = np.array([False, False, True, True])
    right = np.array([0.1, 0.2, 0.8, 0.9])
    one, other = (
        PartScores(list("abcd"), labels, p_all, 0.0, measure(labels, p_all, 0.5)) for p_all in (right, 1 - right)
    )
    line = pair_line(("one", one), ("other", other))
    assert "AUC differs by +1.0000 (DeLong p = not defined)" in line


def test_runs_in_folders_of_one_name_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    said: list[str] = []
    compare([make_run("a/run"), make_run("b/run")], tmp_path / "out", said.append)
    assert any("a/run" in line and "b/run" in line for line in said)


def test_one_run_twice_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="received one twice"):
        compare([make_run("one")] * 2, tmp_path / "out")


def test_an_unfinished_run_is_refused_and_nothing_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    (run / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"expected a run folder with metrics\.json at .*--resume$"):
        compare([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_cut_off_is_refused_though_it_was_evaluated(make_run: MakeRun, tmp_path: Path) -> None:
    folder = RunFolder(make_run("one"))
    folder.write_history(folder.history()[:2])
    with pytest.raises(RunError, match=r"expected a finished run, found 2 of 3 epochs at .*--resume$"):
        compare([folder.path], tmp_path / "out")


@pytest.mark.parametrize(("patience", "is_finished"), [(0, False), (1, True), (2, False)])
def test_only_early_stopping_that_came_finishes_a_run_early(
    make_run: MakeRun, patience: int, is_finished: bool
) -> None:
    folder = RunFolder(make_run("one"))  # whose second epoch is the best
    config = folder.config()
    options, recipe = replace(config.options, epochs=9), replace(config.recipe, early_stopping=patience)
    folder.write_config(replace(config, options=options, recipe=recipe))
    with nullcontext() if is_finished else pytest.raises(RunError, match="found 3 of 9 epochs"):
        folder.refuse_unfinished()


def test_where_subjects_are_not_known_none_is_said_to_be_in_several_parts(make_run: MakeRun, tmp_path: Path) -> None:
    said: list[str] = []
    compare([make_run("one", subjects=("", "1"))], tmp_path / "out", said.append)
    assert any("split by image, subjects of 40 cells not known; bootstrap over images" in line for line in said)


def test_someone_elses_folder_is_not_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(OutputError, match="found something else"):
        compare([make_run("one")], tmp_path / "out", lambda _: None)
