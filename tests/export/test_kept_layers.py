from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from export.__main__ import MOST_NAMED, _tell_kept
from export.graph import weighted_nodes
from runtime.bundle import DEFAULT_BUNDLE, Bundle

LAYERS = tuple(f"layer{number}" for number in range(MOST_NAMED + 3))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_shipped_bundle_records_the_layers_whose_weights_are_float32_in_its_graph(precision: str) -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    variant = bundle.variant(precision)
    model = onnx.load(bundle.path(variant))
    wide = {each.name for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    weighted = weighted_nodes(model)
    assert set(variant.kept_in_fp32) == {
        node.name for node in model.graph.node if node.name in weighted and node.input[1] in wide
    }
    card = bundle.card.decode("utf-8")
    assert f"; {len(variant.kept_in_fp32)} layers stay in float32; " in card
    assert f"\nOf {precision} the " in card


@pytest.fixture
def said(tiny_bundle: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> tuple[str, str]:
    """What is told of fp32 and an int8 variant with so many layers kept and such a share of fp32's bytes."""
    kept, share = request.param
    variants = {variant.precision: variant for variant in Bundle.open(tiny_bundle).manifest.variants}
    for precision, size in (("fp32", 1000), ("int8", round(1000 * share))):
        (tiny_bundle / variants[precision].file).write_bytes(bytes(size))
    _tell_kept(tiny_bundle, [variants["fp32"], replace(variants["int8"], kept_in_fp32=LAYERS[:kept])])
    return capsys.readouterr()


@pytest.mark.parametrize("said", [(1, 0.3)], indirect=True)
def test_the_layers_that_stay_in_float32_are_named(said: tuple[str, str]) -> None:
    assert said == ("int8 keeps 1 layer in float32: layer0\n", "")


@pytest.mark.parametrize("said", [(len(LAYERS), 0.7)], indirect=True)
def test_of_many_layers_the_first_are_named(said: tuple[str, str]) -> None:
    named = ", ".join(LAYERS[:MOST_NAMED])
    assert said == (f"int8 keeps 13 layers in float32: {named} and 3 more, which bundle.json names\n", "")


@pytest.mark.parametrize("said", [(len(LAYERS), 0.84)], indirect=True)
def test_an_int8_variant_that_is_nearly_all_float32_is_warned_of(said: tuple[str, str]) -> None:
    assert said[1] == (
        "WARNING: int8 is 84% of the size of fp32: most of its weights stay in float32, so it is hardly faster; "
        "leave it out of --precision\n"
    )


@pytest.mark.parametrize("said", [(0, 0.25)], indirect=True)
def test_nothing_is_said_of_variants_that_are_rounded_whole(said: tuple[str, str]) -> None:
    assert said == ("", "")
