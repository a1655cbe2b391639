from __future__ import annotations

import csv
import errno
import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import train.fit
from runtime.command_line import PARTLY_DONE
from runtime.errors import DataError, OutputError, RunError, UsageError
from runtime.schema import FitOptions, Recipe, RunConfig, SplitOptions
from tests.small_compact import small_compact
from train.__main__ import main
from train.callbacks import update_average
from train.decision import calibrated
from train.drawn_cells import draw_cells
from train.evaluate import evaluate
from train.fit import fit
from train.models.network import NETWORKS, load_network
from train.placed_cells import cells_of_part
from train.resumption import refuse_other_options
from train.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def few_layers() -> Iterator[None]:
    with small_compact():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "cells"
    draw_cells(folder, 36)
    return folder


def options_for(data: Path) -> FitOptions:
    return FitOptions(
        model="compact",
        data=str(data),
        split=SplitOptions("image", (0.5, 0.25, 0.25)),
        epochs=3,
        batch_size=6,
        image_size=75,
        weights="none",
        seed=0,
    )


@pytest.fixture
def options(data: Path) -> FitOptions:
    return options_for(data)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def quiet(_: str) -> None:
    """Say nothing."""


def weights(run: Path, name: str) -> list[np.ndarray]:
    """All weights of a saved network and its optimizer's state; the state of dropout is set anew by each epoch."""
    model = keras.models.load_model(run / name)
    return [variable.numpy() for variable in (*model.weights, *model.optimizer.variables)]


def kept_of(run: Path) -> list[np.ndarray]:
    return list(keras.models.load_model(run / "kept-3.keras").get_weights())


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a run in the middle of the epoch after `epochs`, once its batches were trained on."""
    real = RunFolder.write_network

    def write_network(self: RunFolder, model: object, path: Path) -> None:
        if len(self.history()) == epochs and path.name != "best.keras":
            raise KeyboardInterrupt
        real(self, model, path)

    monkeypatch.setattr(RunFolder, "write_network", write_network)


@pytest.fixture(scope="module")
def whole(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(options_for(data), folder, cache=cache, tell=quiet)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run to work on."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_leaves_what_others_read(options: FitOptions, whole: Path) -> None:
    folder = RunFolder(whole)
    assert {path.name for path in whole.iterdir()} == {
        "best.keras",
        "cells.csv",
        "config.json",
        "decision.json",
        "history.csv",
        "leaks.json",
        "logs",
        "metrics.json",
        "resume-3.keras",
        "run.lock",
        "scores-validation.csv",
    }
    config = folder.config()
    assert config.options == options
    assert config.part_sizes == {"training": 18, "validation": 9, "test": 9}
    assert len(cells_of_part(folder.cells(), "test")) == 9
    assert [row["epoch"] for row in history(whole)] == ["1", "2", "3"]
    assert all(math.isfinite(float(row[name])) for row in history(whole) for name in ("loss", "val_loss"))
    assert json.loads((whole / "metrics.json").read_text())["validation"]["cells"] == 9


@pytest.mark.parametrize("finished", [0, 1])
def test_a_resumed_run_ends_like_one_that_never_stopped(
    options: FitOptions, whole: Path, tmp_path: Path, cache: Path, finished: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(finished, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            fit(options, tmp_path / "cut", cache=cache, tell=quiet)
    assert len(RunFolder(tmp_path / "cut").history()) == finished, "no finished epoch is lost"
    fit(options, tmp_path / "cut", resume=True, cache=cache, tell=quiet)
    for name in ("best.keras", "resume-3.keras"):
        for of_whole, of_cut in zip(weights(whole, name), weights(tmp_path / "cut", name), strict=True):
            np.testing.assert_allclose(of_whole, of_cut, rtol=1e-4, atol=1e-5)
    losses = [[float(row["loss"]) for row in history(run)] for run in (whole, tmp_path / "cut")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_the_best_epoch_is_kept_and_not_the_last(
    options: FitOptions, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([(0.6, 0.5), (0.9, 0.3), (0.9, 0.4)])
    kept: list[str] = []
    trained = SimpleNamespace(history={"loss": [0.1], "accuracy": [0.9]})
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: trained)
    monkeypatch.setattr(train.fit, "loss_and_accuracy", lambda *_: next(scripted)[::-1])
    monkeypatch.setattr(RunFolder, "write_network", lambda self, model, path: kept.append(path.name))
    monkeypatch.setattr(train.fit, "evaluate_part", lambda *_: None)
    fit(options, tmp_path, cache=cache, tell=quiet)
    assert kept == ["best.keras", "resume-1.keras", "best.keras", "resume-2.keras", "resume-3.keras"]
    assert [row["best"] for row in history(tmp_path)] == ["1", "1", "0"]


def test_a_run_that_diverges_stops_and_says_where(options: FitOptions, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(RunError, match=r"expected a finite loss, found nan in batch \d of epoch \d: the run diverged"):
        fit(options, tmp_path, Recipe("adam", 1e30, "constant"), cache=cache, tell=quiet)


AVERAGED = replace(NETWORKS["compact"].recipe, average=0.9, precision="mixed_bfloat16", early_stopping=2)


@pytest.fixture(scope="module")
def averaged(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in mixed precision whose weights are averaged."""
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    fit(options_for(data), folder, AVERAGED, cache=cache, tell=quiet)
    return folder


