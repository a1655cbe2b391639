"""An ONNX graph as bundles hold it: folded, in one order, under names that two exports give alike."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from export.model_file import save_model
from export.onnx_session import folded_by_onnxruntime
from runtime.errors import ConversionError, one_line
from runtime.schema import HEAT_NAME, INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

# TensorFlow and tf2onnx number names, "stem_1/convolution__12", in an order that changes from run to run.
COUNTER = re.compile(r"(?:__?\d+)+(?=/|$)|__\d+")
OPSET = 17  # within what tf2onnx is tested with (14 to 18) and every TensorRT since 10 reads
BATCH = "N"  # the name of the free dimension
SMALL = 64  # values; a constant with no more may be a shape
CHANNELS_FIRST = "channels_first"  # the input as float32 [N, C, height, width]


def fold_and_save(model: Any, folder: Path, target: Path) -> None:
    """Write a graph to `target` with its constants, its transposed kernels and its batch norms folded.

    Large weights may lie in a file of `folder`, which is also used for what is written in between. Raises
    ConversionError where the graph is not valid or a batch norm is left.
    """
    _fix_reshapes(model)
    _average_channels_first(model)
    save_model(model, folder / "raw.onnx")
    folded_by_onnxruntime(folder / "raw.onnx", folder / "folded.onnx")
    _put_file_in_order(folder / "folded.onnx", target)
    refuse_invalid(target)


def _put_file_in_order(folded: Path, target: Path) -> None:
    model = onnx.load(folded)
    _name_ends(model)
    standardize_channels_first(model)
    put_in_order(model)
    unfolded = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    if unfolded:
        raise ConversionError(f"expected folded batch norms in {target.name}, found {unfolded[0]}")
    save_model(model, target)


def refuse_invalid(file: Path) -> None:
    """Raise ConversionError where a file is not a valid graph."""
    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{file.name} is not a valid ONNX graph: {one_line(error)}") from error


def put_in_order(model: Any) -> None:
    """Sort the nodes from the output backwards and name nodes, tensors and constants after them, in place.

    Nothing then depends on the order in which a converter went over the graph, so two exports give the same file.
    """
    graph = model.graph
    nodes = list(nodes_to(model, [output.name for output in graph.output]))
    drop_unused_constants(graph, nodes)
    kept = {value.name for value in (*graph.input, *graph.output)}
    constants = {constant.name: constant for constant in graph.initializer}
    new_names: dict[str, str] = {name: name for name in kept}
    for node, name in zip(nodes, _unique(map(_plain_name, nodes)), strict=True):
        for index, tensor in enumerate(node.input):
            if tensor in constants:
                new_names.setdefault(tensor, f"{name}/{index}")
        new_names |= {tensor: f"{name}:{index}" for index, tensor in enumerate(node.output) if tensor not in kept}
        node.name = name
        node.input[:] = [new_names.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [new_names[tensor] for tensor in node.output]
    place = {name: index for index, name in enumerate(new_names.values())}
    for constant in graph.initializer:
        constant.name = new_names[constant.name]
    graph.initializer.sort(key=lambda constant: place[constant.name])
    _replace(graph.node, nodes)
    _replace(graph.value_info, [])
    graph.doc_string = ""  # the name of a function that was numbered by a process
    _replace(model.opset_import, [opset for opset in model.opset_import if not opset.domain])


def open_for_reading(file: Path) -> Any:
    """Load a graph of a bundle; raise ConversionError where the file is not ONNX."""
    try:
        return onnx.load(file)
    except (OSError, DecodeError) as error:
        raise ConversionError(f"expected an ONNX graph in {file}, found: {error}; export the bundle again") from error


def inferred_values(model: Any) -> Any:
    """Return the type and shape of each tensor of a graph that is known: value_info of inputs, outputs and between.

    Only shapes are looked at, so large weights are left out of what is handed to shape inference and copied there.
    """
    graph = model.graph
    outline = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    outline.graph.node.extend(graph.node)
    outline.graph.input.extend(graph.input)
    outline.graph.output.extend(graph.output)
    for constant in graph.initializer:
        if math.prod(constant.dims) <= SMALL:
            outline.graph.initializer.append(constant)
        else:
            outline.graph.input.append(
                onnx.helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
            )
    inferred = onnx.shape_inference.infer_shapes(outline, data_prop=True).graph
    return (*inferred.input, *inferred.value_info, *inferred.output)


def constant_values(model: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the name and the values of each floating-point constant."""
    for constant in model.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if np.issubdtype(values.dtype, np.floating):
            yield constant.name, values


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def producers(model: Any) -> dict[str, Any]:
    """Map each tensor to the node that gives it."""
    return {tensor: node for node in model.graph.node for tensor in node.output}


