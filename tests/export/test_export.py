from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from scipy.special import expit, logit

import export.bundle_writer
from export.__main__ import main
from export.bundle_writer import ExportOptions, write_bundle
from export.finished_run import find_run
from export.graph import weighted_nodes
from export.heat_graph import SMALLEST_CORRELATION
from export.operators import refuse_unsupported
from export.to_onnx import KerasModel
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import run_command
from runtime.demo import DEMO_CELLS
from runtime.errors import BackendError, BundleError, ConversionError, DataError, OutputError, RunError
from runtime.files import sha256_of_file
from runtime.preprocessing import load_cell
from runtime.schema import ENGINE_PRECISIONS, OUTPUT_NAME, PRECISIONS, TOLERANCES, ImageSpec, Range, Tolerance
from tests.small_network import types_of
from tests.tiny_bundle import onnx_answers, record_hashes
from train.dataset import find_cells
from train.decision import calibrated
from train.evaluate import evaluate_part
from train.metrics import METRIC_NAMES, five_metrics
from train.placed_cells import cells_of_part, read_cells
from train.prepared import prepare_images
from train.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


def keras_model(run: Path) -> KerasModel:
    return KerasModel(run / "best.keras", find_run(run).decision.temperature)


def test_the_graph_is_the_one_that_was_promised(bundle: Path) -> None:
    model = onnx.load(bundle / "model.fp32.onnx")
    onnx.checker.check_model(model, full_check=True)
    [cells], [p_all, heat] = model.graph.input, model.graph.output
    assert (cells.name, cells.type.tensor_type.elem_type) == ("cells", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in cells.type.tensor_type.shape.dim][1:] == [75, 75, 3]
    assert (p_all.name, p_all.type.tensor_type.elem_type) == ("p_all", onnx.TensorProto.FLOAT)
    assert len(p_all.type.tensor_type.shape.dim) == 1
    assert (heat.name, heat.type.tensor_type.elem_type) == ("heat", onnx.TensorProto.FLOAT)
    assert [dim.dim_value for dim in heat.type.tensor_type.shape.dim][1:] == [10, 10]
    assert {opset.version for opset in model.opset_import if not opset.domain} == {17}
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 0
    assert model.graph.node[0].op_type == "Cast", "TensorRT takes uint8 only where a cast comes first"
    assert model.graph.node[0].input == ["cells"]


def test_an_interrupt_that_tf2onnx_drops_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, finished_run: Path, tmp_path: Path
) -> None:
    def drop_it(*_: object, **__: object) -> tuple[None, None]:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return None, None

    model = keras_model(finished_run)
    monkeypatch.setattr("tf2onnx.convert.from_function", drop_it)
    with pytest.raises(KeyboardInterrupt):
        model.write_onnx(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_checkpoint_of_another_size_than_the_runs_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["options"]["image_size"] = 80
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        RunError, match=r"expected a model of cells of 80 x 80 pixels .*found \{\(75, 75\)\}; put the run"
    ):
        main(["onnx", "--run", str(run), "--out", str(tmp_path / "bundle")])
    assert not (tmp_path / "bundle").exists()


def test_the_graph_decides_like_keras_at_any_batch_size(bundle: Path, finished_run: Path, drawn: Path) -> None:
    image = Bundle.open(bundle).manifest.image
    cells = np.stack([load_cell(path, image) for path in sorted(drawn.glob("*/*.bmp"))[13:22]])  # of both classes
    reference = keras_model(finished_run).predict(cells)
    assert np.ptp(reference) > 1e-3, "cells that all get one answer would prove nothing"
    session = onnxruntime.InferenceSession(bundle / "model.fp32.onnx", providers=["CPUExecutionProvider"])
    for batch_size in (1, 4, 9):
        answers = [
            session.run(["p_all"], {"cells": cells[start : start + batch_size]})[0] for start in range(0, 9, batch_size)
        ]
        np.testing.assert_allclose(np.concatenate(answers), reference, atol=1e-5)


