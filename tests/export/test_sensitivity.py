from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import export.sensitivity
from export.sensitivity import sensitivities
from tests.small_network import branches_network, constants_of, named, saved
from tests.tiny_bundle import onnx_answers, some_cells

CELLS = some_cells(5)
LAYERS = ("stem/conv", "inner1/conv", "inner2/conv", "side/conv", "last/conv", "head/dense")


def with_larger_weights(model: Any, layer: str) -> Any:
    node = named(model, layer)
    weights = constants_of(model)[node.input[1]]
    node.input[1] = "larger/kernel"
    model.graph.initializer.append(numpy_helper.from_array(1.1 * weights, "larger/kernel"))
    return model


def with_larger_input(model: Any, layer: str) -> Any:
    """As where one layer is rounded: all that take the same take what is rounded."""
    [taken, *_] = named(model, layer).input
    for node in model.graph.node:
        node.input[:] = ["larger/input" if tensor == taken else tensor for tensor in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.1, np.float32), "factor"))
    place = next(place for place, node in enumerate(model.graph.node) if "larger/input" in node.input)
    model.graph.node.insert(place, helper.make_node("Mul", [taken, "factor"], ["larger/input"], "larger/mul"))
    return model


@pytest.mark.parametrize("change", [with_larger_weights, with_larger_input])
@pytest.mark.parametrize("few", [0, 1000, 10_000])
def test_a_layer_moves_the_answers_as_far_as_in_the_whole_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, change: Callable[[Any, str], Any]
) -> None:
    monkeypatch.setattr(export.sensitivity, "FEW", few)
    usual = onnx_answers(saved(branches_network(), tmp_path / "usual.onnx"), CELLS)
    moved = sensitivities(branches_network(), LAYERS, CELLS, change)
    assert list(moved) == list(LAYERS)
    for layer in LAYERS:
        changed = saved(change(branches_network(), layer), tmp_path / "changed.onnx")
        expected = np.abs(onnx_answers(changed, CELLS) - usual).mean()
        assert expected > 1e-4
        assert moved[layer] == pytest.approx(expected, abs=1e-6)


def apart() -> Any:
    """The network of two branches, of which one takes a tensor of its own."""
    model = branches_network()
    side = named(model, "side/conv")
    place = list(model.graph.node).index(side)
    model.graph.node.insert(place, helper.make_node("Relu", [side.input[0]], ["own:0"], "own/relu"))
    side.input[:] = ["own:0", "own/kernel", "own/bias"]
    for constant in ("kernel", "bias"):
        values = constants_of(model)[f"inner2/{constant}"]
        model.graph.initializer.append(numpy_helper.from_array(values, f"own/{constant}"))
    return model


def computed_nodes(model: Any, layer: str) -> set[str]:
    computed: set[str] = set()

    def unchanged(part: Any, _: str) -> Any:
        computed.update(node.name for node in part.graph.node)
        return part

    assert sensitivities(model, [layer], CELLS, unchanged) == {layer: 0.0}
    return computed


def test_what_a_layer_does_not_reach_is_not_computed_again() -> None:
    every = {node.name for node in apart().graph.node}
    after = every - {name for name in every if name.startswith(("standardization/", "stem/", "inner1/"))}
    assert computed_nodes(branches_network(), "side/conv") == after - {"own/relu"}, "what inner2 takes is side's, too"
    assert computed_nodes(apart(), "side/conv") == after - {"own/relu", "inner2/conv", "first/relu"}


def test_values_that_are_many_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.sensitivity, "FEW", 3 * 12 * 12 - 1)  # one value less than a cell has
    model = branches_network()
    assert computed_nodes(model, "side/conv") == {node.name for node in model.graph.node}
