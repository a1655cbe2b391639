from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import (
    constant_values,
    fold_and_save,
    nodes_after_weights,
    open_for_reading,
    put_in_order,
    refuse_invalid,
    standardize_channels_first,
    weighted_nodes,
)
from export.onnx_session import folded_by_onnxruntime
from runtime.errors import ConversionError, OutputError
from tests.small_network import SIZE, constants_of, named, network_of, saved, small_network, types_of
from tests.tiny_bundle import onnx_answers, some_cells


def raw_network(*, batch_norm_after: str = "Conv", channels: int = 4) -> Any:
    """A graph like the converter's: batch norm, channels last, a mean, a shape computed from N, other names."""
    numbers = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "mean": np.full((1, 1, 1, 3), 110, np.float32),
        "kernel": numbers.normal(0, 0.3, (channels, 3, 3, 3)).astype(np.float32),
        "gain": numbers.uniform(0.5, 2, channels).astype(np.float32),
        "shift": numbers.normal(0, 1, channels).astype(np.float32),
        "running_mean": numbers.normal(0, 1, channels).astype(np.float32),
        "running_variance": numbers.uniform(0.5, 2, channels).astype(np.float32),
        "dense": numbers.normal(0, 0.1, (channels, 1)).astype(np.float32),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "axes": np.array([0], np.int64),
        "width": np.array([channels], np.int32),
        "flat": np.array([-1], np.int64),
    }
    norm: tuple[str, str, list[str], dict[str, Any]] = (
        "BatchNormalization",
        "stem_1/norm__13",
        ["", "gain", "shift", "running_mean", "running_variance"],
        {},
    )
    steps: list[tuple[str, str, list[str], dict[str, Any]]] = [
        ("Cast", "cast_3/Cast", ["cells"], {"to": TensorProto.FLOAT}),
        ("Sub", "standardization_1/sub", ["", "mean"], {}),
        ("Transpose", "stem_1/convolution__12", [""], {"perm": [0, 3, 1, 2]}),
        ("Conv", "stem_1/convolution", ["", "kernel"], {}),
        ("Relu", "stem_1/relu", [""], {}),
    ]
    steps.insert([step[0] for step in steps].index(batch_norm_after) + 1, norm)
    steps += [
        ("Transpose", "stem_1/convolution__14", [""], {"perm": [0, 2, 3, 1]}),
        ("ReduceMean", "pool_1/Mean", [""], {"axes": [1, 2], "keepdims": 0}),
        # N is read from a shape and put into a shape: integers that TensorRT would have to compute.
        ("Shape", "flatten_1/Shape", [""], {}),
        ("Cast", "flatten_1/Shape__18", [""], {"to": TensorProto.INT32}),
        ("Slice", "flatten_1/strided_slice", ["", "zero", "one", "axes"], {}),
        ("Concat", "flatten_1/stack", ["", "width"], {"axis": 0}),
        ("Cast", "flatten_1/Reshape__19", [""], {"to": TensorProto.INT64}),
        ("Reshape", "flatten_1/Reshape", ["pool_1/Mean:0", ""], {}),
        ("MatMul", "p_all_1/MatMul", ["", "dense"], {}),
        ("Sigmoid", "p_all_1/Sigmoid", [""], {}),
        ("Reshape", "Reshape__20", ["", "flat"], {}),
        ("Identity", "Identity__22", [""], {}),
    ]
    nodes = []
    last = ""
    for operator, name, inputs, attributes in steps:
        given = [each or last for each in inputs]
        last = f"{name}:0"
        nodes.append(helper.make_node(operator, given, [last], name, **attributes))
    model = network_of(nodes, [numpy_helper.from_array(values, name) for name, values in constants.items()])
    model.graph.output[0].name = last
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "unk__21"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "unk__22"
    model.graph.doc_string = "p_all_1234"
    return model


def folded(model: Any, folder: Path) -> Any:
    fold_and_save(model, folder, folder / "model.onnx")
    return onnx.load(folder / "model.onnx")


def test_a_folded_graph_is_the_one_that_bundles_hold(tmp_path: Path) -> None:
    model = folded(raw_network(), tmp_path)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 0
    assert {"Shape", "Slice", "Concat", "Identity", "ReduceMean"}.isdisjoint(kinds)
    assert model.graph.node[0].op_type == "Cast"
    assert model.graph.node[0].input == ["cells"]
    assert model.graph.node[1].op_type == "Transpose", "what follows has a constant for each channel"
    assert set(types_of(model).values()) == {TensorProto.FLOAT}, "no integer is computed"
    [cells], [p_all] = model.graph.input, model.graph.output
    assert [dim.dim_param or dim.dim_value for dim in cells.type.tensor_type.shape.dim] == ["N", SIZE, SIZE, 3]
    assert [dim.dim_param or dim.dim_value for dim in p_all.type.tensor_type.shape.dim] == ["N"]
    assert p_all.name == "p_all"
    assert [opset.domain for opset in model.opset_import] == [""]
    assert model.graph.doc_string == "", "the name of a function that was numbered by a process"


