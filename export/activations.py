"""Looks at the values inside a graph while it classifies cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from export.graph import inferred_values, open_for_reading
from export.model_file import model_bytes
from export.onnx_session import open_session
from runtime.schema import INPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEAK = "/peak"


def largest_activations(file: Path, cells: NDArray[np.uint8]) -> dict[str, float]:
    """Return for each tensor that a node of a fp32 graph gives its largest absolute value over the cells.

    The graph takes the maximum itself, so that no activation has to be kept.

    Args:
        file: ONNX file of a bundle, fp32.
        cells: uint8 RGB [N, height, width, 3].
    """
    model = open_for_reading(file)
    peaks = [_add_peak(model, tensor) for tensor in _float_tensors(model)]
    session = open_session(model_bytes(model))
    largest = np.zeros(len(peaks))
    for cell in cells:
        largest = np.maximum(largest, [float(peak) for peak in session.run(peaks, {INPUT_NAME: cell[None]})])
    return {peak.removesuffix(PEAK): float(value) for peak, value in zip(peaks, largest, strict=True)}


def larger(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Return for each tensor the larger of two largest values."""
    return {tensor: max(peak, other[tensor]) for tensor, peak in one.items()}


def _float_tensors(model: Any) -> list[str]:
    """Return the outputs of the nodes that are float32."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred_values(model)}
    outputs = [tensor for node in model.graph.node for tensor in node.output]
    return [tensor for tensor in outputs if kinds.get(tensor) == onnx.TensorProto.FLOAT]


def _add_peak(model: Any, tensor: str) -> str:
    """Give the graph one more output: the largest absolute value of a tensor."""
    absolute, peak = f"{tensor}/absolute", f"{tensor}{PEAK}"
    model.graph.node.append(onnx.helper.make_node("Abs", [tensor], [absolute]))
    model.graph.node.append(onnx.helper.make_node("ReduceMax", [absolute], [peak], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, []))
    return peak
