"""The map in a converted graph: counted from the mean training cell's, and proved against the Keras model's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx

from export.departures import OF_FP32
from export.graph import open_for_reading, put_in_order
from export.model_file import save_model
from export.onnx_session import open_session
from export.scoring import BATCH_SIZE
from runtime.backends.base import Backend
from runtime.errors import ConversionError
from runtime.schema import HEAT_NAME, INPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Between a cell's two maps, in the mean over the cells. Where several places are equally large, as in a black
# background, rounding decides which of them a pooling takes.
SMALLEST_CORRELATION = {"fp32": 0.99, "fp16": 0.99, "int8": 0.9, "int8_cpu": 0.9}


class Explains(Protocol):
    """The model that variants are compared with."""

    def heat(self, cells: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the map behind each answer, float32 [N, rows, columns]; None where there is none."""


def center_heat(file: Path, cells: NDArray[np.uint8]) -> None:
    """Subtract from the map of a fp32 graph the mean map of these cells; a graph without a map is left as it is.

    What all cells have in common, such as the frame's edges, explains no cell's answer.

    Args:
        file: ONNX file of a bundle, changed in place.
        cells: uint8 RGB [N, height, width, 3], of the training part.
    """
    mean = _mean_heat(file, cells)
    if mean is None:
        return
    model = open_for_reading(file)
    [source] = [node for node in model.graph.node if HEAT_NAME in node.output]
    source.output[0] = f"{HEAT_NAME}/whole"
    model.graph.initializer.append(onnx.numpy_helper.from_array(mean, f"{HEAT_NAME}/mean"))
    model.graph.node.append(
        onnx.helper.make_node("Sub", [f"{HEAT_NAME}/whole", f"{HEAT_NAME}/mean"], [HEAT_NAME], f"{HEAT_NAME}/centered")
    )
    put_in_order(model)
    save_model(model, file)


def _mean_heat(file: Path, cells: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Return the mean of a graph's map over cells, float32 [rows, columns]; None where it has none."""
    session = open_session(file)
    if HEAT_NAME not in {output.name for output in session.get_outputs()}:
        return None
    maps = [session.run([HEAT_NAME], {INPUT_NAME: cell[np.newaxis]})[0][0] for cell in cells]
    mean: NDArray[np.float32] = np.mean(maps, axis=0, dtype=np.float32)
    return mean


def wrong_heat(reference: Explains, variants: dict[str, Backend], cells: NDArray[np.uint8]) -> dict[str, float]:
    """Return the variants whose map of these cells, counted from their mean, is not the reference's: its correlation.

    Args:
        reference: The Keras model.
        variants: By precision.
        cells: uint8 RGB [N, height, width, 3].

    Raises ConversionError where it is that of fp32, from which the others are made.
    """
    expected = reference.heat(cells)
    if expected is None:
        return {}
    wrong: dict[str, float] = {}
    for precision, backend in variants.items():
        batches = np.split(cells, range(BATCH_SIZE, len(cells), BATCH_SIZE))
        found = np.concatenate([backend.infer_with_heat(batch)[1] for batch in batches])
        pairs = zip(found - found.mean(axis=0), expected - expected.mean(axis=0), strict=True)
        correlation = float(np.mean([correlated(*pair) for pair in pairs]))
        if not correlation >= SMALLEST_CORRELATION[precision]:
            wrong[precision] = correlation
    if "fp32" in wrong:
        raise ConversionError(
            f"expected the map of fp32 to be the Keras model's, found a correlation of {wrong['fp32']:.3f} where at "
            f"least {SMALLEST_CORRELATION['fp32']:g} is accepted; no bundle was written; {OF_FP32}"
        )
    return wrong


def remove_heat(file: Path) -> None:
    """Take the map out of a graph, in place: the runtime then finds what an answer comes from by covering places."""
    model = open_for_reading(file)
    [heat] = [output for output in model.graph.output if output.name == HEAT_NAME]
    model.graph.output.remove(heat)
    put_in_order(model)
    save_model(model, file)


def correlated(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return Pearson's correlation of two maps of one shape, -1..1; for a flat map, 1 where both are flat, else 0."""
    flat = [np.ptp(heat) == 0 for heat in (one, other)]
    if any(flat):
        return float(all(flat))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