def test_calibration_is_folded_into_the_last_layer(finished_run: Path, drawn: Path) -> None:
    image = ImageSpec(75, 75)
    cells = np.stack([load_cell(path, image) for path in sorted(drawn.glob("*/*.bmp"))[13:22]])
    plain = KerasModel(finished_run / "best.keras", 1.0).predict(cells)
    for temperature in (0.5, 2.0):
        calibrated = KerasModel(finished_run / "best.keras", temperature).predict(cells)
        np.testing.assert_allclose(calibrated, expit(logit(plain.astype(np.float64)) / temperature), atol=1e-5)
        assert np.abs(calibrated - plain).max() > 1e-3, "otherwise this proves nothing"


def test_of_an_overconfident_network_evaluate_says_what_its_graph_says(
    finished_run: Path, drawn: Path, tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(finished_run, tmp_path / "run")))
    scores = folder.scores("validation")
    network = keras.models.load_model(folder.best_model, compile=False)
    weights, bias = network.get_layer(OUTPUT_NAME).get_weights()
    logits = logit(scores.p_all)
    scale = 46 / np.ptp(logits)  # logits from -16 to 30: from 17 on the sigmoid is 1 in float32
    network.get_layer(OUTPUT_NAME).set_weights([weights * scale, (bias - logits.min()) * scale - 16])
    network.save(folder.best_model)
    order = np.array(scores.hashes)[np.argsort(logits)]
    healthy, leukemic = order[-3], order[2]  # wrong, and sure of it: a temperature is to be found
    wrong = {healthy: 0, leukemic: 1}
    folder.write_cells([replace(cell, label=wrong.get(cell.sha256, cell.label)) for cell in folder.cells()])

    images = prepare_images(find_cells(drawn), 75, tmp_path / "cache")
    found = []
    for aim in ("sensitivity=0.9", "specificity=1", "youden"):
        evaluate_part(folder, images, "validation", lambda _: None, aim=aim)
        found.append((folder.decision(), folder.metrics()["validation"]))

    [temperature] = {decision.temperature for decision, _ in found}  # which no aim moves
    assert temperature > 2
    cells = cells_of_part(folder.cells(), "validation")
    labels = np.array([cell.label == 1 for cell in cells])
    KerasModel(folder.best_model, temperature).write_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    [p_all] = session.run(["p_all"], {"cells": np.stack([load_cell(cell.path, ImageSpec(75, 75)) for cell in cells])})
    for decision, metrics in found:
        for name, value in zip(METRIC_NAMES, five_metrics(labels, p_all, decision.threshold), strict=True):
            assert getattr(metrics, name).value == pytest.approx(value, abs=1e-6), (decision.aim, name)
    p_of_run = calibrated(folder.scores("validation").p_all, temperature)
    np.testing.assert_allclose(p_all, p_of_run, atol=1e-4)


