from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import export.bundle_writer
import export.finished_run
from export.__main__ import main
from export.finished_run import FinishedRun
from export.fp16 import BOUND
from export.to_onnx import KerasModel
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import BundleError, ConversionError, DataError, OutputError, RunError, UsageError
from runtime.files import sha256_of_file
from runtime.schema import ImageSpec
from tests.forbidden_file import forbid
from tests.small_network import SIZE, averaging, brightness_network, saved
from tests.tiny_bundle import onnx_answers
from train.placed_cells import PlacedCell, read_cells, write_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTER = ("stem/conv", "head/dense")
# Training cells reach 53 after the first inner layer, which here becomes less than the bound.
SCALE = np.float32(BOUND / 100)

Export = Callable[..., int]


def write_cell(path: Path, brightness: int) -> PlacedCell:
    """Write a bright square on black, which the brightness network calls ALL from 36 on."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[3:9, 3:9] = brightness
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    label = path.parent.name == "all"
    part = path.stem.partition("-")[0]
    return PlacedCell(str(path), int(label), path.stem, path.stem, part, sha256_of_file(path))


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    """A finished run of six training cells and five validation cells of each class."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "best.keras").write_bytes(b"weights")
    placed = [
        write_cell(tmp_path / name / f"{part}-{index}.png", darkest + index)
        for part, count, shift in (("training", 6, 0), ("validation", 5, 6))
        for name, darkest in (("all", 42 + shift), ("hem", 18 + shift))
        for index in range(count)
    ]
    write_cells(folder / "cells.csv", placed)
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    training = manifest.training
    config = replace(training.config, options=replace(training.config.options, image_size=SIZE))
    return FinishedRun(folder, config, training.validation, manifest.decision, training.best_epoch)


@pytest.fixture
def exported(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Return a function that exports the run; in the place of Keras stands a graph of the small network."""
    graph = saved(
        brightness_network(
            {
                "inner1/kernel": lambda kernel: averaging(kernel) * SCALE,
                "inner2/kernel": lambda kernel: averaging(kernel) / SCALE,
            }
        ),
        tmp_path / "reference.onnx",
    )

    class Reference:
        def __init__(self, file: Path, temperature: float) -> None:
            assert file == run.keras_file

        def refuse_another_size(self, image: ImageSpec) -> None:
            assert image.width == run.config.options.image_size

        def write_onnx(self, target: Path) -> None:
            shutil.copy(graph, target)

        def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
            return onnx_answers(graph, cells)

        def heat(self, cells: NDArray[np.uint8]) -> None:
            return None

    monkeypatch.setattr("export.to_onnx.KerasModel", Reference)
    monkeypatch.setattr(export.finished_run, "find_run", lambda _: run)
    monkeypatch.setattr("train.metrics.RESAMPLES", 20)  # the intervals of the printed table are judged elsewhere
    monkeypatch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 5)
    return lambda *words: main(["onnx", "--run", str(run.folder), "--out", str(tmp_path / "bundle"), *words])


def test_a_small_validation_part_gives_a_bundle_that_is_not_proved(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 6)
    bundle = tmp_path / "bundle"
    assert exported("--precision", "fp16") == 2
    reason = "compared on too few cells for a proof: 5 ALL and 5 healthy, where 6 of each class are needed"
    said = capsys.readouterr()
    assert said.err.startswith(f"the bundle will not be proved, {reason}; ")
    assert (said.out.count(" passed\n"), said.out.count(" NOT PROVED\n")) == (0, 2)
    assert f"Not proved, {reason}; the runtime takes it only with --unproved\n" in said.out
    assert [variant.proof.failures for variant in Bundle.open(bundle).manifest.variants] == [(reason,)] * 2
    assert (bundle / "MODEL_CARD.md").read_text(encoding="utf-8").count(f"; NOT PROVED: {reason}\n") == 2
    with pytest.raises(BundleError, match=f"but fp.. of .* is not: {reason} .*--unproved"):
        Classifier(ClassifierOptions(bundle, backend="cpu"))
    Classifier(ClassifierOptions(bundle, backend="cpu", unproved=True)).close()


def test_a_proof_needs_no_more_than_the_fewest_cells(exported: Export, tmp_path: Path) -> None:
    assert exported() == 0
    assert Bundle.open(tmp_path / "bundle").variant("fp32").proof.passed


def test_too_few_of_the_cells_are_refused_before_anything_is_converted(
    exported: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UsageError, match=r"received 8, .*: 4 ALL and 4 healthy, where 5 of each class are needed; take more"
    ):
        exported("--cells", "8")
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "bundle").exists()


def test_all_that_failed_is_told_and_named_before_it_is_refused(
    exported: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--tolerance", "fp16:max_difference=0", "--tolerance", "int8:max_difference=0")
    with pytest.raises(
        ConversionError, match=r"expected fp16 and int8 to decide .* found: fp16: p_all .*; int8: p_all"
    ):
        exported("--precision", "fp16", "int8", *limits)
    said = capsys.readouterr().out
    assert said.count(" FAILED\n") == 2
    assert "fp16 failed: p_all differs by" in said
    assert "int8 failed: p_all differs by" in said
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("brightness", "kept"),
    [(60, OUTER), (200, ("stem/conv", "inner1/conv", "inner1/relu", "inner2/conv", "head/dense"))],
    ids=["within the bound", "beyond it"],
)
def test_a_layer_that_overflows_on_a_compared_cell_alone_stays_in_float32(
    run: FinishedRun, exported: Export, tmp_path: Path, brightness: int, kept: tuple[str, ...]
) -> None:
    cells = read_cells(run.folder / "cells.csv")
    more = write_cell(tmp_path / "all" / "validation-5.png", brightness)
    write_cells(run.folder / "cells.csv", [*cells, more])
    assert exported("--precision", "fp16") == 0
    assert Bundle.open(tmp_path / "bundle").variant("fp16").kept_in_fp32 == kept
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"; {len(kept)} layers stay in float32; " in card
    assert "value beyond 8188" in card
    assert "ONNX Runtime computes fp16 graphs in float32" in card


def test_a_keras_model_that_may_not_be_read_is_named_with_the_reason(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, run.keras_file)
    with pytest.raises(RunError, match=r"cannot read the Keras model at .*best\.keras: Permission denied; make it rea"):
        KerasModel(run.keras_file, 1.0)


def test_what_the_files_alone_tell_is_refused_before_tensorflow_is_imported(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "export.to_onnx", None)
    with pytest.raises(DataError, match=r"expected images .* below"):
        exported("--calibration-data", str(tmp_path / "run"))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"expected a new folder, or one that holds a bundle\.json to replace"):
        exported()
