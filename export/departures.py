"""Finds the layers where a converted graph departs from the fp32 graph that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from export.graph import open_for_reading, weighted_nodes
from export.model_file import model_bytes
from export.onnx_session import open_session
from runtime.schema import INPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEBUG_CELLS = 4  # of both classes are enough to see where a graph departs: in their order, one comes first
NAMED = 5  # layers
SAMPLE = 4096  # values of what a layer gives for one cell, evenly spread
OF_FP32 = (
    "it is the conversion from Keras itself that departs; report it with the versions of Keras, TensorFlow and tf2onnx"
)


def departures(fp32: Path, variant: Path, cells: NDArray[np.uint8]) -> str:
    """Say in one line which layers add most to a variant's error.

    A layer's error is the norm of the difference of its output from the fp32 graph's, relative to that output's norm;
    what counts is by how much it lies above the largest error of the layers before it.

    Args:
        fp32: ONNX file of a bundle.
        variant: ONNX file that was made from it; its layers have the same names.
        cells: uint8 RGB [N, height, width, 3].
    """
    model = open_for_reading(fp32)
    weighted = weighted_nodes(model)
    tensors = {node.name: node.output[0] for node in model.graph.node if node.name in weighted}
    exact = _outputs(model, tensors, cells)
    found = _outputs(open_for_reading(variant), tensors, cells)
    added: dict[str, float] = {}
    largest = 0.0
    for name in tensors:
        if not np.isfinite(found[name]).all():
            return f"the first layer that gives no numbers: {name}"
        error = float(np.linalg.norm(found[name] - exact[name]) / (np.linalg.norm(exact[name]) or 1.0))
        added[name] = error - largest
        largest = max(largest, error)
    worst = sorted((name for name in tensors if added[name] > 0), key=lambda name: -added[name])[:NAMED]
    if not worst:
        return f"no layer gives other values than fp32's for {len(cells)} cells"
    return "layers that add most to its error: " + ", ".join(f"{name} ({added[name]:.2g})" for name in worst)


def _outputs(model: Any, tensors: dict[str, str], cells: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Return for each layer a sample of what it gives for the cells."""
    present = {value.name for value in model.graph.output}
    # ONNX Runtime finds out type and shape by itself.
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(tensor) for tensor in tensors.values() if tensor not in present
    )
    session = open_session(model_bytes(model))
    names = list(tensors.values())
    samples: dict[str, list[NDArray[Any]]] = {name: [] for name in tensors}
    for cell in cells:
        for name, values in zip(tensors, session.run(names, {INPUT_NAME: cell[None]}), strict=True):
            samples[name].append(values.ravel()[:: max(1, values.size // SAMPLE)].astype(np.float64))
    return {name: np.concatenate(parts) for name, parts in samples.items()}
