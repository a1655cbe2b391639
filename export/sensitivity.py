"""How far each layer of a graph, changed alone, moves the answers.

What a change does not reach stays the same. Where that is few values they are computed once and put into the graph in
place of the nodes that give them: of branches that meet at the end only the changed one is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from export.graph import inferred_values, nodes_to, part_of
from export.onnx_session import computed
from runtime.progress import with_progress
from runtime.schema import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 2**17  # values of a tensor for one cell: half a megabyte, as much as the last activations of ALLNet's backbones


def sensitivities(
    model: Any, layers: Iterable[str], cells: NDArray[np.uint8], changed: Callable[[Any, str], Any]
) -> dict[str, float]:
    """Return by layer the mean absolute difference of p_all that changing this layer alone makes.

    Args:
        model: fp32 graph of a bundle.
        layers: Names of nodes on the way to p_all.
        cells: uint8 RGB [N, height, width, 3].
        changed: Takes a part of the graph and the name of a layer in it; returns the part with that layer changed.
    """
    few = _tensors_of_few_values(model)
    inputs = {layer: _last_not_reached(model, layer, few) for layer in layers}
    once = [OUTPUT_NAME, *sorted(set().union(*inputs.values()))]
    values = {INPUT_NAME: cells}
    values |= computed(_part(model, [], once), once, values)
    moved = {}
    for layer in with_progress(inputs, title="layers", unit="layer"):
        part = _part(model, [few[tensor] for tensor in sorted(inputs[layer])], [OUTPUT_NAME])
        answers = computed(changed(part, layer), [OUTPUT_NAME], values)[OUTPUT_NAME]
        moved[layer] = float(np.abs(answers - values[OUTPUT_NAME]).mean(dtype=np.float64))
    return moved


def _tensors_of_few_values(model: Any) -> dict[str, Any]:
    """Return the name, type and shape of each tensor between nodes that holds at most FEW float32 values a cell."""
    between = {tensor for node in model.graph.node for tensor in node.output}
    return {
        value.name: value
        for value in inferred_values(model)
        if value.name in between and 0 < _float_values_per_cell(value.type.tensor_type) <= FEW
    }


def _float_values_per_cell(kind: Any) -> int:
    """Return 0 where the type is not float32, or a side is not known."""
    if kind.elem_type != onnx.TensorProto.FLOAT:
        return 0
    return math.prod(dimension.dim_value for dimension in kind.shape.dim[1:])


def _last_not_reached(model: Any, layer: str, few: Mapping[str, Any]) -> set[str]:
    """Return the tensors of few values that a change of the layer leaves as they are, the last before its effect.

    A change may be one of what the layer takes, such as its rounding, which all that take the same then feel.
    """
    [taken] = [set(node.input) for node in model.graph.node if node.name == layer]
    reached: set[str] = set()
    for node in model.graph.node:  # in the order of computation
        if not taken.isdisjoint(node.input) or not reached.isdisjoint(node.input):
            reached.update(node.output)
    given = few.keys() - reached
    return {tensor for node in nodes_to(model, [OUTPUT_NAME], given) for tensor in node.input} & given


def _part(model: Any, inputs: Sequence[Any], outputs: Sequence[str]) -> Any:
    """Return the graph of the nodes between some tensors, or the cells, and the outputs."""
    nodes = nodes_to(model, outputs, {value.name for value in inputs})
    return part_of(model, list(nodes), [*model.graph.input, *inputs], outputs)
