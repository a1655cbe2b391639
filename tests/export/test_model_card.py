"""What the card says of the files, whichever a bundle holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.model_card import model_card
from runtime.bundle import DEFAULT_BUNDLE, Bundle

OF_INT8 = "the layers stay in float32 whose rounding would move `p_all` most."


def card_of(kept: dict[str, tuple[str, ...]]) -> str:
    """The card of a bundle with these precisions, of which these layers stay in float32."""
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    variants = [replace(manifest.variants[0], precision=name, kept_in_fp32=layers) for name, layers in kept.items()]
    return model_card(replace(manifest, variants=tuple(variants)), "cells")


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"int8": ("a",)}, f"\nOf int8 {OF_INT8}\n"),
        ({"int8": (), "int8_cpu": ("a", "b")}, f"\nOf int8_cpu {OF_INT8}\n\nint8_cpu is for CPUs alone.\n"),
        ({"int8": ("a",), "int8_cpu": ("b",)}, f"\nOf int8 and int8_cpu {OF_INT8}\n"),
    ],
)
def test_the_card_names_the_precisions_of_which_layers_stay_in_float32(
    kept: dict[str, tuple[str, ...]], said: str
) -> None:
    assert said in card_of(kept)


def test_the_card_says_of_no_int8_layer_that_it_stays_where_none_does() -> None:
    card = card_of({"int8": (), "int8_cpu": ()})
    assert "in float32" not in card
    assert "\nint8_cpu is for CPUs alone.\n" in card


def test_one_layer_stays_and_two_stay() -> None:
    card = card_of({"fp32": (), "fp16": ("a",), "int8": ("a", "b")})
    assert card.count("; 1 layer stays in float32; ") == card.count("; 2 layers stay in float32; ") == 1
