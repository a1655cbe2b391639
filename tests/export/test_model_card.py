"""The card says of each variant what is so, whichever others stand beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.model_card import model_card
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.schema import Manifest


def manifest_of(precision: str, *kept: str) -> Manifest:
    """A manifest of one variant."""
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    return replace(manifest, variants=(replace(manifest.variants[0], precision=precision, kept_in_fp32=kept),))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8_cpu"])
def test_what_stays_in_float32_is_told_of_a_variant_that_stands_alone(precision: str) -> None:
    [note] = [line for line in model_card(manifest_of(precision), "ours").splitlines() if line.startswith("Of ")]
    assert note.startswith(f"Of {precision}")
    assert "stay in float32" in note


@pytest.mark.parametrize(
    ("kept", "told"), [(["conv"], "; 1 layer stays in"), (["conv", "p_all"], "; 2 layers stay in")]
)
def test_one_layer_stays_and_several_stay(kept: list[str], told: str) -> None:
    assert told in model_card(manifest_of("int8", *kept), "ours")
