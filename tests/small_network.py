"""A small network as a bundle holds it in fp32: five layers by name, weights that a test can change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 12
OPSET = 17

Change = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]


def small_network(changes: Mapping[str, Change] | None = None, channels: int = 8, inner_layers: int = 2) -> Any:
    """Return the graph: cast and standardized cells, stem/conv, inner1/conv and so on, head/dense, p_all.

    Args:
        changes: By weight, such as "inner1/kernel" or "inner1/bias", what is made of its usual values.
        channels: Of the stem and of each inner layer.
        inner_layers: How many convolutions follow the stem.
    """
    random = np.random.default_rng(0)

    def kernel(out: int, into: int) -> NDArray[np.float64]:
        return random.normal(0, (2 / (9 * into)) ** 0.5, (out, into, 3, 3))

    layers = ["stem", *(f"inner{number}" for number in range(1, inner_layers + 1))]
    weights: dict[str, Any] = {
        "mean": np.array([160, 100, 120]).reshape(1, 1, 1, 3),
        "std": np.array([60, 50, 70]).reshape(1, 1, 1, 3),
    }
    for place, layer in enumerate(layers):
        weights[f"{layer}/kernel"] = kernel(channels, channels if place else 3)
        weights[f"{layer}/bias"] = random.normal(0, 0.1, channels)
    weights["head/kernel"] = random.normal(0, 6 * channels**-0.5, (channels, 1))
    weights["head/bias"] = np.array([-1.5])
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    weights |= {name: change(weights[name]).astype(np.float32) for name, change in (changes or {}).items()}
    nodes = [
        _node("Cast", "standardization/cast", ["cells"], to=TensorProto.FLOAT),
        _node("Sub", "standardization/sub", ["standardization/cast:0", "mean"]),
        _node("Div", "standardization/div", ["standardization/sub:0", "std"]),
        _node("Transpose", "standardization/transpose", ["standardization/div:0"], perm=[0, 3, 1, 2]),
    ]
    for layer in layers:
        given = [nodes[-1].output[0], f"{layer}/kernel", f"{layer}/bias"]
        nodes += [
            _node("Conv", f"{layer}/conv", given, pads=[1, 1, 1, 1]),
            _node("Relu", f"{layer}/relu", [f"{layer}/conv:0"]),
        ]
    nodes += [
        _node("GlobalAveragePool", "pool/mean", [nodes[-1].output[0]]),
        _node("Flatten", "pool/flatten", ["pool/mean:0"]),
        _node("Gemm", "head/dense", ["pool/flatten:0", "head/kernel", "head/bias"]),
        _node("Sigmoid", "head/sigmoid", ["head/dense:0"]),
        _node("Reshape", "head/reshape", ["head/sigmoid:0", "flat"]),
    ]
    nodes[-1].output[0] = "p_all"
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    constants.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
    return network_of(nodes, constants)


def averaging(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    positive = np.abs(kernel)
    averaged: NDArray[np.float32] = positive / positive.sum(axis=(1, 2, 3), keepdims=True)
    return averaged


def brightness_network(changes: Mapping[str, Change] | None = None) -> Any:
    """A network that tells the drawn cells apart by the mean of all pixels: 9 to 12 for ALL, else 6 to 7."""
    usual: dict[str, Change] = {
        "mean": lambda values: 0 * values,
        "std": np.ones_like,
        "head/kernel": lambda kernel: np.full_like(kernel, 2 / len(kernel)),
        "head/bias": lambda bias: np.full_like(bias, -17),
    }
    for layer in ("stem", "inner1", "inner2", "inner3"):
        usual |= {f"{layer}/kernel": averaging, f"{layer}/bias": lambda bias: 0 * bias}
    return small_network(usual | dict(changes or {}), inner_layers=3)


def branches_network() -> Any:
    """The small network, in which inner2 takes the larger values of two branches side by side."""
    model = small_network(channels=8)
    for layer in ("side", "last"):
        copy_weights(model, "inner2", layer)
    place = list(model.graph.node).index(named(model, "inner2/relu"))
    # inner1 is read by both branches, as in InceptionV3.
    for offset, node in enumerate(
        [
            helper.make_node(
                "Conv", ["inner1/relu:0", "side/kernel", "side/bias"], ["side:0"], "side/conv", pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", ["side:0"], ["side/relu:0"], "side/relu"),
            helper.make_node("Relu", ["inner2/conv:0"], ["first/relu:0"], "first/relu"),
            helper.make_node("Concat", ["first/relu:0", "side/relu:0"], ["both:0"], "both/concat", axis=2),
            helper.make_node("MaxPool", ["both:0"], ["larger:0"], "both/pool", kernel_shape=[2, 2]),
            helper.make_node("Conv", ["larger:0", "last/kernel", "last/bias"], ["last:0"], "last/conv"),
        ]
    ):
        model.graph.node.insert(place + offset, node)
    named(model, "inner2/relu").input[0] = "last:0"
    return model


def copy_weights(model: Any, source: str, layer: str) -> None:
    """Give `layer` kernel and bias of its own, equal to those of the layer `source`."""
    for each in list(model.graph.initializer):
        if each.name in (f"{source}/kernel", f"{source}/bias"):
            copy = model.graph.initializer.add()
            copy.CopyFrom(each)
            copy.name = each.name.replace(source, layer, 1)


def network_of(nodes: list[Any], constants: list[Any]) -> Any:
    """Return a model of these nodes with the input and the output of a bundle."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("cells", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("p_all", TensorProto.FLOAT, ["N"])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def saved(model: Any, path: Path) -> Path:
    """Write a model; return its path."""
    onnx.save(model, path)
    return path


def named(model: Any, name: str) -> Any:
    """Return the node of that name."""
    [node] = [node for node in model.graph.node if node.name == name]
    return node


def constants_of(model: Any) -> dict[str, NDArray[Any]]:
    """Return the constants by name."""
    return {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}


def types_of(model: Any) -> dict[str, int]:
    """Return the element type of each computed tensor."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}


def _node(operator: str, name: str, inputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [f"{name}:0"], name, **attributes)
