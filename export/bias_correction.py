"""Undoes the shift that rounding causes: in the mean over cells, each channel of a layer gives what it gave before.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling: Data-Free Quantization Through Weight Equalization and Bias
Correction. ICCV 2019; their empirical form, which goes from layer to layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from export.graph import drop_unused_constants, nodes_to, part_of
from export.onnx_session import computed
from runtime.schema import OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray


def channel_means(
    model: Any, layers: Collection[str], values: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return by layer the mean over cells and places of each channel that it gives, [channels].

    Args:
        model: Graph of a bundle, or a part of one.
        layers: Names of convolutions and matrix products on the way to p_all.
        values: By name what is put in, [N, ...].
    """
    return {layer: _means(given) for layer, given in _outputs(model, layers, values)}


def correct_biases(model: Any, means: Mapping[str, NDArray[np.float64]], values: Mapping[str, NDArray[Any]]) -> None:
    """Move the biases of a rounded graph, in place, until its layers have the given means over the cells.

    Each layer is looked at when all before it are corrected; one without a bias is left to the next that has one.

    Args:
        model: Rounded graph, whose layers have the names that they have in the fp32 graph.
        means: What `channel_means` says of the fp32 graph with the same values.
        values: By name what is put in, [N, ...].
    """
    nodes = {node.name: node for node in model.graph.node}
    constants = {constant.name: constant for constant in model.graph.initializer}
    for layer, given in _outputs(model, means, values):
        node = nodes[layer]
        if len(node.input) < 3:
            continue
        shift = (means[layer] - _means(given)).astype(np.float32)
        bias = onnx.numpy_helper.to_array(constants[node.input[2]]) + shift
        node.input[2] = f"{layer}/bias"  # the former one may belong to other layers as well
        model.graph.initializer.append(onnx.numpy_helper.from_array(bias, node.input[2]))
        given += shift.reshape(-1, *[1] * (given.ndim - 2))
    drop_unused_constants(model.graph, model.graph.node)


def _means(given: NDArray[np.float32]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = given.mean(axis=(0, *range(2, given.ndim)), dtype=np.float64)
    return means


def _outputs(
    model: Any, layers: Collection[str], values: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each layer with what it gives for all cells, [N, channels, ...]; what is behind it takes it as it is left.

    What comes from the cells is computed once, and held only until nothing takes it any more.
    """
    nodes = list(nodes_to(model, [OUTPUT_NAME]))
    held = {given.name: values[given.name] for given in model.graph.input}
    of_cells = _depending_on(held, nodes)
    done = 0
    for place, node in enumerate(nodes, 1):
        if node.name not in layers:
            continue
        needed = of_cells & {*node.output, *(tensor for later in nodes[place:] for tensor in later.input)}
        given = [tensor for each in nodes[done:place] for tensor in each.output if tensor in needed]
        part = part_of(model, list(nodes_to(model, given, held)), _infos(held), given)
        held |= computed(part, given, held)
        held = {tensor: value for tensor, value in held.items() if tensor in needed}
        done = place
        yield node.name, held[node.output[0]]


def _depending_on(inputs: Collection[str], nodes: Iterable[Any]) -> set[str]:
    """Return the inputs and what nodes, in the order of computation, make of them; not what they make of constants."""
    found = set(inputs)
    for node in nodes:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _infos(values: Mapping[str, NDArray[Any]]) -> list[Any]:
    return [
        onnx.helper.make_tensor_value_info(
            tensor, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), ("N", *value.shape[1:])
        )
        for tensor, value in values.items()
    ]