def test_the_manifest_tells_where_the_model_comes_from(bundle: Path, finished_run: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    run = find_run(finished_run)
    assert manifest.training.validation == run.validation
    assert manifest.training.best_epoch == run.best_epoch
    assert manifest.decision == run.decision
    assert manifest.training.config.options.data == "cells", "the folder's name, not its path"
    assert manifest.training.run == finished_run.name, "the folder's name, not its path"
    [variant] = manifest.variants
    assert variant.proof.passed
    assert variant.proof.batch_sizes == (8, 1, 5)
    assert variant.proof.max_difference <= 1e-4
    assert variant.proof.data == "validation part of the run"
    assert variant.proof.cells == run.config.part_sizes["validation"]


def test_the_golden_cells_are_the_drawn_ones_with_keras_answers(bundle: Path, finished_run: Path) -> None:
    golden = Bundle.open(bundle).golden()
    assert golden.cells.shape == (9, 75, 75, 3)
    np.testing.assert_allclose(golden.p_all["keras"], keras_model(finished_run).predict(golden.cells), atol=1e-6)
    np.testing.assert_allclose(golden.p_all["fp32"], golden.p_all["keras"], atol=1e-4)


def test_an_interrupted_export_leaves_no_bundle(
    finished_run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write_undamaged(monkeypatch, bundle)
    monkeypatch.setattr(export.bundle_writer, "model_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions(source=""))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_and_anything_else_is_not(
    finished_run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_undamaged(monkeypatch, bundle)
    shutil.copytree(bundle, tmp_path / "old")
    (tmp_path / "old" / "model.fp16.onnx").write_text("of another export")
    write_bundle(find_run(finished_run), tmp_path / "old", ExportOptions(source=""))
    assert not (tmp_path / "old" / "model.fp16.onnx").exists()
    (tmp_path / "old" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"found notes\.txt; move it away"):
        write_bundle(find_run(finished_run), tmp_path / "old", ExportOptions(source=""))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(OutputError, match="found something else at"):
        write_bundle(find_run(finished_run), tmp_path / "other", ExportOptions(source=""))


def test_of_a_folder_of_runs_the_best_is_taken_and_named(
    finished_run: Path,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_undamaged(monkeypatch, bundle)
    for name, accuracy in (("a", 0.3), ("b", 0.99), ("c", 0.5)):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
        path = tmp_path / "runs" / name / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["validation"]["accuracy"]["value"] = accuracy
        path.write_text(json.dumps(metrics))
    for name, lost in (("d", "metrics.json"), ("e", "best.keras")):
        shutil.copytree(tmp_path / "runs" / "b", tmp_path / "runs" / name)
        (tmp_path / "runs" / name / lost).unlink()
    assert main(["onnx", "--run", str(tmp_path / "runs"), "--out", str(tmp_path / "bundle")]) == 0
    said = capsys.readouterr().out
    assert "do not compare" not in said
    for name, lost, to_do in (
        ("d", "a run folder with metrics.json", "finish it with"),
        ("e", "a finished run", "put the run's own best.keras back"),
    ):
        assert re.search(rf"left out: expected {lost} at {tmp_path / 'runs' / name}, found .*; {to_do}", said)
    assert f"compact of {tmp_path / 'runs' / 'b'}, validation accuracy 99.00%" in said
    assert "Next: python -m runtime.classify" in said


def test_runs_that_were_validated_on_other_cells_are_told_not_to_compare(finished_run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(finished_run, tmp_path / name)
    folder = RunFolder(tmp_path / "b")
    said: list[str] = []
    last = next(cell for cell in folder.cells() if cell.part == "validation")
    folder.write_cells([replace(cell, part="test") if cell == last else cell for cell in folder.cells()])
    assert find_run(tmp_path, said.append).folder == tmp_path / "a"
    [line] = said
    assert line.startswith(f"{tmp_path / 'a'} was validated on other cells than {tmp_path / 'b'}, so their accuracies")


def test_a_run_that_is_not_finished_is_refused(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(
        RunError, match=r"expected a run folder with metrics\.json .*; finish it with the command that began"
    ):
        find_run(tmp_path / "run")


def test_a_run_whose_best_epoch_is_unknown_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    RunFolder(run).write_history([replace(epoch, best=0) for epoch in RunFolder(run).history()])
    with pytest.raises(RunError, match=r"expected a finished run at .*, found no best epoch in history\.csv; finish"):
        find_run(run)


NO_NUMBERS: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "accuracy": (
        "metrics.json",
        lambda content: content["validation"]["accuracy"].update(value=float("nan")),
        r"metrics\.json is not one of this version: expected float at the record\.accuracy\.value, found nan",
    ),
    "temperature": (
        "decision.json",
        lambda content: content.update(temperature=0.0),
        r"decision\.json is not one of this version: expected a temperature above 0, found 0",
    ),
}


@pytest.mark.parametrize(("name", "change", "message"), NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_a_run_with_numbers_that_cannot_be_is_refused(
    finished_run: Path, tmp_path: Path, name: str, change: Callable[[Any], object], message: str
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    content = json.loads((run / name).read_text())
    change(content)
    (run / name).write_text(json.dumps(content))
    with pytest.raises(RunError, match=message):
        find_run(run)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run folder, or a folder of them"):
        find_run(tmp_path)


def test_a_damaged_keras_file_is_refused(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "best.keras").write_bytes(b"no model")
    with pytest.raises(RunError, match="expected a Keras model at"):
        write_bundle(find_run(tmp_path / "run"), tmp_path / "bundle", ExportOptions(source=""))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_that_a_killed_export_moved_away_is_back_before_anything_is_refused(
    bundle: Path, finished_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(bundle, tmp_path / ".bundle.unfinished-abcd1234-old")
    with pytest.raises(DataError, match="expected a folder of cells"):
        write_bundle(find_run(finished_run), out, ExportOptions(data=tmp_path / "none"))
    assert hashes(out) == hashes(bundle)


def test_the_runtime_classifies_with_the_bundle(bundle: Path, drawn: Path) -> None:
    paths = [str(path) for path in sorted(drawn.glob("*/*.bmp"))]
    with Classifier(ClassifierOptions(bundle=bundle)) as classifier:
        rows = list(classifier.classify(paths))
    assert [row.path for row in rows] == paths
    assert not any(row.status == "error" for row in rows)
    few = len(rows) // 10
    assert sum("near the threshold" not in row.reason for row in rows if row.reason) <= few, "they are what it saw"


def test_how_the_training_cells_look_travels_in_the_bundle(bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert manifest.typical.cells == manifest.training.config.part_sizes["training"]
    assert manifest.typical.side == Range(450, 450)
    Image.new("RGB", (450, 450), (255, 255, 255)).save(tmp_path / "white.bmp")
    with Classifier(ClassifierOptions(bundle=bundle)) as classifier:
        [row] = classifier.classify([str(tmp_path / "white.bmp")])
    assert (row.status, row.reason.split(":")[0]) == ("review", "too full")


def test_the_runtime_refuses_a_graph_whose_output_is_renamed(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "model.fp32.onnx")
    [sigmoid] = [node for node in model.graph.node if "p_all" in node.output]
    model.graph.output[0].name = sigmoid.output[0] = "probability"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=r"expected the graph .* to take .* and to give"):
        OnnxRuntimeBackend(tmp_path / "model.onnx", Bundle.open(bundle).manifest.image, "cpu")


def test_the_graph_computes_no_integers_and_names_its_free_dimension(bundle: Path) -> None:
    model = onnx.load(bundle / "model.fp32.onnx")
    assert set(types_of(model).values()) == {onnx.TensorProto.FLOAT}
    for end in (model.graph.input[0], model.graph.output[0]):
        assert end.type.tensor_type.shape.dim[0].dim_param == "N"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}


def test_another_export_in_another_process_and_from_another_place_gives_the_same_files(
    finished_run: Path, bundle: Path, full_bundle: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "mueller" / "ward7" / finished_run.name))
    again = tmp_path / "bundles" / "at another" / "depth"
    words = ["--run", str(run), "--out", str(again), "--data-source", "drawn cells"]
    few_cells_prove = "import export.fewest_cells; export.fewest_cells.FEWEST_TO_PROVE = 1"
    code = f"{few_cells_prove}; from export.__main__ import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "onnx", *words, "--precision", *PRECISIONS]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(hashes(full_bundle)) == [
        "MODEL_CARD.md",
        "bundle.json",
        "golden.npz",
        "model.fp16.onnx",
        "model.fp32.onnx",
        "model.int8.onnx",
        "model.int8_cpu.onnx",
    ]
    assert hashes(again) == hashes(full_bundle)
    assert hashes(bundle)["model.fp32.onnx"] == hashes(full_bundle)["model.fp32.onnx"], "in the same process, too"
    assert Bundle.open(again).content_sha256 == Bundle.open(full_bundle).content_sha256
    for file in again.iterdir():
        assert not re.search(rb"mueller|ward7", file.read_bytes()), "a bundle travels, and a path may name a person"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_variant_is_proved_and_used_by_the_runtime(full_bundle: Path, drawn: Path, precision: str) -> None:
    variant = Bundle.open(full_bundle).variant(precision)
    assert variant.proof.passed
    assert variant.proof.tolerance == TOLERANCES[precision]
    if precision in ENGINE_PRECISIONS:
        refuse_unsupported(full_bundle / variant.file)
    names = {node.name for node in onnx.load(full_bundle / variant.file).graph.node}
    assert set(variant.kept_in_fp32) <= names
    with Classifier(ClassifierOptions(full_bundle, backend="cpu", precision=precision)) as classifier:
        rows = list(classifier.classify(map(str, sorted(drawn.glob("*/*.bmp")))))
    assert {row.label for row in rows} == {"ALL", "healthy"}


def test_the_layers_that_stay_in_float32_are_recorded(full_bundle: Path) -> None:
    bundle = Bundle.open(full_bundle)
    assert bundle.variant("fp32").kept_in_fp32 == ()
    fp16 = onnx.load(full_bundle / "model.fp16.onnx")
    wide = {node.name for node in fp16.graph.node if types_of(fp16)[node.output[0]] == onnx.TensorProto.FLOAT}
    assert set(bundle.variant("fp16").kept_in_fp32) == weighted_nodes(fp16) & wide
    for precision in ("int8", "int8_cpu"):
        int8 = bundle.variant(precision)
        unrounded = weighted_nodes(onnx.load(full_bundle / int8.file))  # the others take their weights rounded
        assert set(int8.kept_in_fp32) == unrounded
        assert len(unrounded) < len(weighted_nodes(onnx.load(full_bundle / "model.fp32.onnx")))


def test_the_card_tells_of_every_variant(full_bundle: Path) -> None:
    card = (full_bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    for variant in Bundle.open(full_bundle).manifest.variants:
        [line] = [line for line in card.splitlines() if line.startswith(f"- `{variant.file}`")]
        assert line.endswith("; passed")
        kept = len(variant.kept_in_fp32)
        assert (f"; {kept} layer{'s stay' if kept > 1 else ' stays'} in float32; " in line) is (kept > 0)


def test_the_cells_that_a_conversion_looked_at_are_recorded_and_of_the_training_part(
    full_bundle: Path, finished_run: Path
) -> None:
    manifest = Bundle.open(full_bundle).manifest
    training = {cell.sha256 for cell in read_cells(finished_run / "cells.csv") if cell.part == "training"}
    recorded = {variant.precision: variant.calibration_sha256 for variant in manifest.variants}
    assert recorded["fp32"] == ()
    for precision in ("fp16", "int8", "int8_cpu"):
        assert len(recorded[precision]) == len(training), "all of them, since they are few"
        assert set(recorded[precision]) == training


def test_the_golden_cells_hold_what_each_variant_itself_says(full_bundle: Path) -> None:
    opened = Bundle.open(full_bundle)
    golden = opened.golden()
    assert set(golden.p_all) == {"keras", *PRECISIONS}
    for precision in PRECISIONS:
        file = opened.path(opened.variant(precision))
        with OnnxRuntimeBackend(file, opened.manifest.image, "cpu") as backend:
            np.testing.assert_allclose(golden.p_all[precision], backend.infer(golden.cells), atol=1e-6)
    assert np.abs(golden.p_all["int8"] - golden.p_all["keras"]).max() > 1e-4, "otherwise this proves nothing"


def spread_wrong(model: Any) -> None:
    """Standardize by a standard deviation that is ten percent too large."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    factor = constants[next(node for node in model.graph.node if node.op_type == "Mul").input[1]]
    factor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(factor) / np.float32(1.1), factor.name))


def swap_channels(model: Any) -> None:
    """Take the cells as BGR."""
    cast = model.graph.node[0]
    numbers = {"starts": [2], "ends": [-4], "axes": [3], "steps": [-1]}
    for name, values in numbers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    model.graph.node.insert(1, helper.make_node("Slice", ["as_bgr", *numbers], [cast.output[0]], "swap"))
    cast.output[0] = "as_bgr"


BAD_ON_PURPOSE = pytest.mark.parametrize("damage", [spread_wrong, swap_channels])


@BAD_ON_PURPOSE
def test_a_graph_with_wrong_preprocessing_leaves_no_bundle(
    finished_run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Any], None]
) -> None:
    write_damaged(monkeypatch, bundle, damage)
    with pytest.raises(
        ConversionError,
        match=r"expected fp32 to decide like the Keras model on 12 cells, found: fp32: p_all differs by .*; no bundle "
        "was written; it is the conversion from Keras itself that departs",
    ):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions(source=""))
    assert list(tmp_path.iterdir()) == []


@BAD_ON_PURPOSE
def test_a_graph_with_wrong_preprocessing_fails_when_it_is_verified(
    finished_run: Path, bundle: Path, drawn: Path, tmp_path: Path, damage: Callable[[Any], None]
) -> None:
    """Its hash and its golden answers are right: only the Keras model tells."""
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    model = onnx.load(copied / "model.fp32.onnx")
    damage(model)
    onnx.save(model, copied / "model.fp32.onnx")
    golden: dict[str, Any] = dict(np.load(copied / "golden.npz"))
    golden["fp32"] = onnx_answers(copied / "model.fp32.onnx", golden["cells"])
    np.savez(copied / "golden.npz", **golden)
    record_hashes(copied)
    Classifier(ClassifierOptions(copied, backend="cpu")).close()
    assert main(["verify", str(copied), "--data", str(drawn), "--run", str(finished_run)]) == 1
    with pytest.raises(BundleError, match=r"but fp32 of .* is not: p_all differs by"):
        Classifier(ClassifierOptions(copied, backend="cpu"))


def write_damaged(monkeypatch: pytest.MonkeyPatch, bundle: Path, damage: Callable[[Any], None]) -> None:
    """Let the conversion from Keras give a damaged graph."""

    def write_onnx(_: KerasModel, target: Path) -> None:
        model = onnx.load(bundle / "model.fp32.onnx")
        damage(model)
        onnx.save(model, target)

    monkeypatch.setattr(KerasModel, "write_onnx", write_onnx)


def write_undamaged(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """Let the conversion from Keras, which takes long, give the graph of the same run that it gave before."""
    write_damaged(monkeypatch, bundle, lambda model: None)


def test_a_variant_whose_map_departs_goes_without_it(
    finished_run: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_undamaged(monkeypatch, bundle)
    monkeypatch.setitem(SMALLEST_CORRELATION, "fp16", 1.1)
    write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions(precisions=("fp16",), source=""))
    assert re.search(r"fp16 goes without the map: .* is (1\.000|0\.99\d), where at least 1\.1", capsys.readouterr().err)
    for precision, has_map in (("fp32", True), ("fp16", False)):
        options = ClassifierOptions(bundle=tmp_path / "bundle", backend="cpu", precision=precision)
        with Classifier(options) as classifier:
            assert classifier.backend.gives_heat is has_map


@pytest.mark.parametrize(
    ("debug", "where"),
    [
        (False, r"leave the precision out, allow more with --tolerance, or name the layers .* --debug-precision$"),
        (True, r"fp16: layers that add most to its error: \S+ \("),
    ],
)
def test_a_precision_that_does_not_agree_leaves_no_bundle_and_says_where(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool, where: str
) -> None:
    write_undamaged(monkeypatch, full_bundle)
    options = ExportOptions(
        precisions=("fp16",), tolerances=TOLERANCES | {"fp16": Tolerance(max_difference=1e-6)}, debug=debug
    )
    with pytest.raises(ConversionError, match=rf"expected fp16 to decide like .*; no bundle was written; {where}"):
        write_bundle(find_run(finished_run), tmp_path / "bundle", options)
    assert list(tmp_path.iterdir()) == []


def test_the_limits_that_a_user_sets_are_recorded(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_undamaged(monkeypatch, full_bundle)
    words = ["--cells", "7", "--tolerance", "fp32:max_difference=0.001", "--data-source", "ours"]
    assert main(["onnx", "--run", str(finished_run), "--out", str(tmp_path / "bundle"), *words]) == 0
    [variant] = Bundle.open(tmp_path / "bundle").manifest.variants
    assert variant.proof.cells == 7
    assert variant.proof.tolerance == Tolerance(max_difference=0.001, flipped=0.0)
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- Data: ours\n" in card
    assert "; passed (by limits of the user's own: max_difference 0.001)\n" in card


def test_answers_on_the_drawn_cells_that_are_no_numbers_name_the_precision(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(model: Any) -> None:
        constants = {constant.name: constant for constant in model.graph.initializer}
        [last] = [node for node in model.graph.node if node.name in weighted_nodes(model)][-1:]
        kernel = constants[last.input[1]]
        values = np.full_like(numpy_helper.to_array(kernel), np.nan)
        kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))

    write_damaged(monkeypatch, full_bundle, overflow)
    with pytest.raises(
        ConversionError, match=r"expected probabilities from fp32 for the drawn cells .*; no bundle was"
    ):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_the_card_stays_one_whatever_a_user_says_of_the_data(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_undamaged(monkeypatch, full_bundle)
    source = "ours\n\n## Files\n\nof caf\udce9"  # a byte of the command line that is no UTF-8
    write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions(source=source))
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- Data: ours ## Files of caf\\udce9\n" in card
    assert card.count("\n## Files\n") == 1


def test_the_card_tells_of_teacher_and_early_end_and_no_path_travels(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_undamaged(monkeypatch, full_bundle)
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["options"].update(teacher="/home/somebody/runs/large")
    config["recipe"].update(early_stopping=5)
    (run / "config.json").write_text(json.dumps(config))
    write_bundle(find_run(run), tmp_path / "bundle", ExportOptions())
    assert "somebody" not in (tmp_path / "bundle" / "bundle.json").read_text()
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ", at most 20 epochs, " in card
    assert ", starting from random weights, taught by the run large.\n" in card


def test_a_graph_that_tensorrt_cannot_take_leaves_no_bundle(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def round_down(model: Any) -> None:
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.op_type = "Floor"

    write_damaged(monkeypatch, full_bundle, round_down)
    with pytest.raises(
        ConversionError, match=r"takes in model\.fp32\.onnx, found the node \S+ \(Floor\), an operator that is not"
    ):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_bundle(
    finished_run: Path, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_undamaged(monkeypatch, full_bundle)
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match=r"cannot write .*bundle: No space left on device; choose a place that can"):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def lose(run: Path) -> None:
    (run / "best.keras").unlink()


def poison(run: Path) -> None:
    import keras

    model = keras.models.load_model(run / "best.keras", compile=False)
    [kernel] = [weight for weight in model.weights if weight.path == "p_all/kernel"]
    values = kernel.numpy()
    values[3] = np.nan
    kernel.assign(values)
    model.save(run / "best.keras")


def cut_off(run: Path) -> None:
    content = (run / "best.keras").read_bytes()
    (run / "best.keras").write_bytes(content[: len(content) // 2])


def let_it_overflow(run: Path) -> None:
    """Finite weights whose sums are beyond float32."""
    import keras

    model = keras.models.load_model(run / "best.keras", compile=False)
    kernel = next(weight for weight in model.weights if len(weight.shape) == 4)
    kernel.assign(np.copysign(np.float32(1e38), kernel.numpy()))
    model.save(run / "best.keras")


def replace_by_two_neurons(run: Path) -> None:
    save_dense(run, 2, "softmax")


def replace_by_a_neuron_without_sigmoid(run: Path) -> None:
    save_dense(run, 1, "relu")


def save_dense(run: Path, units: int, activation: str, after: Sequence[Any] = ()) -> None:
    import keras

    cells = keras.Input((75, 75, 3), dtype="uint8")
    answers = keras.layers.Flatten()(cells)
    answers = keras.layers.Dense(units, activation=activation, name="p_all")(answers)
    for layer in after:
        answers = layer(answers)
    keras.Model(cells, answers).save(run / "best.keras")


def go_on_after_p_all(run: Path) -> None:
    """Calibration would go into a layer that is not the last."""
    import keras

    save_dense(run, 1, "sigmoid", [keras.layers.Dense(1, activation="sigmoid", name="more")])


def replace_by_a_lambda(run: Path) -> None:
    import keras

    save_dense(run, 1, "sigmoid", [keras.layers.Lambda(lambda values: 2 * values)])


def replace_by_a_custom_layer(run: Path) -> None:
    import keras

    class OfAnotherProject(keras.layers.Layer):  # type: ignore[misc]
        def call(self, values: Any) -> Any:
            return 2 * values

    cells = keras.Input((75, 75, 3), dtype="uint8")
    answers = keras.layers.Dense(1, name="p_all")(keras.layers.Flatten()(OfAnotherProject()(cells)))
    keras.Model(cells, answers).save(run / "best.keras")


def replace_by_what_onnx_has_not(run: Path) -> None:
    import keras

    cells = keras.Input((75, 75, 3), dtype="uint8")
    bits = keras.ops.bitwise_not(keras.ops.cast(keras.layers.Flatten()(cells), "int32"))
    answers = keras.layers.Dense(1, activation="sigmoid", name="p_all")(keras.ops.cast(bits, "float32"))
    keras.Model(cells, answers).save(run / "best.keras")


def replace_by_another_model(run: Path) -> None:
    import keras

    cells = keras.Input((75, 75, 3), dtype="uint8")
    keras.Model(cells, keras.layers.Flatten(name="classes")(cells)).save(run / "best.keras")


BAD_RUNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "without a checkpoint": (
        lose,
        r"expected a finished run at .*, found no best\.keras; put the run's own best\.keras back, or fit again",
    ),
    "cut off": (
        cut_off,
        r"expected a Keras model at .*, found a file that is cut off or something else; put the run's",
    ),
    "that overflows": (
        let_it_overflow,
        r"expected probabilities from .*best\.keras, found values that are not numbers: the network overflows; fit",
    ),
    "with two neurons": (
        replace_by_two_neurons,
        r"expected a model of .* found .* p_all that gives \(None, 2\), activation softmax; give the run folder",
    ),
    "without a sigmoid": (
        replace_by_a_neuron_without_sigmoid,
        r"expected a model of .* found .* p_all that gives \(None, 1\), activation relu; give the run folder",
    ),
    "that goes on after p_all": (go_on_after_p_all, r"expected a model of .* found .* the last layer more that gives"),
    "with code in it": (
        replace_by_a_lambda,
        r"expected a Keras model of Keras' own layers at .*, found the custom layer Lambda, which is not known here; ",
    ),
    "with a weight that is no number": (
        poison,
        r"expected finite weights in .*best\.keras, found others in p_all/kernel; fit the model again",
    ),
    "with another model": (
        replace_by_another_model,
        r"expected a model of .* with a last layer named p_all .* in .*best\.keras, found .* the last layer classes ",
    ),
    "with a custom layer": (
        replace_by_a_custom_layer,
        r"expected a Keras model of Keras' own layers at .*, found the custom layer OfAnotherProject, which is ",
    ),
    "with what ONNX has not": (
        replace_by_what_onnx_has_not,
        r"expected layers that can be written in ONNX, found the node .* \(\w+\); change the layer, and fit again",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_a_bad_run_costs_one_line_and_exit_code_1(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    damage(run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(["onnx", "--run", str(run), "--out", str(tmp_path / "bundle")]))
    assert ended.value.code == 1
    *steps, said = capsys.readouterr().err.splitlines()
    assert all(re.match("converting to |comparing ", step) for step in steps)
    assert re.match(f"error: {message}", said)
    assert list(tmp_path.iterdir()) == [run]


def test_calibration_data_of_other_cells_leaves_no_bundle(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--precision", "int8", "--calibration-data", str(DEMO_CELLS)]
    with pytest.raises(DataError, match=r"expected cells of the run's training part in .*, found 9 of no part"):
        main(["onnx", "--run", str(finished_run), "--out", str(tmp_path / "bundle"), *words])
    assert list(tmp_path.iterdir()) == []
