"""Checks a graph against what TensorRT's ONNX parser takes, so that it fails at the desk and not on the device.

The rules are those of the parser's list of operators (github.com/onnx/onnx-tensorrt, docs/operators.md) and of
TensorRT's documentation of data types, for versions 10.3 to 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from export.graph import attributes, inferred_values, open_for_reading
from runtime.errors import ConversionError

OPSETS = range(9, 21)  # the oldest of these versions reads up to 20
# fmt: off
OPERATORS = {
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose",
    "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Elu", "Erf", "Exp", "Flatten", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mul", "Neg", "Pad",
    "Pow", "PRelu", "QuantizeLinear", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceSum", "Relu", "Reshape", "Resize", "Selu", "Sigmoid", "Sign", "Slice", "Softmax", "Softplus", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
}
# fmt: on
COMPUTED_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8}
RESIZE_MODES = {"nearest", "linear"}
RESIZE_COORDINATES = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
PAD_MODES = {"constant", "edge", "reflect"}


@dataclass(frozen=True)
class _Graph:
    """A graph with what the rules ask about it."""

    model: Any
    types: dict[str, int]  # of each tensor
    constants: dict[str, Any]

    @property
    def nodes(self) -> list[Any]:
        return list(self.model.graph.node)

    @property
    def cells(self) -> Any:
        return self.model.graph.input[0]


def refuse_unsupported(file: Path) -> None:
    """Raise ConversionError with the node and the rule where TensorRT cannot take a graph of a bundle."""
    model = open_for_reading(file)
    graph = _Graph(
        model,
        types={value.name: value.type.tensor_type.elem_type for value in inferred_values(model)},
        constants={constant.name: constant for constant in model.graph.initializer},
    )
    for rule in RULES:
        for broken in rule(graph):
            raise ConversionError(
                f"expected a graph that TensorRT takes in {file.name}, found {broken}; change the layer, and fit again"
            )


def _opset(graph: _Graph) -> Iterator[str]:
    for opset in graph.model.opset_import:
        if opset.domain or opset.version not in OPSETS:
            yield f"opset {opset.domain or 'ai.onnx'} {opset.version} (ai.onnx {OPSETS[0]} to {OPSETS[-1]} are read)"


def _free_batch_alone(graph: _Graph) -> Iterator[str]:
    batch, *others = graph.cells.type.tensor_type.shape.dim
    if batch.dim_value or not all(dim.dim_value for dim in others):
        yield f"the input {graph.cells.name} without a free batch and fixed height and width"


def _uint8_is_cast_at_once(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        if graph.cells.name in node.input and not (
            node.op_type == "Cast" and node.attribute[0].i in (TensorProto.FLOAT, TensorProto.FLOAT16)
        ):
            yield f"{_named(node)} on uint8 (which has to be cast to a float before anything else)"


def _known_operators(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type not in OPERATORS or node.domain:
            yield f"{_named(node)}, an operator that is not among those known to run there"


def _floats_and_int8(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        for tensor in node.output:
            kind = graph.types.get(tensor, TensorProto.FLOAT)
            if kind not in COMPUTED_TYPES:
                yield f"{_named(node)} that gives {TensorProto.DataType.Name(kind)} (floats and INT8 are computed)"


def _pools(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type not in ("AveragePool", "MaxPool"):
            continue
        given = attributes(node)
        if len(given["kernel_shape"]) not in (2, 3) or set(given.get("dilations", (1,))) != {1}:
            yield f"{_named(node)} in other than two or three dimensions, or with dilations"
        if given.get("count_include_pad", 0):
            yield f"{_named(node)} whose mean counts the padding (runtimes differ in that)"


def _resizes(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        given = attributes(node) if node.op_type == "Resize" else {}
        mode = given.get("mode", b"nearest").decode()
        coordinates = given.get("coordinate_transformation_mode", b"half_pixel").decode()
        if mode not in RESIZE_MODES or coordinates not in RESIZE_COORDINATES or given.get("antialias", 0):
            yield f"{_named(node)} in the mode {mode}, {coordinates}"
        if given.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
            yield f"{_named(node)} that keeps the aspect ratio"
        if node.op_type == "Resize" and _has_computed_numbers(graph, node):
            yield f"{_named(node)} to a size that is computed"


def _pads(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type != "Pad":
            continue
        mode = attributes(node).get("mode", b"constant").decode()
        if mode not in PAD_MODES:
            yield f"{_named(node)} in the mode {mode}"
        if _has_computed_numbers(graph, node):
            yield f"{_named(node)} with a padding that is computed"


def _symmetric_quantization(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type != TensorProto.INT8 or np.any(onnx.numpy_helper.to_array(zero)):
            yield f"{_named(node)} that is not INT8 about zero point 0"


def _has_computed_numbers(graph: _Graph, node: Any) -> bool:
    """Say whether an input after the first, such as a size, is not a constant."""
    return any(name and name not in graph.constants for name in node.input[1:])


def _named(node: Any) -> str:
    return f"the node {node.name} ({node.op_type})"


RULES: tuple[Callable[[_Graph], Iterator[str]], ...] = (
    _opset,
    _free_batch_alone,
    _uint8_is_cast_at_once,
    _known_operators,
    _floats_and_int8,
    _pools,
    _resizes,
    _pads,
    _symmetric_quantization,
)
