from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import export.fp16
from export.activations import largest_activations
from export.fp16 import BOUND, write_fp16
from tests.small_network import constants_of, named, saved, small_network, types_of
from tests.tiny_bundle import onnx_answers, some_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS = some_cells(24)
# Values near a million after the first inner layer, which the second brings back.
LARGE_INSIDE = {"inner1/kernel": lambda kernel: kernel * 1e6, "inner2/kernel": lambda kernel: kernel * 1e-6}
OVERFLOWING = ("inner1/conv", "inner1/relu", "inner2/conv")
ENDS = ("stem/conv", "head/dense")


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    return saved(small_network(inner_layers=3), tmp_path / "model.fp32.onnx")


def computed_types(model: Any) -> dict[str, int]:
    """The type that each node gives."""
    types = types_of(model)
    return {node.name: types[node.output[0]] for node in model.graph.node}


def exact_fp16_answers(file: Path, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
    """p_all of a graph in which every fp16 value is really rounded to fp16, which ONNX Runtime may leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an overflow
        answers: Any = ReferenceEvaluator(str(file)).run(["p_all"], {"cells": cells})
    p_all: NDArray[np.float32] = answers[0]
    return p_all


def test_inner_layers_are_fp16_and_the_ends_stay_float32(fp32: Path, tmp_path: Path) -> None:
    assert write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS)) == ENDS
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    first = model.graph.node[0]
    assert (first.op_type, list(first.input)) == ("Cast", ["cells"])
    types = computed_types(model)
    wide = {name for name, kind in types.items() if kind == TensorProto.FLOAT and "_cast_to_" not in name}
    assert wide == {
        *(f"standardization/{name}" for name in ("cast", "sub", "div", "transpose")),
        "stem/conv",
        *(f"head/{name}" for name in ("dense", "sigmoid", "reshape")),
    }
    assert {types[f"inner{number}/conv"] for number in (1, 2, 3)} == {TensorProto.FLOAT16}
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {constants[name].dtype for name in node.input[1:]} == {
                np.dtype(np.float32 if node.name == "stem/conv" else np.float16)
            }


def test_input_and_output_are_what_they_were(fp32: Path, tmp_path: Path) -> None:
    write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS))
    before, after = onnx.load(fp32).graph, onnx.load(tmp_path / "model.onnx").graph
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)


@pytest.mark.parametrize("count", [1, 24])
def test_answers_stay_near_those_of_fp32(fp32: Path, tmp_path: Path, count: int) -> None:
    write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS))
    expected = onnx_answers(fp32, CELLS)
    assert np.ptp(expected) > 0.3, "cells that all get one answer would prove nothing"
    np.testing.assert_allclose(onnx_answers(tmp_path / "model.onnx", CELLS[:count]), expected[:count], atol=2e-3)
    np.testing.assert_allclose(exact_fp16_answers(tmp_path / "model.onnx", CELLS[:2]), expected[:2], atol=2e-3)


def test_a_file_whose_weights_lie_inside_is_half_as_large(tmp_path: Path) -> None:
    fp32 = saved(small_network(channels=64, inner_layers=4), tmp_path / "model.fp32.onnx")
    write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS[:2]))
    assert 0.49 < (tmp_path / "model.onnx").stat().st_size / fp32.stat().st_size < 0.53


def test_layers_that_would_overflow_stay_in_float32_by_name(tmp_path: Path) -> None:
    fp32 = saved(small_network(LARGE_INSIDE, inner_layers=3), tmp_path / "model.fp32.onnx")
    assert write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS)) == (
        "stem/conv",
        *OVERFLOWING,
        "head/dense",
    )
    types = computed_types(onnx.load(tmp_path / "model.onnx"))
    assert {types[name] for name in OVERFLOWING[:2]} == {TensorProto.FLOAT}
    assert types["inner3/conv"] == TensorProto.FLOAT16, "one layer does not keep the others"
    answers = exact_fp16_answers(tmp_path / "model.onnx", CELLS[:2])
    np.testing.assert_allclose(answers, onnx_answers(fp32, CELLS[:2]), atol=2e-3)


def test_without_the_guard_the_same_layers_do_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = saved(small_network(LARGE_INSIDE, inner_layers=3), tmp_path / "model.fp32.onnx")
    monkeypatch.setattr(export.fp16, "BOUND", np.inf)
    assert write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS)) == ENDS
    assert not np.isfinite(exact_fp16_answers(tmp_path / "model.onnx", CELLS[:2])).any()


@pytest.mark.parametrize(("share", "kept"), [(0.99, ()), (1.01, OVERFLOWING)])
def test_the_bound_is_on_the_largest_value_of_any_cell(tmp_path: Path, share: float, kept: tuple[str, ...]) -> None:
    """The peak of inner1 on these cells is brought to a share of the bound, by one cell out of many."""
    peak = largest_activations(saved(small_network(), tmp_path / "plain.onnx"), CELLS)["inner1/conv:0"]
    scale = np.float32(share * BOUND / peak)
    changes = {"inner1/kernel": lambda kernel: kernel * scale, "inner1/bias": lambda bias: bias * scale}
    fp32 = saved(small_network(changes | {"inner2/kernel": lambda kernel: kernel / scale}), tmp_path / "model.onnx")
    assert write_fp16(fp32, tmp_path / "fp16.onnx", largest_activations(fp32, CELLS)) == (
        "stem/conv",
        *kept,
        "head/dense",
    )


def test_no_value_goes_to_fp16_and_back_between_two_layers_that_stay(tmp_path: Path) -> None:
    fp32 = saved(small_network(LARGE_INSIDE, inner_layers=3), tmp_path / "model.fp32.onnx")
    write_fp16(fp32, tmp_path / "model.onnx", largest_activations(fp32, CELLS))
    model = onnx.load(tmp_path / "model.onnx")
    producer = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        source = producer.get(node.input[0])
        assert not (node.op_type == "Cast" and source is not None and source.op_type == "Cast"), node.name
    assert named(model, "inner1/relu").input[0] == named(model, "inner1/conv").output[0]
    assert named(model, "head/sigmoid").input[0] == named(model, "head/dense").output[0]


def test_two_conversions_give_the_same_file(fp32: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        write_fp16(fp32, tmp_path / name, largest_activations(fp32, CELLS))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_largest_activations_are_those_of_every_tensor_over_all_cells(fp32: Path) -> None:
    peaks = largest_activations(fp32, CELLS)
    assert set(peaks) == set(types_of(onnx.load(fp32)))
    assert peaks["standardization/cast:0"] == CELLS.max()
    assert peaks["p_all"] == pytest.approx(onnx_answers(fp32, CELLS).max(), abs=1e-6)
    centered = CELLS.astype(np.float64) - np.array([160, 100, 120])
    assert peaks["standardization/sub:0"] == np.abs(centered).max()
    assert centered.max() < np.abs(centered).max(), "otherwise a largest value without its sign would do"