def nodes_to(model: Any, outputs: Sequence[str], given: Collection[str] = ()) -> Iterator[Any]:
    """Yield each node that these outputs need, some tensors being given, after the nodes that it needs.

    By depth-first search.
    """
    producer = producers(model)
    done: set[str] = set()
    pending = [(output, False) for output in reversed(outputs)]
    while pending:
        tensor, inputs_are_done = pending.pop()
        node = producer.get(tensor)
        if node is None or tensor in given or node.output[0] in done:
            continue
        if inputs_are_done:
            done.add(node.output[0])
            yield node
            continue
        pending.append((tensor, True))
        pending += [(name, False) for name in reversed(node.input)]


def part_of(model: Any, nodes: Sequence[Any], inputs: Iterable[Any], outputs: Sequence[str]) -> Any:
    """Return a graph of some nodes alone, in the order of computation, with what they use of the inputs."""
    used = {tensor for node in nodes for tensor in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        model.graph.name,
        [value for value in inputs if value.name in used],
        # ONNX Runtime finds out type and shape by itself.
        [onnx.helper.make_empty_tensor_value_info(tensor) for tensor in outputs],
        [constant for constant in model.graph.initializer if constant.name in used],
    )
    return onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)


def drop_unused_constants(graph: Any, nodes: Iterable[Any]) -> None:
    """Leave out of a graph, in place, the constants that none of the nodes takes."""
    used = {tensor for node in nodes for tensor in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def weighted_nodes(model: Any) -> set[str]:
    """Return the names of the nodes that multiply by learnt weights on the way to p_all: convolutions and products."""
    constants = {constant.name for constant in model.graph.initializer}
    return {
        node.name
        for node in nodes_to(model, [OUTPUT_NAME])
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in constants
    }


def nodes_after_weights(model: Any) -> set[str]:
    """Return the names of the nodes that take what a convolution or a matrix product with learnt weights gave."""
    weighted, producer = weighted_nodes(model), producers(model)
    after: set[str] = set()
    for node in model.graph.node:  # in the order of computation
        sources = {producer[tensor].name for tensor in node.input if tensor in producer}
        if sources & (weighted | after):
            after.add(node.name)
    return after


def _replace(field: Any, items: Iterable[Any]) -> None:
    """Let a field hold these items alone. They are copied; the former ones are freed only with the whole graph."""
    items = list(items)
    del field[:]
    field.extend(items)


def _plain_name(node: Any) -> str:
    """Return a node's name without counters, which tells its layer; its operator where it belongs to none."""
    return COUNTER.sub("", node.name) if "/" in node.name else str(node.op_type)


def _unique(names: Iterable[str]) -> Iterator[str]:
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
        yield name if count[name] == 1 else f"{name}_{count[name]}"


def _fix_reshapes(model: Any) -> None:
    """Give each reshape to [N, ...] the constant shape [-1, ...], in place of operators that compute N.

    TensorRT would have to run those on integers.
    """
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred_values(model)
    }
    constants = {constant.name for constant in model.graph.initializer}
    for node in model.graph.node:
        shape = shapes.get(node.output[0], [])
        if node.op_type == "Reshape" and node.input[1] not in constants and shape.count(0) == 1 and shape[0] == 0:
            name = f"{node.name}/shape"
            model.graph.initializer.append(
                onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(shape)], [-1, *shape[1:]])
            )
            node.input[1] = name


