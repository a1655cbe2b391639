from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from export.activations import largest_activations
from export.departures import departures
from export.fp16 import write_fp16
from export.int8 import exact_answers, write_int8
from tests.small_network import Change, saved, small_network
from tests.tiny_bundle import some_cells

CELLS = some_cells(4)


def errors(sentence: str) -> list[tuple[str, float]]:
    """The layers and numbers that were named, in their order."""
    start = "layers that add most to its error: "
    assert sentence.startswith(start)
    assert "\n" not in sentence
    found = re.findall(r"(\S+) \(([^)]+)\)", sentence.removeprefix(start))
    return [(layer, float(number)) for layer, number in found]


def network(factors: dict[str, float]) -> Any:
    """Four inner layers without biases, so that a layer multiplied by a factor multiplies all that follow."""
    changes: dict[str, Change] = {
        f"{layer}/bias": lambda bias: 0 * bias for layer in ("stem", "inner1", "inner2", "inner3", "inner4", "head")
    }
    for layer, factor in factors.items():
        changes[f"{layer}/kernel"] = lambda kernel, factor=factor: factor * kernel  # type: ignore[misc]
    return small_network(changes, inner_layers=4)


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    return saved(network({}), tmp_path / "fp32.onnx")


@pytest.mark.parametrize("layer", ["stem/conv", "inner2/conv", "inner4/conv", "head/dense"])
def test_the_layer_that_departs_is_named_first(fp32: Path, tmp_path: Path, layer: str) -> None:
    """What follows it carries its error on, but is compared with what the exact graph makes of the same."""
    changed = saved(network({layer.split("/")[0]: 1.5}), tmp_path / "changed.onnx")
    named = errors(departures(fp32, changed, CELLS))
    assert named[0] == (layer, 0.5)
    assert all(0 < added < 1e-5 for _, added in named[1:]), "and none that adds nothing is named"


def test_of_two_layers_that_depart_the_worse_comes_first(fp32: Path, tmp_path: Path) -> None:
    changed = saved(network({"inner1": 1.5, "inner3": 2.0}), tmp_path / "changed.onnx")
    named = errors(departures(fp32, changed, CELLS))
    assert named[:2] == [("inner3/conv", 1.0), ("inner1/conv", 0.5)]
    assert [added for _, added in named] == sorted((added for _, added in named), reverse=True)


def test_as_many_layers_are_named_as_a_person_reads_the_largest_first(fp32: Path, tmp_path: Path) -> None:
    every = {"stem": 1.1, "inner1": 1.2, "inner2": 1.3, "inner3": 1.4, "inner4": 1.5, "head": 1.6}
    changed = saved(network(every), tmp_path / "changed.onnx")
    named = errors(departures(fp32, changed, CELLS))
    expected = {"head/dense": 0.6, "inner4/conv": 0.5, "inner3/conv": 0.4, "inner2/conv": 0.3, "inner1/conv": 0.2}
    assert named == list(expected.items())


@pytest.mark.parametrize("changed", ["mean", "std"])
def test_of_a_wrong_standardization_the_layer_that_takes_the_cells_is_named_alone(tmp_path: Path, changed: str) -> None:
    """Those behind it carry its error on, some as a larger share of what they give."""
    fp32 = saved(small_network(inner_layers=4), tmp_path / "fp32.onnx")
    change: dict[str, Change] = {changed: lambda values: 1.3 * values}
    wrong = saved(small_network(change, inner_layers=4), tmp_path / "wrong.onnx")
    [(layer, error)] = errors(departures(fp32, wrong, CELLS))
    assert layer == "stem/conv"
    assert error > 0.05


def test_the_first_layer_that_gives_no_numbers_is_named(fp32: Path, tmp_path: Path) -> None:
    changed = saved(network({"inner1": 1.5, "inner2": float("nan")}), tmp_path / "changed.onnx")
    assert departures(fp32, changed, CELLS) == "the first layer that gives no numbers: inner2/conv"


def test_the_layer_that_overflows_in_fp16_is_named(tmp_path: Path) -> None:
    fp32 = saved(network({"inner1": 1e3, "inner2": 1e3}), tmp_path / "fp32.onnx")
    write_fp16(fp32, tmp_path / "fp16.onnx", {})
    assert departures(fp32, tmp_path / "fp16.onnx", CELLS) == "the first layer that gives no numbers: inner2/conv"


def test_a_graph_does_not_depart_from_itself(fp32: Path) -> None:
    assert departures(fp32, fp32, CELLS) == "no layer gives other values than fp32's for 4 cells"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_layers_of_a_conversion_have_the_names_of_the_graph_it_was_made_from(
    fp32: Path, tmp_path: Path, precision: str
) -> None:
    peaks = largest_activations(fp32, CELLS)
    if precision == "fp16":
        write_fp16(fp32, tmp_path / "converted.onnx", peaks)
    else:
        write_int8(fp32, tmp_path / "converted.onnx", exact_answers(fp32, CELLS), peaks)
    named = errors(departures(fp32, tmp_path / "converted.onnx", CELLS))
    assert {layer for layer, _ in named} <= {"stem/conv", *(f"inner{n}/conv" for n in (1, 2, 3, 4)), "head/dense"}
    assert 0 < named[0][1] < 0.1
