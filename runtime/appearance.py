"""Measures how the picture of a cell looks, and says what sets one apart from the cells of the training part.

A network answers for a blank frame, a blurred cell and another lab's stain as readily as for what it was fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.schema import Range, TypicalCells

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 2  # every second pixel along each side tells the colours, every second row the sharpness


@dataclass(frozen=True)
class Appearance:
    """How one cell looks; the ranges of each measure stand in `TypicalCells` under the same name."""

    side: float  # pixels, the longer side of the image in the file
    foreground: float  # share of the pixels that are not black, 0..1
    red: float  # means over the foreground, 0..255; 0 where there is none
    green: float
    blue: float
    sharpness: float  # variance of the Laplacian inside the foreground


def appearance_of(cell: NDArray[np.uint8], side: int) -> Appearance:
    """Measure a cell.

    Args:
        cell: uint8 RGB [height, width, 3], 0..255, resized, on black.
        side: Pixels, the longer side of the image before it was resized.
    """
    samples = cell[::STEP, ::STEP].reshape(-1, 3)
    is_foreground = samples.max(axis=1) > 0
    count = int(is_foreground.sum())
    red, green, blue = samples.sum(axis=0) / max(count, 1)  # black pixels add nothing
    return Appearance(side, count / len(samples), float(red), float(green), float(blue), sharpness(cell[..., 1]))


def sharpness(channel: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian (Pech-Pacheco et al., 2000) of one channel, [height, width], 0..255.

    Only pixels whose four neighbours belong to the cell count: the edge to the black ground is sharp in any picture.
    """
    values = channel.astype(np.int16)
    inner = values[1:-1:STEP, 1:-1]
    neighbours = values[:-2:STEP, 1:-1], values[2::STEP, 1:-1], values[1:-1:STEP, :-2], values[1:-1:STEP, 2:]
    neighbours = tuple(neighbour[: len(inner)] for neighbour in neighbours)
    is_inside = inner > 0
    for neighbour in neighbours:
        is_inside &= neighbour > 0
    laplacian = (4 * inner - sum(neighbours))[is_inside]
    return float(laplacian.var()) if laplacian.size else 0.0


def unusual(found: Appearance, typical: TypicalCells) -> str:
    """Say in one line what sets a cell apart from those of the training part; empty where nothing does."""
    if found.foreground < typical.foreground.low:
        return f"nearly empty: {found.foreground:.1%} of the frame is not black, expected {_percent(typical.foreground)}"
    if not _holds(typical.side, found.side):
        return f"the image has {found.side:g} pixels a side, expected {_numbers(typical.side)}: the scale is another"
    if found.foreground > typical.foreground.high:
        return f"{found.foreground:.1%} of the frame is not black, expected {_percent(typical.foreground)}"
    for color in ("red", "green", "blue"):
        value, expected = getattr(found, color), getattr(typical, color)
        if not _holds(expected, value):
            return f"unusual color: the mean {color} is {value:.0f}, expected {_numbers(expected)}"
    if found.sharpness < typical.sharpness.low:
        return f"blurred: the sharpness is {found.sharpness:.0f}, expected {_numbers(typical.sharpness)}"
    if found.sharpness > typical.sharpness.high:
        return f"grainy: the sharpness is {found.sharpness:.0f}, expected {_numbers(typical.sharpness)}"
    return ""


def typical_of(found: list[Appearance]) -> TypicalCells:
    """Return the ranges of cells of the training part.

    From the 0.5 % to the 99.5 % quantile, and beyond that by the fourth root of their ratio: cells that are somewhat
    smaller, darker or less sharp than any that was seen are no reason to look.
    """
    ranges: dict[str, Any] = {}
    for field in fields(Appearance):
        low, high = np.quantile([getattr(each, field.name) for each in found], (0.005, 0.995)).tolist()
        margin = (high / low) ** 0.25 if low > 0 else 1.0
        ranges[field.name] = Range(low / margin, high * margin)
    return TypicalCells(cells=len(found), **ranges)


def _holds(expected: Range, value: float) -> bool:
    return expected.low <= value <= expected.high


def _numbers(expected: Range) -> str:
    if expected.low == expected.high:
        return f"{expected.low:.0f}"
    return f"{expected.low:.0f} to {expected.high:.0f}"


def _percent(expected: Range) -> str:
    return f"{expected.low:.1%} to {expected.high:.1%}"
