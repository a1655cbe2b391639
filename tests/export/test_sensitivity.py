from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

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


@pytest.mark.parametrize("few", [0, 1000, 10_000])
def test_a_layer_moves_the_answers_as_far_as_in_the_whole_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(export.sensitivity, "FEW", few)
    usual = onnx_answers(saved(branches_network(), tmp_path / "usual.onnx"), CELLS)
    moved = sensitivities(branches_network(), LAYERS, CELLS, with_larger_weights)
    assert list(moved) == list(LAYERS)
    for layer in LAYERS:
        changed = saved(with_larger_weights(branches_network(), layer), tmp_path / "changed.onnx")
        expected = np.abs(onnx_answers(changed, CELLS) - usual).mean()
        assert expected > 1e-4
        assert moved[layer] == pytest.approx(expected, abs=1e-6)


def computed_nodes(layer: str) -> set[str]:
    computed: set[str] = set()

    def unchanged(part: Any, _: str) -> Any:
        computed.update(node.name for node in part.graph.node)
        return part

    assert sensitivities(branches_network(), [layer], CELLS, unchanged) == {layer: 0.0}
    return computed


def test_what_a_layer_does_not_reach_is_not_computed_again() -> None:
    every = {node.name for node in branches_network().graph.node}
    after = every - {name for name in every if name.startswith(("standardization/", "stem/", "inner1/"))}
    assert computed_nodes("side/conv") == after - {"inner2/conv", "first/relu"}
    assert computed_nodes("inner2/conv") == after - {"side/conv", "side/relu"}


def test_values_that_are_many_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.sensitivity, "FEW", 3 * 12 * 12 - 1)  # one value less than a cell has
    assert computed_nodes("side/conv") == {node.name for node in branches_network().graph.node}
