"""Assembles a bundle in a temporary folder, proves it, and renames it into place."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.finished_run import FinishedRun
from export.gate import parity_at_batch_sizes
from export.model_card import model_card
from export.to_onnx import OPSET, KerasModel
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.classifier import Classifier, ClassifierOptions
from runtime.demo import demo_cells
from runtime.errors import ConversionError
from runtime.files import folder_written_aside, output_errors, refuse_foreign_folder, sha256_of_file
from runtime.preprocessing import load_cell
from runtime.schema import (
    CLASSES,
    ENGINES_FOLDER,
    GOLDEN_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    ImageSpec,
    Manifest,
    Training,
    Variant,
    to_json,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD_NAME = "MODEL_CARD.md"
ENGINE_FILES = tuple(f"{ENGINES_FOLDER}/*{suffix}" for suffix in (".engine", ".json", ".timing"))
BUNDLE_FILES = ("model.*.onnx", GOLDEN_NAME, CARD_NAME, *ENGINE_FILES)
PARITY_BATCH_SIZES = (1, 5)  # 5 leaves a short last batch


def write_bundle(run: FinishedRun, out: Path, source: str) -> Manifest:
    """Write the bundle of a run to `out`: fp32 ONNX, golden cells, manifest and model card.

    The golden cells are the drawn ones of the package, so that no patient's cell travels with a bundle. Nothing
    appears at `out` unless the variant decides like the Keras model on them and the runtime can open the bundle.

    Args:
        run: A finished run.
        out: The bundle's folder; an older bundle there is replaced.
        source: In the user's words, where the training cells come from; for the model card.

    Raises OutputError where `out` is something else than a bundle, ConversionError where a variant does not agree.
    """
    refuse_foreign_folder(out, MANIFEST_NAME, BUNDLE_FILES)
    size = run.config.options.image_size
    image = ImageSpec(width=size, height=size)
    reference = KerasModel(run.keras_file, run.decision.temperature)
    cells = np.stack([load_cell(path, image) for path in demo_cells()])
    p_all = reference.predict(cells)
    with folder_written_aside(out, MANIFEST_NAME, BUNDLE_FILES) as folder, output_errors(out):
        np.savez_compressed(folder / GOLDEN_NAME, cells=cells, p_all=p_all)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            classes=CLASSES,
            decision=run.decision,
            image=image,
            golden_sha256=sha256_of_file(folder / GOLDEN_NAME),
            training=_training(run, out),
            variants=(_write_fp32(reference, folder, image, cells, p_all, run.decision.threshold),),
        )
        (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
        (folder / CARD_NAME).write_text(model_card(manifest, source), encoding="utf-8")
        Classifier(ClassifierOptions(bundle=folder, backend="cpu")).close()
    return manifest


def _write_fp32(
    reference: KerasModel,
    folder: Path,
    image: ImageSpec,
    cells: NDArray[np.uint8],
    p_all: NDArray[np.float32],
    threshold: float,
) -> Variant:
    precision = "fp32"
    file = folder / f"model.{precision}.onnx"
    reference.write_onnx(file)
    with OnnxRuntimeBackend(file, image, "cpu") as backend:
        parity = parity_at_batch_sizes(backend, precision, cells, p_all, threshold, PARITY_BATCH_SIZES)
    if not parity.max_difference <= parity.tolerance:
        raise ConversionError(
            f"expected {file.name} to agree with the Keras model within {parity.tolerance:.0e}, found a difference "
            f"of {parity.max_difference:.2g} on {parity.cells} cells; no bundle was written"
        )
    return Variant(precision, file.name, sha256_of_file(file), OPSET, parity)


def _training(run: FinishedRun, out: Path) -> Training:
    # The folders' names alone: a full path may name a person or a ward, and a bundle travels.
    options = run.config.options
    split = replace(options.split, source=Path(options.split.source).name, test_data=Path(options.split.test_data).name)
    options = replace(options, data=Path(options.data).name, weights=Path(options.weights).name, split=split)
    return Training(
        run=_relative(run.folder, out),
        keras_sha256=sha256_of_file(run.keras_file),
        best_epoch=run.best_epoch,
        config=replace(run.config, options=options),
        validation=run.validation,
    )


def _relative(run: Path, out: Path) -> str:
    """Return the way from the bundle to the run with forward slashes; the run's name where there is none."""
    try:
        return Path(os.path.relpath(run.resolve(), out.resolve())).as_posix()
    except ValueError:  # two drives of Windows
        return run.name
