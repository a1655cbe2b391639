"""fp32 ONNX to fp16 ONNX: the precision is that of the graph, and what it would spoil stays in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.graph import (
    constant_values,
    nodes_after_weights,
    open_for_reading,
    producers,
    put_in_order,
    refuse_invalid,
    weighted_nodes,
)
from export.model_file import save_model

LARGEST_HALF = 65504.0
# Other cells may have larger values than those that were looked at.
BOUND = LARGEST_HALF / 8


def write_fp16(fp32: Path, target: Path, peaks: dict[str, float]) -> tuple[str, ...]:
    """Convert a fp32 graph of a bundle; return the names of the layers that stay in float32.

    They are those with weights at both ends, and inside all that would overflow.

    The uint8 input is cast and standardized in float32, and so are all measures of it, which sum over a large range,
    and the first convolutions: rounding what they take moves p_all more than rounding all that follows. The last layer
    stays too, since its sigmoid in fp16 would give many cells the same answer.

    Args:
        fp32: ONNX file with folded batch norms.
        target: Where the fp16 graph is written.
        peaks: By tensor its largest absolute value on real cells: what passes BOUND there stays in float32.

    Raises ConversionError where the graph is not valid.
    """
    model = open_for_reading(fp32)
    inner = _inner_nodes(model)
    overflowing = _overflowing(model, inner, peaks)
    weighted = weighted_nodes(model)
    names = [node.name for node in model.graph.node]
    outer = [name for name in names if name not in inner]
    converted = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[], node_block_list=[*outer, *overflowing]
    )
    _drop_round_trips(converted)
    put_in_order(converted)
    save_model(converted, target)
    refuse_invalid(target)
    return tuple(name for name in names if name in overflowing or (name in weighted and name not in inner))


def _inner_nodes(model: Any) -> set[str]:
    """Return the names of the nodes after the first convolutions and before the last layer."""
    names = [node.name for node in model.graph.node]
    weighted = weighted_nodes(model)
    last = max(index for index, name in enumerate(names) if name in weighted)
    return nodes_after_weights(model) - set(names[last:])


def _overflowing(model: Any, inner: set[str], peaks: dict[str, float]) -> tuple[str, ...]:
    """Return the names of the inner nodes with a value beyond BOUND in what they take, hold or give."""
    constants = {name: float(np.abs(values).max(initial=0)) for name, values in constant_values(model)}
    known = constants | peaks
    return tuple(
        node.name
        for node in model.graph.node
        if node.name in inner and max(known.get(tensor, 0.0) for tensor in (*node.input, *node.output)) > BOUND
    )


def _drop_round_trips(model: Any) -> None:
    """Take out float32 to fp16 to float32, which the converter puts between two nodes that stay in float32.

    It would round what should not be rounded. The nodes that nobody needs any more are left to `put_in_order`.
    """
    producer = producers(model)

    def is_cast(node: Any, kind: int) -> bool:
        return node is not None and node.op_type == "Cast" and node.attribute[0].i == kind

    trips = [
        (producer[node.input[0]], node)
        for node in model.graph.node
        if is_cast(node, onnx.TensorProto.FLOAT) and is_cast(producer.get(node.input[0]), onnx.TensorProto.FLOAT16)
    ]
    outputs = {output.name for output in model.graph.output}
    whole: dict[str, str] = {}
    for there, back in trips:
        source = producer.get(there.input[0])
        if source is None:
            back.input[0] = there.input[0]  # the uint8 input, which is cast to float32 at once
        elif back.output[0] in outputs:
            source.output[0], back.output[0] = back.output[0], there.input[0]
        else:
            whole[back.output[0]] = source.output[0]
    for node in model.graph.node:
        node.input[:] = [whole.get(tensor, tensor) for tensor in node.input]
