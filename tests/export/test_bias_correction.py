from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import export.bias_correction
from export.activations import largest_activations
from export.bias_correction import channel_means, correct_biases
from export.int8 import _Rounding, exact_answers
from export.onnx_session import computed
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.demo import demo_cells
from runtime.preprocessing import load_cell
from tests.small_network import branches_network, constants_of, named
from tests.tiny_bundle import some_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS = some_cells(24)
VALUES = {"cells": CELLS}
LAYERS = ("stem/conv", "inner1/conv", "inner2/conv", "side/conv", "last/conv", "head/dense")


def coarse(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of three bits."""
    step = np.abs(values).max() / 3
    rounded: NDArray[np.float32] = np.rint(values / step) * step
    return rounded


def rounded() -> Any:
    """The network of two branches, three layers of which share one bias and one kernel, with coarse kernels."""
    model = branches_network()
    for constant in model.graph.initializer:
        if constant.name.endswith("kernel"):
            constant.CopyFrom(numpy_helper.from_array(coarse(numpy_helper.to_array(constant)), constant.name))
    return model


def corrected(model: Any) -> Any:
    correct_biases(model, channel_means(branches_network(), LAYERS, VALUES), VALUES)
    return model


def means_of(model: Any, layer: str) -> NDArray[np.float64]:
    """The channels' means of a layer, by a graph that ends there."""
    [tensor] = named(model, layer).output
    model.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    given = computed(model, [tensor], VALUES)[tensor]
    means: NDArray[np.float64] = given.mean(axis=(0, *range(2, given.ndim)))
    return means


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_gives_in_the_mean_what_it_gave_before(layer: str) -> None:
    expected = means_of(branches_network(), layer)
    np.testing.assert_allclose(channel_means(branches_network(), [layer], VALUES)[layer], expected, atol=1e-5)
    assert np.abs(means_of(rounded(), layer) - expected).max() > 1e-2, "otherwise nothing was rounded"
    np.testing.assert_allclose(means_of(corrected(rounded()), layer), expected, atol=1e-5)


@pytest.mark.parametrize("for_cpu", [False, True])
def test_the_packages_network_all_rounded_answers_nearer_for_cells_that_were_not_looked_at(*, for_cpu: bool) -> None:
    fp32 = DEFAULT_BUNDLE / "model.fp32.onnx"
    image = Bundle.open(DEFAULT_BUNDLE).manifest.image
    cells = np.stack([load_cell(path, image) for path in demo_cells()])
    rounding = _Rounding(fp32, exact_answers(fp32, cells), largest_activations(fp32, cells), for_cpu=for_cpu)
    graphs = onnx.load(fp32), rounding._in_int8(onnx.load(fp32), rounding.layers), rounding.rounded(rounding.layers)
    mirrored = {"cells": cells[:, :, ::-1]}
    expected, before, after = (computed(model, ["p_all"], mirrored)["p_all"] for model in graphs)
    assert np.abs(after - expected).mean() < np.abs(before - expected).mean() / 4


def test_layers_that_share_a_bias_are_corrected_apart() -> None:
    model = corrected(rounded())
    names = {layer: named(model, layer).input[2] for layer in LAYERS}
    assert len(set(names.values())) == len(LAYERS)
    assert sorted(name for name in constants_of(model) if name.endswith("bias")) == sorted(names.values())


def test_a_layer_without_a_bias_is_left_to_the_next() -> None:
    model, whole = rounded(), branches_network()
    for each in (model, whole):
        del named(each, "inner1/conv").input[2]
    correct_biases(model, channel_means(whole, LAYERS, VALUES), VALUES)
    assert len(named(model, "inner1/conv").input) == 2
    np.testing.assert_allclose(means_of(model, "inner2/conv"), means_of(whole, "inner2/conv"), atol=1e-5)


def test_what_is_not_rounded_stays_as_it_is() -> None:
    before, after = constants_of(branches_network()), branches_network()
    correct_biases(after, channel_means(branches_network(), LAYERS, VALUES), VALUES)
    for layer in LAYERS:
        own = named(branches_network(), layer).input[2]
        np.testing.assert_allclose(constants_of(after)[named(after, layer).input[2]], before[own], atol=1e-6)


def test_each_node_is_computed_once_and_what_is_used_up_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[str] = []
    held: list[set[str]] = []

    def counted(part: Any, outputs: Any, values: Any) -> Any:
        nodes.extend(node.name for node in part.graph.node)
        held.append(set(values))
        return computed(part, outputs, values)

    monkeypatch.setattr(export.bias_correction, "computed", counted)
    channel_means(branches_network(), LAYERS, VALUES)
    assert len(nodes) == len(set(nodes))
    assert {"stem/conv", "both/concat", "head/dense"} <= set(nodes)
    assert held[0] == {"cells"}
    assert max(map(len, held)) == 2, "the two branches"
