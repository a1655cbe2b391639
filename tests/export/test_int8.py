from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import export.int8
from export.activations import largest_activations
from export.bias_correction import channel_means
from export.int8 import LARGEST_MEAN_DIFFERENCE, SOME_CELLS, exact_answers, write_int8
from export.onnx_session import computed
from runtime.backends.onnxruntime import DISABLED_OPTIMIZERS
from runtime.errors import ConversionError
from runtime.inputs import spread_over
from runtime.schema import INPUT_NAME, OUTPUT_NAME
from tests.overflowing_graph import P_ALL_OF_WHITE, WHITE, write_overflowing_onnx
from tests.small_network import branches_network, constants_of, copy_weights, named, saved, small_network
from tests.tiny_bundle import onnx_answers, some_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS = some_cells(24)
LAYERS = ("stem/conv", "inner1/conv", "inner2/conv", "inner3/conv", "head/dense")


def one_large(bias: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([[1e4], bias[1:]])


def first_ignored(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([0 * kernel[:, :1], kernel[:, 1:]], axis=1)


# One channel reaches ten thousand, which nobody reads: the others, near one, are then rounded to nothing.
OUTLIER = {"inner1/bias": one_large, "inner2/kernel": first_ignored}


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    return saved(small_network(inner_layers=3), tmp_path / "model.fp32.onnx")


def converted(fp32: Path, *, for_cpu: bool = False) -> tuple[tuple[str, ...], Any]:
    target = fp32.with_name("model.int8_cpu.onnx" if for_cpu else "model.int8.onnx")
    kept = write_int8(fp32, target, exact_answers(fp32, CELLS), largest_activations(fp32, CELLS), for_cpu=for_cpu)
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    return kept, model


def producers(model: Any) -> dict[str, Any]:
    return {tensor: node for node in model.graph.node for tensor in node.output}


def test_all_rounding_is_symmetric_round_zero(fp32: Path) -> None:
    kept, model = converted(fp32)
    assert kept == ()
    constants = constants_of(model)
    rounding = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(rounding) > 3 * len(LAYERS)
    for node in rounding:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (constants[node.input[1]] > 0).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_weights_are_rounded_channel_by_channel(fp32: Path, layer: str) -> None:
    _, model = converted(fp32)
    constants, node = constants_of(model), named(model, layer)
    weights = producers(model)[node.input[1]]
    assert weights.op_type == "DequantizeLinear"
    axis = helper.get_attribute_value(weights.attribute[0])
    assert axis == (1 if layer == "head/dense" else 0), "the axis of what the layer gives"
    values, scales = constants[weights.input[0]], constants[weights.input[1]]
    assert values.dtype == np.int8
    assert scales.shape == (values.shape[axis],)
    assert np.abs(values).max(axis=tuple(set(range(values.ndim)) - {axis})).tolist() == [127] * len(scales)
    exact = constants_of(onnx.load(fp32))[f"{layer.split('/')[0]}/kernel"]
    shape = [-1 if place == axis else 1 for place in range(values.ndim)]
    np.testing.assert_allclose(values * scales.reshape(shape), exact, atol=scales.max())


def test_biases_stay_in_float32_and_are_corrected(fp32: Path) -> None:
    _, model = converted(fp32)
    constants = constants_of(model)
    assert {constants[named(model, layer).input[2]].dtype for layer in LAYERS} == {np.dtype(np.float32)}
    some = {INPUT_NAME: np.stack(spread_over(list(CELLS), SOME_CELLS))}
    before, after = (channel_means(each, LAYERS, some) for each in (onnx.load(fp32), model))
    for layer in LAYERS:
        np.testing.assert_allclose(after[layer], before[layer], atol=1e-4)


def test_cells_of_both_classes_are_looked_at_where_one_comes_first(fp32: Path) -> None:
    ordered = np.sort(np.resize(CELLS, (64, *CELLS.shape[1:])), axis=0)
    looked_at = exact_answers(fp32, ordered).some
    assert len(looked_at) == SOME_CELLS
    np.testing.assert_array_equal(looked_at, ordered[:: 64 // SOME_CELLS])


def test_layers_that_share_a_tensor_get_a_pair_each(tmp_path: Path) -> None:
    model = small_network()
    graph = model.graph
    place = list(graph.node).index(named(model, "inner2/conv"))
    copy_weights(model, "inner2", "side")
    inputs = ["inner1/relu:0", "side/kernel", "side/bias"]
    graph.node.insert(place, helper.make_node("Conv", inputs, ["side"], "side/conv", pads=[1, 1, 1, 1]))
    graph.node.insert(place + 2, helper.make_node("Add", ["inner2/conv:0", "side"], ["sum"], "side/add"))
    named(model, "inner2/relu").input[0] = "sum"
    _, rounded = converted(saved(model, tmp_path / "model.fp32.onnx"))
    source = producers(rounded)
    pairs = [source[named(rounded, name).input[0]] for name in ("inner2/conv", "side/conv")]
    assert [pair.op_type for pair in pairs] == ["DequantizeLinear"] * 2
    assert pairs[0].name != pairs[1].name
    assert pairs[0].input[0] != pairs[1].input[0], "one QuantizeLinear each as well"
    # They say the same, so that both layers take the same values.
    constants = constants_of(rounded)
    assert constants[pairs[0].input[1]] == constants[pairs[1].input[1]]


def test_answers_stay_near_those_of_fp32(fp32: Path) -> None:
    converted(fp32)
    expected = onnx_answers(fp32, CELLS)
    assert np.ptp(expected) > 0.3, "cells that all get one answer would prove nothing"
    found = onnx_answers(fp32.with_name("model.int8.onnx"), CELLS)
    assert np.abs(found - expected).mean() <= LARGEST_MEAN_DIFFERENCE
    assert np.abs(found - expected).max() > 1e-4, "otherwise nothing was rounded"


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
def test_what_layers_lose_is_measured_in_exact_sums_on_a_cpu_without_vnni_too(tmp_path: Path, activation: Any) -> None:
    model = onnx.load(write_overflowing_onnx(tmp_path / "model.onnx", activation))
    [p_all] = computed(model, [OUTPUT_NAME], {INPUT_NAME: WHITE}).values()
    assert p_all == pytest.approx(P_ALL_OF_WHITE, abs=1e-5)


def test_a_file_whose_weights_lie_inside_is_a_quarter_as_large(tmp_path: Path) -> None:
    fp32 = saved(small_network(channels=64, inner_layers=4), tmp_path / "model.fp32.onnx")
    converted(fp32)
    assert 0.25 < fp32.with_name("model.int8.onnx").stat().st_size / fp32.stat().st_size < 0.29


def test_the_range_of_an_activation_is_its_largest_value_on_the_cells(fp32: Path) -> None:
    _, model = converted(fp32)
    constants, source = constants_of(model), producers(model)
    peaks = largest_activations(fp32, CELLS)
    for layer, tensor in (("stem/conv", "standardization/transpose:0"), ("inner2/conv", "inner1/relu:0")):
        scale = constants[source[named(model, layer).input[0]].input[1]]
        assert scale == pytest.approx(peaks[tensor] / 127, rel=0.01)


@pytest.mark.parametrize("for_cpu", [False, True])
def test_layers_that_do_not_bear_int8_are_kept_and_only_they(tmp_path: Path, *, for_cpu: bool) -> None:
    fp32 = saved(small_network(OUTLIER, inner_layers=3), tmp_path / "model.fp32.onnx")
    kept, model = converted(fp32, for_cpu=for_cpu)
    assert set(kept) == {"inner1/conv", "inner2/conv"}, "the one that gives the outlier and the one that takes it"
    source, constants = producers(model), constants_of(model)
    for layer in LAYERS:
        node = named(model, layer)
        if layer in kept:
            assert constants[node.input[1]].dtype == np.float32
        else:
            assert [source[tensor].op_type for tensor in node.input[:2]] == ["DequantizeLinear"] * 2
    rounded = fp32.with_name("model.int8_cpu.onnx" if for_cpu else "model.int8.onnx")
    assert np.abs(onnx_answers(rounded, CELLS) - onnx_answers(fp32, CELLS)).mean() <= LARGEST_MEAN_DIFFERENCE


def test_without_the_scan_the_outlier_would_cost_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = saved(small_network(OUTLIER, inner_layers=3), tmp_path / "model.fp32.onnx")
    monkeypatch.setattr(export.int8, "LARGEST_MEAN_DIFFERENCE", 1.0)
    kept, _ = converted(fp32)
    assert kept == ()
    difference = np.abs(onnx_answers(fp32.with_name("model.int8.onnx"), CELLS) - onnx_answers(fp32, CELLS))
    assert difference.mean() > 5 * LARGEST_MEAN_DIFFERENCE


def test_a_graph_of_which_no_layer_bears_int8_is_refused(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.int8, "LARGEST_MEAN_DIFFERENCE", 0.0)
    with pytest.raises(
        ConversionError,
        match=r"expected layers of model\.fp32\.onnx that tolerate int8, found none: .*; leave int8 out of --precision",
    ):
        converted(fp32)
    assert not fp32.with_name("model.int8.onnx").exists()


@pytest.mark.parametrize("fewest", [1, 2, 5, 9, 10])
def test_as_few_layers_are_kept_as_are_needed(fewest: int) -> None:
    assert export.int8._fewest(10, lambda count: count >= fewest) == fewest


def test_a_conversion_says_nothing_and_leaves_the_log_as_it_was(
    fp32: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        converted(fp32)
        assert logging.getLogger().level == logging.DEBUG
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().out == ""


def test_two_conversions_give_the_same_file(tmp_path: Path) -> None:
    fp32 = saved(small_network(OUTLIER, inner_layers=3), tmp_path / "model.fp32.onnx")
    for name in ("a.onnx", "b.onnx"):
        write_int8(fp32, tmp_path / name, exact_answers(fp32, CELLS), largest_activations(fp32, CELLS))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_for_a_cpu_what_cannot_be_negative_is_rounded_from_zero(fp32: Path) -> None:
    kept, model = converted(fp32, for_cpu=True)
    assert kept == ()
    constants, source = constants_of(model), producers(model)
    peaks = largest_activations(fp32, CELLS)
    for layer, tensor, steps in (
        ("stem/conv", "standardization/transpose:0", 127.5),
        ("inner2/conv", "inner1/relu:0", 255),
        ("inner3/conv", "inner2/relu:0", 255),
    ):
        rounding = source[named(model, layer).input[0]]
        assert constants[rounding.input[1]] == pytest.approx(peaks[tensor] / steps, rel=1e-5)
        zero = constants[rounding.input[2]]
        assert zero.dtype == np.uint8
        assert (zero == 0) == (steps == 255)


def test_for_a_cpu_onnx_runtime_computes_from_layer_to_layer_in_integers(tmp_path: Path) -> None:
    fp32 = saved(branches_network(), tmp_path / "model.fp32.onnx")

    def as_run(file: Path) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "as_run.onnx")
        onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
        )
        return Counter(node.op_type for node in onnx.load(tmp_path / "as_run.onnx").graph.node)

    converted(fp32, for_cpu=True)
    converted(fp32)
    cpu, portable = as_run(tmp_path / "model.int8_cpu.onnx"), as_run(tmp_path / "model.int8.onnx")
    assert cpu["QLinearConv"] == portable["QLinearConv"] == 5
    assert cpu["Conv"] == cpu["Relu"] == 0
    assert cpu["QLinearConcat"] == 1
    assert cpu["QuantizeLinear"] == 2, "of the cells, and of their mean before the last layer"
    assert portable["Relu"] == 5, "which this form is there to save"


def test_for_a_cpu_answers_are_nearer_to_those_of_fp32(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.int8, "LARGEST_MEAN_DIFFERENCE", 1.0)  # every layer is rounded
    converted(fp32)
    converted(fp32, for_cpu=True)
    expected = onnx_answers(fp32, CELLS)
    portable, cpu = (
        np.abs(onnx_answers(fp32.with_name(f"model.{name}.onnx"), CELLS) - expected).mean()
        for name in ("int8", "int8_cpu")
    )
    assert 0 < cpu < portable