@pytest.mark.parametrize("count", [1, 7])
def test_a_folded_graph_answers_like_the_raw_one(tmp_path: Path, count: int) -> None:
    cells = some_cells(count)
    raw = raw_network()
    raw.graph.output[0].name = raw.graph.node[-1].output[0] = "p_all"
    expected = onnx_answers(saved(raw, tmp_path / "answers.onnx"), cells)
    folded(raw_network(), tmp_path)
    found = onnx_answers(tmp_path / "model.onnx", cells)
    assert found.shape == (count,)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def standardizing(scale_shape: tuple[int, ...], *, result_is_also_summed: bool = False) -> Any:
    """A graph that scales and shifts the cells, and beside it scales them alone, before it transposes either."""
    numbers = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "scale": numbers.uniform(0.001, 0.01, scale_shape).astype(np.float32),
        "shift": numbers.normal(0, 1, 3).astype(np.float32),
        "brightness": np.array(1 / 255, np.float32),
        "kernel": numbers.normal(0, 0.3, (1, 3, SIZE, SIZE)).astype(np.float32),
        "axes": np.array([1, 2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["cells"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", "shift"], ["shifted"], "shift"),
        helper.make_node("Transpose", ["shifted"], ["standardized"], "fine", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["float", "brightness"], ["bright"], "bright"),
        helper.make_node("Transpose", ["bright"], ["coarse"], "coarse", perm=[0, 3, 1, 2]),
        helper.make_node("Add", ["standardized", "coarse"], ["both"], "both"),
        helper.make_node("Conv", ["both", "kernel"], ["map"], "conv"),
        helper.make_node("ReduceSum", ["map", "axes"], ["p_all"], "sum", keepdims=0),
    ]
    if result_is_also_summed:
        nodes[-1].input[0] = "with_sum"
        nodes.insert(3, helper.make_node("ReduceMean", ["shifted"], ["mean"], "mean", axes=[1, 2, 3]))
        nodes.insert(-1, helper.make_node("Add", ["map", "mean"], ["with_sum"], "with_sum"))
    return network_of(nodes, [numpy_helper.from_array(values, name) for name, values in constants.items()])


@pytest.mark.parametrize(
    ("network", "transposed"),
    [
        (standardizing((3,)), {"Cast:0"}),
        (standardizing((1, 1, 3)), {"Cast:0"}),
        (standardizing((SIZE, 1)), {"Cast:0", "Add:0"}),
        (standardizing((3,), result_is_also_summed=True), {"Cast:0", "Add:0"}),
    ],
    ids=["a number for each channel", "the same with all axes", "a number for each row", "taken elsewhere too"],
)
def test_cells_are_standardized_channels_first_with_the_same_result(
    network: Any, transposed: set[str], tmp_path: Path
) -> None:
    cells = some_cells(7)
    expected = onnx_answers(saved(network, tmp_path / "model.onnx"), cells)
    changed = onnx.ModelProto.FromString(network.SerializeToString())
    standardize_channels_first(changed)
    put_in_order(changed)
    np.testing.assert_array_equal(onnx_answers(saved(changed, tmp_path / "model.onnx"), cells), expected)
    assert {node.input[0] for node in changed.graph.node if node.op_type == "Transpose"} == transposed


def test_a_batch_norm_that_no_convolution_takes_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"expected folded batch norms in model\.onnx, found stem/norm"):
        folded(raw_network(batch_norm_after="Relu"), tmp_path)


def test_weights_that_lie_in_another_file_end_in_the_graphs_own(tmp_path: Path) -> None:
    model = raw_network(channels=2048)
    [kernel] = [constant for constant in model.graph.initializer if constant.name == "kernel"]
    values = numpy_helper.to_array(kernel)
    kernel.CopyFrom(TensorProto(name="kernel", dims=values.shape, data_type=TensorProto.FLOAT))
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights", "offset": 0, "length": values.nbytes}.items():
        kernel.external_data.add(key=key, value=str(value))
    for name in ("aside", "bundle"):
        (tmp_path / name).mkdir()
    (tmp_path / "aside" / "weights").write_bytes(values.tobytes())
    target = tmp_path / "bundle" / "model.onnx"
    fold_and_save(model, tmp_path / "aside", target)
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_size > values.nbytes
    held = constants_of(onnx.load(target, load_external_data=False))
    [stem] = [constant for constant in held.values() if constant.shape == values.shape]
    gain = constants_of(raw_network(channels=2048))["gain"]
    variance = constants_of(raw_network(channels=2048))["running_variance"]
    np.testing.assert_allclose(stem, values * (gain / np.sqrt(variance + 1e-5))[:, None, None, None], rtol=1e-4)


def test_nodes_and_constants_that_the_output_does_not_need_vanish() -> None:
    model = small_network()
    model.graph.node.append(helper.make_node("Mul", ["inner1/conv:0", "unused"], ["nobody"], "unused/mul"))
    model.graph.node.append(helper.make_node("Abs", ["nobody"], ["nobody either"], "unused/abs"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "unused"))
    put_in_order(model)
    expected = small_network()
    put_in_order(expected)
    assert model.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert len(model.graph.node) == len(small_network().graph.node)


def test_names_that_several_nodes_share_become_unique() -> None:
    model = small_network()
    for node in model.graph.node:
        node.name = re.sub(r"^inner\d", "inner", node.name)
    named(model, "pool/mean").name = "a name without a layer"
    put_in_order(model)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"inner/conv", "inner/conv_2", "inner/relu", "inner/relu_2", "GlobalAveragePool"} <= set(names)
    assert "inner/conv_2/1" in constants_of(model)


