"""Scores labelled cells with the Keras model and with every variant of a bundle."""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from benchmarks.cells import spread_over
from runtime.backends.base import Backend
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.command_line import quiet_tensorflow
from runtime.errors import DataError, UnreadableCellError
from runtime.preprocessing import load_cell
from train.dataset import Cell, find_cells, refuse_contradictions, refuse_one_class
from train.splits import TRAINING, cells_of_part, read_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.to_onnx import KerasModel

REFERENCE = "keras"
BATCH_SIZE = 32


def fitted_hashes(run: Path) -> Container[str]:
    """Return the SHA-256 of the cells that the run was fitted on: on those the metrics flatter the model."""
    return {cell.sha256 for cell in cells_of_part(read_cells(run / "cells.csv"), TRAINING)}


def chosen_cells(data: Path, limit: int | None) -> list[Cell]:
    """Return the labelled cells of `data`, or `limit` of them; raise DataError unless both classes are there."""
    path_to_cell = {str(cell.path): cell for cell in find_cells(data)}
    cells = [path_to_cell[path] for path in spread_over(list(path_to_cell), limit)]
    refuse_one_class(cells, str(data))
    return cells


def score_all(
    bundle: Bundle, keras_file: Path, cells: list[Cell]
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return labels [N], p_all [N] of the reference and each variant, and the reasons for unreadable files."""
    with quiet_tensorflow():
        from export.to_onnx import KerasModel

    reference = KerasModel(keras_file, bundle.manifest.decision.temperature)
    backends = {variant.precision: open_backend(bundle, "cpu", variant) for variant in bundle.manifest.variants}
    labels: list[bool] = []
    scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in (REFERENCE, *backends)}
    unreadable: dict[str, str] = {}
    for batch in loaded_batches(bundle, cells, labels, unreadable):
        for name, p_all in score_batch(reference, backends, batch):
            scores[name].append(p_all)
    if not labels:
        raise DataError(f"expected cells that can be read, found none of {len(cells)}; check --data")
    refuse_contradictions(cells, {cell.sha256 for cell in cells if str(cell.path) in unreadable})
    return np.array(labels), {name: np.concatenate(parts) for name, parts in scores.items()}, unreadable


def loaded_batches(
    bundle: Bundle, cells: list[Cell], labels: list[bool], unreadable: dict[str, str]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the readable cells in batches, uint8 [B, height, width, 3]; note labels and reasons as they come."""

    def readable() -> Iterator[NDArray[np.uint8]]:
        for cell in tqdm(cells, unit="cell", disable=None, leave=False):
            try:
                pixels = load_cell(cell.path, bundle.manifest.image)
            except UnreadableCellError as error:
                unreadable[str(cell.path)] = str(error)
                continue
            labels.append(cell.label == 1)
            yield pixels

    pixels = readable()
    while batch := list(islice(pixels, BATCH_SIZE)):
        yield np.stack(batch)


def score_batch(
    reference: KerasModel, backends: dict[str, Backend], batch: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the name and p_all, float32 [B], of the reference and of each variant."""
    yield REFERENCE, reference.predict(batch)
    for precision, backend in backends.items():
        yield precision, backend.infer(batch)
