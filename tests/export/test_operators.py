from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.activations import largest_activations
from export.fp16 import write_fp16
from export.int8 import exact_answers, write_int8
from export.operators import refuse_unsupported
from runtime.errors import ConversionError
from tests.small_network import named, saved, small_network
from tests.tiny_bundle import some_cells


def insert(model: Any, operator: str, *constants: tuple[str, Any], **attributes: Any) -> Any:
    """Put a node called odd/node between inner1/relu and inner2/conv; return it."""
    taker = named(model, "inner2/conv")
    names = [name for name, _ in constants]
    node = helper.make_node(operator, ["inner1/relu:0", *names], ["odd"], "odd/node", **attributes)
    model.graph.node.insert(list(model.graph.node).index(taker), node)
    taker.input[0] = "odd"
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants if name)
    return named(model, "odd/node")


def set_opset(model: Any, version: int, domain: str = "") -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 17))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, version))
    else:
        model.opset_import[0].version = version


def set_input(model: Any, place: int, size: int | str) -> None:
    dim = model.graph.input[0].type.tensor_type.shape.dim[place]
    dim.Clear()
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size


def transpose_uint8(model: Any) -> None:
    """Transpose the cells before they are cast."""
    cast, transpose = named(model, "standardization/cast"), named(model, "standardization/transpose")
    cast.input[0], transpose.input[0], transpose.output[0] = "early", "cells", "early"
    named(model, "stem/conv").input[0] = "standardization/div:0"
    graph = model.graph
    order = ["standardization/transpose", *(node.name for node in graph.node if node.name != transpose.name)]
    nodes = [named(model, name) for name in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def cast_to_integer(model: Any) -> None:
    named(model, "standardization/cast").attribute[0].i = TensorProto.INT32


def count_cells(model: Any) -> None:
    """Read N from a shape, as an integer."""
    node = helper.make_node("ReduceSum", ["whole"], ["odd"], "odd/node", keepdims=0)
    cast = helper.make_node("Cast", ["inner1/relu:0"], ["whole"], "odd/cast", to=TensorProto.INT64)
    model.graph.node.extend([cast, node])


def resize(model: Any, **attributes: Any) -> None:
    insert(model, "Resize", ("", None), ("scales", np.array([1, 1, 2, 2], np.float32)), **attributes)


def pad(model: Any, **attributes: Any) -> None:
    insert(model, "Pad", ("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])), **attributes)


def pad_by_a_computed_number(model: Any) -> None:
    pad(model)
    named(model, "odd/node").input.append("inner1/number")
    node = helper.make_node("ReduceMax", ["inner1/relu:0"], ["inner1/number"], "odd/number", keepdims=0)
    model.graph.node.insert(list(model.graph.node).index(named(model, "odd/node")), node)


def resize_to_a_computed_size(model: Any) -> None:
    resize(model, mode="linear")
    resized = named(model, "odd/node")
    node = helper.make_node("Abs", ["scales"], ["computed"], "odd/scales")
    resized.input[2] = "computed"
    model.graph.node.insert(list(model.graph.node).index(resized), node)


def pool(model: Any, operator: str = "AveragePool", **attributes: Any) -> None:
    insert(model, operator, **attributes)


def round_to(model: Any, zero: Any) -> None:
    constants = [("scale", np.array(0.1, np.float32))]
    insert(model, "QuantizeLinear", *constants, *([("zero", zero)] if zero is not None else []))
    inputs = ["odd", "scale", *(["zero"] if zero is not None else [])]
    back = helper.make_node("DequantizeLinear", inputs, ["back"], "odd/back")
    model.graph.node.insert(list(model.graph.node).index(named(model, "inner2/conv")), back)
    named(model, "inner2/conv").input[0] = "back"


NODE = r"the node odd/node \({}\)"
BROKEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "newer opset": (lambda m: set_opset(m, 21), r"opset ai\.onnx 21 \(ai\.onnx 9 to 20 are read\)"),
    "older opset": (lambda m: set_opset(m, 8), r"opset ai\.onnx 8 \(ai\.onnx 9 to 20 are read\)"),
    "other domain": (lambda m: set_opset(m, 1, "com.microsoft"), r"opset com\.microsoft 1 \(ai\.onnx 9 to 20 are"),
    "fixed batch": (lambda m: set_input(m, 0, 1), "the input cells without a free batch and fixed height and width"),
    "free height": (lambda m: set_input(m, 1, "H"), "the input cells without a free batch and fixed height and width"),
    "uint8 inside": (transpose_uint8, r"the node standardization/transpose \(Transpose\) on uint8 \(which has to be"),
    "uint8 to int32": (cast_to_integer, r"the node standardization/cast \(Cast\) on uint8 \(which has to be cast"),
    "unknown operator": (lambda m: insert(m, "Det"), NODE.format("Det") + ", an operator that is not among those"),
    "int64": (count_cells, r"the node odd/cast \(Cast\) that gives INT64 \(floats and INT8 are computed\)"),
    "bool": (
        lambda m: insert(m, "Cast", to=TensorProto.BOOL),
        NODE.format("Cast") + r" that gives BOOL \(floats and INT8 are computed\)",
    ),
    "pool in one dimension": (
        lambda m: pool(m, kernel_shape=[2]),
        NODE.format("AveragePool") + " in other than two or three dimensions, or with dilations",
    ),
    "pool with holes": (
        lambda m: pool(m, "MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
        NODE.format("MaxPool") + " in other than two or three dimensions, or with dilations",
    ),
    "pool over padding": (
        lambda m: pool(m, kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
        NODE.format("AveragePool") + " whose mean counts the padding",
    ),
    "cubic resize": (
        lambda m: resize(m, mode="cubic"),
        NODE.format("Resize") + " in the mode cubic, half_pixel",
    ),
    "resize to crops": (
        lambda m: resize(m, mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        NODE.format("Resize") + " in the mode linear, tf_crop_and_resize",
    ),
    "smoothed resize": (
        lambda m: resize(m, mode="linear", antialias=1),
        NODE.format("Resize") + " in the mode linear, half_pixel",
    ),
    "resize that keeps the aspect": (
        lambda m: resize(m, mode="linear", keep_aspect_ratio_policy="not_larger"),
        NODE.format("Resize") + " that keeps the aspect ratio",
    ),
    "resize to a computed size": (resize_to_a_computed_size, NODE.format("Resize") + " to a size that is computed"),
    "wrapped pad": (lambda m: pad(m, mode="wrap"), NODE.format("Pad") + " in the mode wrap"),
    "computed pad": (pad_by_a_computed_number, NODE.format("Pad") + " with a padding that is computed"),
    "zero point 3": (
        lambda m: round_to(m, np.array(3, np.int8)),
        NODE.format("QuantizeLinear") + " that is not INT8 about zero point 0",
    ),
}


@pytest.mark.parametrize(("damage", "found"), BROKEN.values(), ids=BROKEN.keys())
def test_a_graph_that_tensorrt_cannot_take_is_refused_by_node_and_rule(
    tmp_path: Path, damage: Callable[[Any], object], found: str
) -> None:
    model = small_network()
    damage(model)
    expected = rf"expected a graph that TensorRT takes in model\.onnx, found {found}.*; change the layer, and fit again"
    with pytest.raises(ConversionError, match=expected) as refused:
        refuse_unsupported(saved(model, tmp_path / "model.onnx"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("zero", [np.array(0, np.uint8), None], ids=["uint8", "left out, which means uint8"])
def test_rounding_to_uint8_is_refused(tmp_path: Path, zero: Any) -> None:
    model = small_network()
    round_to(model, zero)
    with pytest.raises(ConversionError, match=r"the node odd/node \(QuantizeLinear\) that .*UINT8|is not INT8 about"):
        refuse_unsupported(saved(model, tmp_path / "model.onnx"))


SUPPORTED: dict[str, Callable[[Any], object]] = {
    "nothing odd": lambda m: None,
    "oldest opset": lambda m: set_opset(m, 9),
    "newest opset": lambda m: set_opset(m, 20),
    "pool": lambda m: pool(m, kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
    "pool with holes of one": lambda m: pool(m, "MaxPool", kernel_shape=[2, 2], dilations=[1, 1]),
    "resize": lambda m: resize(m, mode="nearest", coordinate_transformation_mode="asymmetric"),
    "pad": lambda m: pad(m, mode="reflect"),
    "rounding": lambda m: round_to(m, np.array(0, np.int8)),
}


@pytest.mark.parametrize("change", SUPPORTED.values(), ids=SUPPORTED.keys())
def test_a_graph_that_keeps_to_the_rules_passes(tmp_path: Path, change: Callable[[Any], object]) -> None:
    model = small_network()
    change(model)
    refuse_unsupported(saved(model, tmp_path / "model.onnx"))


def test_what_the_conversions_write_passes(tmp_path: Path) -> None:
    fp32 = saved(small_network(inner_layers=3), tmp_path / "model.fp32.onnx")
    cells = some_cells(8)
    peaks = largest_activations(fp32, cells)
    write_fp16(fp32, tmp_path / "fp16.onnx", peaks)
    write_int8(fp32, tmp_path / "int8.onnx", exact_answers(fp32, cells), peaks)
    for name in ("fp16.onnx", "int8.onnx"):
        refuse_unsupported(tmp_path / name)
