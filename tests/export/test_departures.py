from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.departures import departures
from export.fp16 import write_fp16
from export.int8 import write_int8
from tests.small_network import saved, small_network
from tests.tiny_bundle import some_cells

CELLS = some_cells(4)


def errors(sentence: str) -> list[tuple[str, float]]:
    """The layers and numbers that were named, in their order."""
    start = "layers that add most to its error: "
    assert sentence.startswith(start)
    assert "\n" not in sentence
    found = re.findall(r"(\S+) \(([^)]+)\)", sentence.removeprefix(start))
    return [(layer, float(number)) for layer, number in found]


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    return saved(small_network(inner_layers=4), tmp_path / "fp32.onnx")


@pytest.mark.parametrize("layer", ["stem/conv", "inner2/conv", "inner4/conv", "head/dense"])
def test_the_layer_that_departs_is_named_first(fp32: Path, tmp_path: Path, layer: str) -> None:
    """What follows it carries its error on, and adds none."""
    kernel = f"{layer.split('/')[0]}/kernel"
    changed = small_network({kernel: lambda values: 1.5 * values}, inner_layers=4)
    named = errors(departures(fp32, saved(changed, tmp_path / "changed.onnx"), CELLS))
    assert named[0][0] == layer
    assert named[0][1] > 0.2
    assert all(added < named[0][1] / 2 for _, added in named[1:])


def test_of_two_layers_that_depart_the_worse_comes_first(fp32: Path, tmp_path: Path) -> None:
    changes = {"inner1/kernel": lambda values: 1.1 * values, "inner3/kernel": lambda values: 2 * values}
    changed = saved(small_network(changes, inner_layers=4), tmp_path / "changed.onnx")
    named = errors(departures(fp32, changed, CELLS))
    assert [layer for layer, _ in named[:2]] == ["inner3/conv", "inner1/conv"]
    assert len(named) == 5, "as many as a person reads, the largest first"
    assert [added for _, added in named] == sorted((added for _, added in named), reverse=True)


def test_a_graph_does_not_depart_from_itself(fp32: Path) -> None:
    assert {added for _, added in errors(departures(fp32, fp32, CELLS))} == {0.0}


@pytest.mark.parametrize("convert", [write_fp16, write_int8])
def test_layers_of_a_conversion_have_the_names_of_the_graph_it_was_made_from(
    fp32: Path, tmp_path: Path, convert: object
) -> None:
    assert callable(convert)
    convert(fp32, tmp_path / "converted.onnx", CELLS)
    named = errors(departures(fp32, tmp_path / "converted.onnx", CELLS))
    assert {layer for layer, _ in named} <= {"stem/conv", *(f"inner{n}/conv" for n in (1, 2, 3, 4)), "head/dense"}
    assert 0 < named[0][1] < 0.1
