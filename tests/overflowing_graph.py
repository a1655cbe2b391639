"""An int8 graph whose sums do not fit into 16 bits, in which a CPU without VNNI adds two products up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 8
LARGEST_SUM = 255 * 3 * 9  # of a white cell under a window of 3 x 3 pixels
WHITE = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
P_ALL_OF_WHITE = 1 / (1 + np.exp(-1.0))


def write_overflowing_onnx(path: Path, activation: type[np.signedinteger[Any] | np.unsignedinteger[Any]]) -> Path:
    """Write a graph of a bundle's contract that averages pixels in int8; p_all is the sigmoid of their share of white.

    Args:
        path: The ONNX file.
        activation: np.uint8 or np.int8, to which pixels and sums are rounded.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    steps = np.iinfo(activation).max
    zero = np.array(0, activation)
    constants: dict[str, NDArray[Any]] = {
        "pixel_step": np.array(255 / steps, np.float32),
        "sum_step": np.array(LARGEST_SUM / steps, np.float32),
        "zero": zero,
        "kernel": np.full((8, 3, 3, 3), 127, np.int8),
        "kernel_step": np.full(8, 1 / 127, np.float32),
        "kernel_zero": np.zeros(8, np.int8),
        "head": np.full((1, 8), 1 / (8 * LARGEST_SUM), np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["cells"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "pixel_step", "zero"], ["pixels_q"]),
        helper.make_node("DequantizeLinear", ["pixels_q", "pixel_step", "zero"], ["pixels"]),
        helper.make_node("DequantizeLinear", ["kernel", "kernel_step", "kernel_zero"], ["weights"], axis=0),
        helper.make_node("Conv", ["pixels", "weights"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "sum_step", "zero"], ["sums_q"]),
        helper.make_node("DequantizeLinear", ["sums_q", "sum_step", "zero"], ["rounded_sums"]),
        helper.make_node("GlobalAveragePool", ["rounded_sums"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logit"], transB=1),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Squeeze", ["p", "axis"], ["p_all"]),
    ]
    graph = helper.make_graph(
        nodes,
        "overflowing",
        [helper.make_tensor_value_info("cells", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("p_all", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
