from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from scipy.special import expit, logit

import export.bundle_writer
from export.__main__ import main
from export.bundle_writer import ExportOptions, write_bundle
from export.finished_run import find_run
from export.to_onnx import KerasModel
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import BackendError, ConversionError, OutputError, RunError
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec


def keras_model(run: Path) -> KerasModel:
    return KerasModel(run / "best.keras", find_run(run).decision.temperature)


def test_the_graph_is_the_one_that_was_promised(bundle: Path) -> None:
    model = onnx.load(bundle / "model.fp32.onnx")
    onnx.checker.check_model(model, full_check=True)
    [cells], [p_all] = model.graph.input, model.graph.output
    assert (cells.name, cells.type.tensor_type.elem_type) == ("cells", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in cells.type.tensor_type.shape.dim][1:] == [75, 75, 3]
    assert (p_all.name, p_all.type.tensor_type.elem_type) == ("p_all", onnx.TensorProto.FLOAT)
    assert len(p_all.type.tensor_type.shape.dim) == 1
    assert {opset.version for opset in model.opset_import if not opset.domain} == {17}
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 0
    assert model.graph.node[0].op_type == "Cast", "TensorRT takes uint8 only where a cast comes first"
    assert model.graph.node[0].input == ["cells"]


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


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_calibration_is_folded_into_the_last_layer(finished_run: Path, drawn: Path, temperature: float) -> None:
    image = ImageSpec(75, 75)
    cells = np.stack([load_cell(path, image) for path in sorted(drawn.glob("*/*.bmp"))[13:22]])
    plain = KerasModel(finished_run / "best.keras", 1.0).predict(cells)
    calibrated = KerasModel(finished_run / "best.keras", temperature).predict(cells)
    np.testing.assert_allclose(calibrated, expit(logit(plain.astype(np.float64)) / temperature), atol=1e-5)
    assert np.abs(calibrated - plain).max() > 1e-3, "otherwise this proves nothing"


def test_the_manifest_tells_where_the_model_comes_from(bundle: Path, finished_run: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    run = find_run(finished_run)
    assert manifest.training.validation == run.validation
    assert manifest.training.best_epoch == run.best_epoch
    assert manifest.decision == run.decision
    assert manifest.training.config.options.data == "cells", "the folder's name, not its path"
    assert (bundle / manifest.training.run).resolve() == finished_run.resolve()
    [variant] = manifest.variants
    assert variant.proof.passed
    assert variant.proof.batch_sizes == (32, 1, 5)
    assert variant.proof.max_difference <= 1e-4
    assert variant.proof.data == "validation part of the run"
    assert variant.proof.cells == run.config.part_sizes["validation"]


def test_the_golden_cells_are_the_drawn_ones_with_keras_answers(bundle: Path, finished_run: Path) -> None:
    golden = Bundle.open(bundle).golden()
    assert golden.cells.shape == (9, 75, 75, 3)
    np.testing.assert_allclose(golden.p_all["keras"], keras_model(finished_run).predict(golden.cells), atol=1e-6)
    np.testing.assert_allclose(golden.p_all["fp32"], golden.p_all["keras"], atol=1e-4)


def test_a_graph_that_does_not_agree_leaves_no_bundle(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = KerasModel.write_onnx

    def damage(self: KerasModel, target: Path) -> None:
        real(self, target)
        model = onnx.load(target)
        [bias] = [i for i in model.graph.initializer if list(i.dims) == [1] and i.data_type == onnx.TensorProto.FLOAT]
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0.5], np.float32), bias.name))
        onnx.save(model, target)

    monkeypatch.setattr(KerasModel, "write_onnx", damage)
    with pytest.raises(
        ConversionError, match=r"expected fp32 to decide like the Keras model on 12 cells, found: p_all differs by"
    ):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions(source=""))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_no_bundle(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.bundle_writer, "model_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(find_run(finished_run), tmp_path / "bundle", ExportOptions(source=""))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_and_anything_else_is_not(finished_run: Path, bundle: Path, tmp_path: Path) -> None:
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
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, accuracy in (("a", 0.3), ("b", 0.99), ("c", 0.5)):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
        path = tmp_path / "runs" / name / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["validation"]["accuracy"]["value"] = accuracy
        path.write_text(json.dumps(metrics))
    shutil.copytree(finished_run, tmp_path / "runs" / "d")
    (tmp_path / "runs" / "d" / "metrics.json").unlink()
    assert main(["onnx", "--run", str(tmp_path / "runs"), "--out", str(tmp_path / "bundle")]) == 0
    said = capsys.readouterr().out
    assert f"left out: expected a finished run at {tmp_path / 'runs' / 'd'}" in said
    assert f"compact of {tmp_path / 'runs' / 'b'}, validation accuracy 99.00%" in said
    assert "Next: python -m runtime.classify" in said


def test_a_run_that_is_not_finished_is_refused(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"expected a finished run .*`python -m train fit --resume`"):
        find_run(tmp_path / "run")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run folder, or a folder of them"):
        find_run(tmp_path)


def test_a_damaged_keras_file_is_refused(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "best.keras").write_bytes(b"no model")
    with pytest.raises(RunError, match="expected a Keras model at"):
        write_bundle(find_run(tmp_path / "run"), tmp_path / "bundle", ExportOptions(source=""))
    assert not (tmp_path / "bundle").exists()


def test_the_runtime_classifies_with_the_bundle(bundle: Path, drawn: Path) -> None:
    paths = [str(path) for path in sorted(drawn.glob("*/*.bmp"))]
    with Classifier(ClassifierOptions(bundle=bundle)) as classifier:
        rows = list(classifier.classify(paths))
    assert [row.path for row in rows] == paths
    assert {row.status for row in rows} == {"ok"}


def test_the_runtime_refuses_a_graph_whose_output_is_renamed(bundle: Path, tmp_path: Path) -> None:
    from runtime.backends.onnxruntime import OnnxRuntimeBackend

    model = onnx.load(bundle / "model.fp32.onnx")
    model.graph.output[0].name = model.graph.node[-1].output[0] = "probability"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=r"expected the graph .* to take and give"):
        OnnxRuntimeBackend(tmp_path / "model.onnx", Bundle.open(bundle).manifest.image, "cpu")