def shuffled(model: Any, seed: int) -> None:
    order = random.Random(seed)
    for field in (model.graph.node, model.graph.initializer):
        items = order.sample(list(field), len(field))
        del field[:]
        field.extend(items)


def renumbered(model: Any, seed: int) -> None:
    """Name nodes, tensors and constants as another run of the converter would."""
    numbers = iter(random.Random(seed).sample(range(100, 1000), 100))
    new = {"cells": "cells", "p_all": "p_all"}
    for node in model.graph.node:
        layer, _, operator = node.name.partition("/")
        node.name = f"{layer}_{next(numbers)}/{operator}__{next(numbers)}"
        for names in (node.input, node.output):
            names[:] = [new.setdefault(name, f"tensor_{next(numbers)}") for name in names]
    for constant in model.graph.initializer:
        constant.name = new[constant.name]
    model.graph.doc_string = f"p_all_{seed}"


ACCIDENTS: dict[str, Callable[[Any, int], None]] = {"shuffled": shuffled, "renumbered": renumbered}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_a_graph_in_order_does_not_depend_on_how_a_converter_went_over_it(
    accident: Callable[[Any, int], None], seed: int
) -> None:
    model, other = small_network(), small_network()
    accident(other, seed)
    assert other != model, "otherwise this proves nothing"
    put_in_order(model)
    put_in_order(other)
    assert other.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_a_graph_in_order_keeps_its_names_when_it_is_put_in_order_again() -> None:
    """A variant's layers are found in the fp32 graph by their names."""
    model = small_network()
    for node in model.graph.node:
        layer, _, operator = node.name.partition("/")
        node.name = f"{layer}_1_23/{operator}_4_5__67"
    put_in_order(model)
    once = [node.name for node in model.graph.node]
    put_in_order(model)
    assert [node.name for node in model.graph.node] == once


def test_a_graph_in_order_computes_the_same(tmp_path: Path) -> None:
    model = small_network()
    expected = onnx_answers(saved(model, tmp_path / "before.onnx"), some_cells(5))
    shuffled(model, 1)
    put_in_order(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(onnx_answers(saved(model, tmp_path / "after.onnx"), some_cells(5)), expected)


def test_a_graph_that_is_not_valid_is_refused_in_one_line(tmp_path: Path) -> None:
    model = small_network()
    named(model, "inner1/relu").input[0] = "nowhere"
    with pytest.raises(ConversionError, match=r"model\.onnx is not a valid ONNX graph: .*nowhere") as refused:
        refuse_invalid(saved(model, tmp_path / "model.onnx"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"no graph at all", None], ids=["other content", "missing"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ConversionError, match=r"expected an ONNX graph in .*model\.onnx, found: .*; export the bundle"):
        open_for_reading(tmp_path / "model.onnx")


def test_layers_are_what_multiplies_by_weights() -> None:
    model = small_network()
    assert weighted_nodes(model) == {"stem/conv", "inner1/conv", "inner2/conv", "head/dense"}
    assert nodes_after_weights(model) == {node.name for node in model.graph.node[5:]}
    assert model.graph.node[5].name == "stem/relu"


def test_constants_with_values_are_those_of_floats() -> None:
    assert "flat" not in dict(constant_values(small_network()))
    assert set(dict(constant_values(small_network()))) == set(constants_of(small_network())) - {"flat"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")
def test_a_full_disk_is_told_from_a_graph_that_cannot_be_loaded(tmp_path: Path) -> None:
    graph = saved(small_network(), tmp_path / "graph.onnx")
    with pytest.raises(OutputError, match=r"cannot write the folded graph, .*; make room on the disk"):
        folded_by_onnxruntime(graph, Path("/dev/full"))
    graph.write_bytes(b"no graph")
    with pytest.raises(ConversionError, match="ONNX Runtime cannot load the graph"):
        folded_by_onnxruntime(graph, tmp_path / "folded.onnx")