def _average_channels_first(model: Any) -> None:
    """Write the means over height and width of [N, height, width, C] as global average pools of [N, C, height, width].

    A mean stops the transpositions that ONNX Runtime pushes out of the graph, and a batch norm behind one that stays
    is not folded.
    """
    nodes = []
    for node in model.graph.node:
        given = attributes(node)
        if node.op_type != "ReduceMean" or list(given.get("axes", ())) != [1, 2] or given.get("keepdims", 1):
            nodes.append(node)
            continue
        first, pooled = f"{node.name}/channels_first", f"{node.name}/pooled"
        nodes += [
            onnx.helper.make_node("Transpose", [node.input[0]], [first], first, perm=[0, 3, 1, 2]),
            onnx.helper.make_node("GlobalAveragePool", [first], [pooled], pooled),
            onnx.helper.make_node("Flatten", [pooled], node.output, node.name),
        ]
    _replace(model.graph.node, nodes)


def standardize_channels_first(model: Any) -> None:
    """Transpose what the input is cast to, and not what a constant for each channel has made of it, in place.

    ONNX Runtime applies such a constant to [N, height, width, C] pixel by pixel, a sixth of the time of a small
    network, and to [N, C, height, width] row by row. What is computed stays the same, bit by bit.
    """
    graph, takers = model.graph, _takers(model)
    [cast] = takers[INPUT_NAME]
    of_channels = {each.name: each for each in graph.initializer if math.prod(each.dims[:-1]) == 1}
    chains = [_chain_to_channels_first(node, takers, of_channels) for node in takers[cast.output[0]]]
    first = onnx.helper.make_node("Transpose", cast.output, [CHANNELS_FIRST], cast.name, perm=[0, 3, 1, 2])
    for *steps, transposition in filter(None, chains):
        steps[0].input[0] = CHANNELS_FIRST
        for step in steps:
            values = onnx.numpy_helper.to_array(of_channels[step.input[1]]).reshape(-1, 1, 1)
            step.input[1] = f"{step.name}/{CHANNELS_FIRST}"
            graph.initializer.append(onnx.numpy_helper.from_array(values, step.input[1]))
        for taker in takers[transposition.output[0]]:
            place = list(taker.input).index(transposition.output[0])
            taker.input[place] = steps[-1].output[0]
    nodes = list(graph.node)
    nodes.insert(nodes.index(cast) + 1, first)
    _replace(graph.node, nodes)


def _takers(model: Any) -> dict[str, list[Any]]:
    """Map each tensor to the nodes that take it."""
    takers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            takers.setdefault(tensor, []).append(node)
    return takers


def _chain_to_channels_first(node: Any, takers: dict[str, list[Any]], of_channels: Collection[str]) -> list[Any]:
    """Return the nodes from this one to a transposition to [N, C, height, width]; nothing where there is none.

    All but the last compute with a constant for each channel, and nothing else takes what they give.
    """
    chain = [node]
    while chain[-1].op_type in ("Add", "Div", "Mul", "Sub") and chain[-1].input[1] in of_channels:
        following = takers.get(chain[-1].output[0], [])
        if len(following) != 1:
            return []
        chain += following
    is_transposed = chain[-1].op_type == "Transpose" and attributes(chain[-1])["perm"] == [0, 3, 1, 2]
    return chain if is_transposed and len(chain) > 1 else []


def _name_ends(model: Any) -> None:
    """Give the graph's outputs their promised names, and the free dimension of input and outputs one name."""
    [cells], outputs = model.graph.input, model.graph.output
    names = {output.name: name for output, name in zip(outputs, (OUTPUT_NAME, HEAT_NAME), strict=False)}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for output in outputs:
        output.name = names[output.name]
    for end in (cells, *outputs):
        end.type.tensor_type.shape.dim[0].dim_param = BATCH