def test_what_is_kept_of_a_mixed_precision_run_is_float32_and_averaged(averaged: Path) -> None:
    trained, kept = (keras.models.load_model(averaged / f"{name}-3.keras") for name in ("resume", "kept"))
    assert {layer.compute_dtype for layer in kept.layers if layer.weights} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in trained.layers}
    assert any(
        not np.allclose(one, other) for one, other in zip(trained.get_weights(), kept.get_weights(), strict=True)
    )
    best = max(int(row["epoch"]) for row in history(averaged) if row["best"] == "1")
    saved = keras.models.load_model(averaged / "best.keras").get_weights()
    if best == 3:
        np.testing.assert_array_equal(saved[0], kept.get_weights()[0])
    assert {weights.dtype for weights in saved} == {np.dtype("float32")}


def test_an_averaged_run_goes_on_like_one_that_never_stopped(
    options: FitOptions, averaged: Path, tmp_path: Path, cache: Path
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(1, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            fit(options, tmp_path / "cut", AVERAGED, cache=cache, tell=quiet)
    fit(options, tmp_path / "cut", AVERAGED, resume=True, cache=cache, tell=quiet)
    for one, other in zip(kept_of(averaged), kept_of(tmp_path / "cut"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def few_features(_: Any, standardized: Any, __: str) -> Any:
    return keras.layers.Dense(8, activation="relu")(keras.layers.GlobalAveragePooling2D()(standardized))


def test_a_float16_run_goes_on_like_one_that_never_stopped(
    options: FitOptions, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # float16 is slow on a processor
    quick = replace(NETWORKS["compact"], features=few_features, used_kernel=NETWORKS["vgg"].used_kernel)
    monkeypatch.setitem(NETWORKS, "compact", quick)
    small = replace(options, epochs=2, image_size=32)
    half = replace(NETWORKS["compact"].recipe, precision="mixed_float16")

    def tell(line: str) -> None:
        if line.startswith("epoch 1/"):
            shutil.copytree(tmp_path / "whole", tmp_path / "cut", ignore=shutil.ignore_patterns("run.lock"))

    fit(small, tmp_path / "whole", half, cache=cache, tell=tell)
    fit(small, tmp_path / "cut", half, resume=True, cache=cache, tell=quiet)
    states = [
        load_network(tmp_path / run / "resume-2.keras", "", to_train_in="mixed_float16") for run in ("whole", "cut")
    ]
    one, other = ([*state.weights, *state.optimizer.variables] for state in states)
    assert int(states[0].optimizer.iterations) > 0
    for of_whole, of_cut in zip(one, other, strict=True):
        np.testing.assert_allclose(of_whole.numpy(), of_cut.numpy(), rtol=1e-3, atol=1e-4)


def test_a_state_of_the_optimizer_that_does_not_fit_is_an_error_of_one_line(whole: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests, where a warning is no error
        with pytest.raises(RunError, match=r"^expected a saved network at .*: Skipping variable [^\n]*; fit again$"):
            load_network(whole / "resume-3.keras", "fit again", to_train_in="mixed_float16")


def test_loss_and_accuracy_are_those_of_keras() -> None:
    rng = np.random.default_rng(0)
    labels, p_all = rng.random(50) < 0.7, rng.random(50).astype(np.float32)
    loss, accuracy = train.fit.loss_and_accuracy(labels, p_all)
    assert loss == pytest.approx(float(keras.losses.BinaryCrossentropy()(labels[:, None], p_all[:, None])), rel=1e-5)
    assert accuracy == pytest.approx(float(keras.metrics.BinaryAccuracy()(labels[:, None], p_all[:, None])))
    assert not math.isfinite(train.fit.loss_and_accuracy(labels, np.full(50, np.nan, np.float32))[0])


def test_the_average_moves_by_its_momentum() -> None:
    inputs = keras.Input((1,))
    average, network = (keras.Model(inputs, keras.layers.Dense(1)(inputs)) for _ in range(2))
    average.set_weights([np.array([[1.0]]), np.array([0.0])])
    network.set_weights([np.array([[2.0]]), np.array([10.0])])
    update_average(average, network, momentum=0.9)
    np.testing.assert_allclose(average.get_weights()[0], [[1.1]], rtol=1e-6)
    np.testing.assert_allclose(average.get_weights()[1], [1.0], rtol=1e-6)


def test_a_run_that_gets_no_better_ends_and_is_finished(
    options: FitOptions, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([(0.6, 0.5), (0.9, 0.3), (0.9, 0.4), (0.8, 0.4)])
    trained = SimpleNamespace(history={"loss": [0.1], "accuracy": [0.9]})
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: trained)
    monkeypatch.setattr(train.fit, "loss_and_accuracy", lambda *_: next(scripted)[::-1])
    recipe = Recipe("adam", 1e-3, "constant", early_stopping=2)
    said: list[str] = []
    fit(replace(options, epochs=9), tmp_path, recipe, cache=cache, tell=said.append)
    assert [row["best"] for row in history(tmp_path)] == ["1", "1", "0", "0"]
    assert "stopped: no better epoch in the last 2" in said
    assert (tmp_path / "metrics.json").exists()


def test_a_resumed_run_must_follow_the_same_recipe(options: FitOptions, copy: Path, cache: Path) -> None:
    other = replace(NETWORKS["compact"].recipe, learning_rate=0.5, turn=False)
    with pytest.raises(UsageError, match=r"resume with --learning-rate 0\.002 --turn$"):
        fit(options, copy, other, resume=True, cache=cache, tell=quiet)


def test_a_resumed_run_must_be_the_one_that_was_begun(options: FitOptions, copy: Path, cache: Path) -> None:
    other = replace(options, seed=5, batch_size=4)
    with pytest.raises(UsageError, match="resume with --batch-size 6 --seed 0"):
        fit(other, copy, resume=True, cache=cache, tell=quiet)
    with pytest.raises(UsageError, match="resume with --epochs 3"):
        fit(replace(options, epochs=9), copy, resume=True, cache=cache, tell=quiet)


def test_what_a_resumed_run_was_split_by_may_have_moved(options: FitOptions) -> None:
    split = SplitOptions("fixed", (0.5, 0.25, 0.25), source="run", test_data="a test")
    config = RunConfig(replace(options, split=split), NETWORKS["compact"].recipe, 1, {}, False, (), (), "0", {}, ())
    moved = replace(split, source="old/run", test_data="old/test")
    refuse_other_options(replace(options, split=moved), config.recipe, config, 0)
    with pytest.raises(UsageError, match=r"resume with --test-data 'a test'$"):
        refuse_other_options(replace(options, split=replace(moved, test_data="")), config.recipe, config, 0)
    without = replace(config, options=replace(options, split=replace(split, test_data="")))
    with pytest.raises(UsageError, match=r"resume with no --test-data$"):
        refuse_other_options(replace(options, split=moved), config.recipe, without, 0)


def test_a_resumed_run_must_stay_on_its_backend(options: FitOptions, copy: Path, cache: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["library_versions"]["backend"] = "jax"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"found tensorflow; resume with KERAS_BACKEND=jax$"):
        fit(options, copy, resume=True, cache=cache, tell=quiet)


def test_prepared_images_that_vanish_in_an_epoch_are_an_error_of_one_line(options: FitOptions, tmp_path: Path) -> None:
    seen: list[str] = []

    def tell(line: str) -> None:
        seen.append(line)
        if line.startswith("epoch 1/"):
            [file] = (tmp_path / "cache").glob("*.npy")
            file.unlink()

    with pytest.raises(DataError, match=r"^expected the prepared images at .*; run again, with --resume [^\n]*$"):
        fit(options, tmp_path / "run", cache=tmp_path / "cache", tell=tell)


def test_a_run_is_never_written_over(options: FitOptions, whole: Path, cache: Path) -> None:
    with pytest.raises(RunError, match=r"found a run at .*; add --resume"):
        fit(options, whole, cache=cache, tell=quiet)


def test_the_option_to_resume_with_can_be_pasted(options: FitOptions, copy: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match=r"resume with --fractions 0\.5 0\.25 0\.25$"):
        fit(replace(options, split=SplitOptions("image", (0.6, 0.2, 0.2))), copy, resume=True, cache=cache, tell=quiet)


def test_someone_elses_folder_is_never_written_into(options: FitOptions, tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("a lab's own table")
    with pytest.raises(RunError, match="expected a new or an empty folder for the run, found other files"):
        fit(options, tmp_path, tell=quiet)
    assert (tmp_path / "cells.csv").read_text() == "a lab's own table"


def test_there_must_be_a_run_to_resume(options: FitOptions, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run to resume"):
        fit(options, tmp_path / "none", resume=True)


def test_too_few_cells_leave_no_run(options: FitOptions, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="expected at least one batch of 64 cells"):
        fit(replace(options, batch_size=64), tmp_path / "run", cache=cache, tell=quiet)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_place_is_an_error_before_any_image_is_read(options: FitOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        fit(options, tmp_path / "file" / "run", cache=tmp_path / "cache", tell=quiet)
    assert not (tmp_path / "cache").exists()


def test_a_second_process_on_the_same_run_is_refused_and_harms_nothing(
    options: FitOptions, copy: Path, cache: Path
) -> None:
    before = history(copy)
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(copy / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(RunError, match="no other process uses, found one at work"):
            fit(options, copy, resume=True, cache=cache, tell=quiet)
        other.communicate()
    assert history(copy) == before
    fit(options, copy, resume=True, cache=cache, tell=quiet)  # the lock of a process that has gone does not hold


def test_evaluate_finds_the_cells_by_their_content(data: Path, copy: Path, tmp_path: Path, cache: Path) -> None:
    moved = tmp_path / "moved"
    for index, cell in enumerate(sorted(data.glob("*/*.bmp"))):
        target = moved / cell.parent.name / f"{index}.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(cell.read_bytes())
    said: list[str] = []
    evaluate(copy, moved, "test", cache=cache, tell=said.append)
    metrics = json.loads((copy / "metrics.json").read_text())
    assert set(metrics) == {"validation", "test"}
    assert f"{metrics['test']['accuracy']['value'] * 100:.2f}" in said[0]


def test_evaluate_names_the_cells_that_are_not_there(data: Path, copy: Path, cache: Path) -> None:
    table = copy / "few.csv"
    cells = sorted(data.glob("*/*.bmp"))[::12]
    rows = [f"{cell},{cell.parent.name}," for cell in cells]
    table.write_text("\n".join(["path,label,subject", *rows]))
    with pytest.raises(DataError, match=rf"expected all 9 cells of the validation part in .*few\.csv, .*to {data},"):
        evaluate(copy, table, "validation", cache=cache)


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_label_that_was_corrected_since_is_not_passed_over(
    data: Path, options: FitOptions, copy: Path, tmp_path: Path, cache: Path, command: str
) -> None:
    corrected = RunFolder(copy).cells()
    validated = next(cell for cell in corrected if cell.part == "validation" and cell.label == 1)
    rows = []
    for cell in corrected:
        unnamed = tmp_path / f"{cell.sha256}.bmp"  # a name that gives no label
        shutil.copy(cell.path, unnamed)
        rows.append(f"{unnamed},{0 if cell == validated else cell.label},")
    table = tmp_path / "corrected.csv"
    table.write_text("\n".join(["path,label,subject", *rows]))
    with pytest.raises(DataError, match=f"{validated.sha256}.bmp to be labelled ALL as in the run, found healthy; "):
        if command == "evaluate":
            evaluate(copy, table, "validation", cache=cache, tell=quiet)
        else:
            fit(replace(options, data=str(table)), copy, resume=True, cache=cache, tell=quiet)


def test_evaluate_names_the_folder_of_a_test_part_that_was_given_apart(data: Path, copy: Path, tmp_path: Path) -> None:
    folder = RunFolder(copy)
    config = folder.config()
    split = replace(config.options.split, test_data="elsewhere/test")
    folder.write_config(replace(config, options=replace(config.options, split=split)))
    draw_cells(tmp_path / "others", 6, seed=5)
    with pytest.raises(DataError, match=r"9 cells of the test part .*; point --data to elsewhere/test, where"):
        evaluate(copy, tmp_path / "others", "test")


def test_evaluate_refuses_a_part_without_cells(data: Path, copy: Path, cache: Path) -> None:
    folder = RunFolder(copy)
    folder.write_cells([cell for cell in folder.cells() if cell.part != "test"])
    with pytest.raises(UsageError, match="expected cells in the test part"):
        evaluate(copy, data, "test", cache=cache)


def test_the_command_line_names_what_comes_next(
    data: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--data", str(data), "--model", "compact", "--out", str(tmp_path / "a run"), "--epochs", "1"]
    size = ["--image-size", "75", "--batch-size", "9", "--fractions", "0.5", "0.5", "0", "--cache", str(cache)]
    assert main([*command, *size]) == 0
    said = capsys.readouterr().out
    assert "36 cells (24 ALL, 12 healthy): 18 training, 18 validation; split by image" in said
    assert f"Next: python -m export onnx --run '{tmp_path}/a run' --out BUNDLE" in said


def test_a_split_by_subject_is_measured_over_subjects(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_cells(tmp_path / "cells", 60)
    (tmp_path / "cells" / "all" / "DRAWN_1_99_1_all.png").write_bytes(b"")
    command = ["fit", "--data", str(tmp_path / "cells"), "--model", "compact", "--out", str(tmp_path / "run")]
    size = ["--epochs", "1", "--image-size", "75", "--batch-size", "9", "--cache", str(cache), "--stain-jitter", "0.1"]
    split = ["--split", "subject", "--fractions", "0.5", "0.5", "0"]
    assert main([*command, *size, *split]) == PARTLY_DONE
    said = capsys.readouterr().out
    assert "DRAWN_1_99_1_all.png: the file is empty" in said
    assert "leaks: no subject in two parts" in said
    assert re.search(r"only 1 healthy and \d ALL subjects", said)
    config = RunFolder(tmp_path / "run").config()
    assert config.unseen_subjects
    assert config.recipe == replace(NETWORKS["compact"].recipe, stain_jitter=0.1)
    sides = [
        {cell.subject for cell in RunFolder(tmp_path / "run").cells() if cell.part == part}
        for part in ("training", "validation")
    ]
    assert not sides[0] & sides[1]


def test_an_aim_moves_the_threshold_and_the_metrics_follow(data: Path, copy: Path, cache: Path) -> None:
    said: list[str] = []
    evaluate(copy, data, "validation", aim="sensitivity=1", cache=cache, tell=said.append)
    folder = RunFolder(copy)
    assert folder.decision().aim == "sensitivity=1"
    metrics = folder.metrics()["validation"]
    assert metrics.sensitivity.value == 1
    assert metrics.threshold == folder.decision().threshold
    assert f"threshold {folder.decision().threshold:.4g} (aim: sensitivity=1)" in said[-1]
    evaluate(copy, data, "test", cache=cache, tell=quiet)
    assert folder.metrics()["test"].threshold == folder.decision().threshold
    with pytest.raises(UsageError, match="expected --split-part validation with --aim, received test"):
        evaluate(copy, data, "test", aim="youden", cache=cache, tell=quiet)


def test_an_aim_that_the_trained_network_no_longer_reaches_is_given_up_aloud(
    data: Path, options: FitOptions, copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(copy, data, "validation", aim="specificity=1", cache=cache, tell=quiet)
    aimed = RunFolder(copy).decision()
    monkeypatch.setattr("train.evaluate.unrounded", lambda _, batches: np.ones(len(batches.labels)))
    said: list[str] = []
    assert not fit(options, copy, resume=True, cache=cache, tell=said.append)
    decision, metrics = RunFolder(copy).decision(), RunFolder(copy).metrics()["validation"]
    assert (decision.aim, decision.threshold) == ("none", 0.5)
    assert (metrics.threshold, metrics.sensitivity.value, metrics.specificity.value) == (0.5, 1, 0)
    healthy = sum(cell.label == 0 for cell in cells_of_part(RunFolder(copy).cells(), "validation"))
    assert said[-1] == (
        f"the run's own aim is given up, and its threshold is 0.5 until `python -m train evaluate --run {copy} "
        "--data DIR --aim AIM` chooses another: expected an aim that a threshold up to 1 reaches, received "
        f"specificity=1: p_all of {healthy} of {healthy} healthy cells is 1; aim at a lower specificity, or youden"
    )
    RunFolder(copy).write_decision(aimed)
    command = ["evaluate", "--run", str(copy), "--data", str(data), "--cache", str(cache)]
    assert main(command) == PARTLY_DONE
    with pytest.raises(UsageError, match="received specificity=1"):
        main([*command, "--aim", "specificity=1"])
    assert RunFolder(copy).decision() == decision, "an aim that is asked for now is refused, not replaced"


def test_parts_that_were_measured_at_another_threshold_are_measured_again(data: Path, copy: Path, cache: Path) -> None:
    evaluate(copy, data, "test", cache=cache, tell=quiet)
    said: list[str] = []
    evaluate(copy, data, "validation", aim="specificity=1", cache=cache, tell=said.append)
    folder = RunFolder(copy)
    decision, scores, metrics = folder.decision(), folder.scores("test"), folder.metrics()["test"]
    called = calibrated(scores.p_all, decision.temperature) >= decision.threshold
    assert metrics.threshold == decision.threshold != 0.5
    assert metrics.accuracy.value == pytest.approx((called == scores.labels).mean(), abs=1e-6)
    assert "the test part was measured at the threshold 0.5; with the new decision:" in said


def test_a_run_that_was_cut_off_is_not_evaluated(data: Path, copy: Path, cache: Path) -> None:
    RunFolder(copy).write_history(RunFolder(copy).history()[:2])
    with pytest.raises(RunError, match=r"expected a finished run, found 2 of 3 epochs at .*--resume$"):
        evaluate(copy, data, "validation", cache=cache)


def test_more_epochs_that_were_not_evaluated_are_not_measured_by_the_decision_before_them(
    data: Path, copy: Path, cache: Path
) -> None:
    evaluate(copy, data, "validation", aim="sensitivity=1", cache=cache, tell=quiet)
    folder = RunFolder(copy)
    folder.forget_metrics()  # as `fit` does before it goes on; then it ended without evaluating
    with pytest.raises(RunError, match=r"expected a run folder with metrics\.json at .*--resume$"):
        evaluate(copy, data, "test", cache=cache, tell=quiet)
    assert not (copy / "scores-test.csv").exists()
    evaluate(copy, data, "validation", cache=cache, tell=quiet)
    assert folder.decision().aim == "sensitivity=1", "what the user chose is chosen again for the new network"
    evaluate(copy, data, "test", cache=cache, tell=quiet)
    assert folder.metrics()["test"].threshold == folder.decision().threshold


@pytest.mark.parametrize("part", ["validation", "test"])
def test_figures_of_an_earlier_threshold_are_not_taken_for_those_of_the_decision(
    data: Path, copy: Path, cache: Path, part: str
) -> None:
    folder = RunFolder(copy)
    evaluate(copy, data, "test", cache=cache, tell=quiet)
    earlier = folder.metrics()[part]
    evaluate(copy, data, "validation", aim="specificity=1", cache=cache, tell=quiet)
    folder.add_metrics(part, earlier)  # killed after the decision was written, before it was measured by
    with pytest.raises(RunError, match=r"expected a finished run .*--resume$"):
        folder.refuse_unvalidated()
    evaluate(copy, data, "validation", cache=cache, tell=quiet)
    folder.refuse_unvalidated()


def test_scores_are_kept_as_the_network_gave_them(data: Path, copy: Path, cache: Path) -> None:
    evaluate(copy, data, "test", cache=cache, tell=quiet)
    scores = RunFolder(copy).scores("test")
    cells = cells_of_part(RunFolder(copy).cells(), "test")
    assert scores.hashes == [cell.sha256 for cell in cells]
    assert scores.labels.tolist() == [cell.label == 1 for cell in cells]
    with pytest.raises(RunError, match="expected the scores of the training part"):
        RunFolder(copy).scores("training")


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"[]"])
def test_damaged_metrics_are_an_error_of_one_line(data: Path, copy: Path, cache: Path, damage: Any) -> None:
    path = copy / "metrics.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"expected the metrics of a run at .*delete it and evaluate the run again"):
        evaluate(copy, data, "validation", cache=cache, tell=quiet)


def test_a_damaged_network_is_an_error_of_one_line(data: Path, copy: Path, cache: Path) -> None:
    path = copy / "best.keras"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        RunError,
        match=r"expected a saved network at .*best\.keras, found: .*; put the run.s own best\.keras back, or fit again",
    ):
        evaluate(copy, data, "validation", cache=cache, tell=quiet)


def test_a_disk_that_fills_before_the_run_is_begun_leaves_nothing(
    options: FitOptions, tmp_path: Path, cache: Path
) -> None:
    def full(*_: object) -> None:
        raise OutputError("cannot write config.json: No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_config", full)
        with pytest.raises(OutputError, match="No space left"):
            fit(options, tmp_path / "run", cache=cache, tell=quiet)
        assert not (tmp_path / "run").exists()
        (tmp_path / "mine").mkdir()
        with pytest.raises(OutputError, match="No space left"):
            fit(options, tmp_path / "mine", cache=cache, tell=quiet)
        assert list((tmp_path / "mine").iterdir()) == [], "the user's own folder stays"


def test_what_a_killed_process_left_of_a_network_is_cleared_away(options: FitOptions, copy: Path, cache: Path) -> None:
    (copy / ".resume-3-abcdefgh.keras").write_bytes(b"half a network")
    for name in ("resume-1.keras", "kept-1.keras"):
        (copy / name).write_bytes(b"a state that a later one replaced")
    fit(options, copy, resume=True, cache=cache, tell=quiet)
    assert not list(copy.glob(".*"))
    assert {path.name for path in copy.glob("*-*.keras")} == {"resume-3.keras"}


def test_a_disk_that_fills_while_a_network_is_saved_is_named_though_the_logs_fail_too(
    options: FitOptions, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trained = SimpleNamespace(history={"loss": [0.1], "accuracy": [0.9]})
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: trained)
    monkeypatch.setattr(train.fit, "loss_and_accuracy", lambda *_: (0.5, 0.6))
    monkeypatch.setattr(keras.Model, "save", full)
    monkeypatch.setattr("tensorboardX.record_writer.open_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*best\.keras: No space left on device"):
        fit(options, tmp_path / "run", cache=cache, tell=quiet)


def test_a_folder_that_was_deleted_meanwhile_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cells"), RunFolder(tmp_path / "run").claimed():
        shutil.rmtree(tmp_path / "run")
        raise DataError("no cells")
