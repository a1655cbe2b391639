"""Measures how the picture of a cell looks, and says what sets one apart from the cells of the training part.

A network answers for a blank frame, a blurred cell and another lab's stain as readily as for what it was fitted on.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.schema import Appearance, Range, TypicalCells, TypicalSubjects

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 2  # every second pixel along each side tells the colors, every second row the sharpness


def appearance_of(cell: NDArray[np.uint8], side: int) -> Appearance:
    """Measure a cell.

    Args:
        cell: uint8 RGB [height, width, 3], 0..255, resized, on black.
        side: Pixels, the longer side of the image before it was resized.
    """
    # A plane for each color: numpy takes the largest of three values per pixel far slower where they lie together.
    planes = np.ascontiguousarray(cell[::STEP, ::STEP].transpose(2, 0, 1))
    is_foreground = planes.max(axis=0) > 0
    count = int(is_foreground.sum())
    offset, spread = _layout(is_foreground, count)
    sums = planes.sum(axis=(1, 2))  # black pixels add nothing
    red, _, blue = (sums / max(int(sums.sum()), 1)).tolist()
    brightness = float(sums.mean()) / max(count, 1)
    return Appearance(side, count / is_foreground.size, brightness, red, blue, sharpness(cell[..., 1]), offset, spread)


def _layout(is_foreground: NDArray[np.bool_], count: int) -> tuple[float, float]:
    """Return how far from the frame's center the foreground lies, and how far it is spread; 0 and 0 where it is empty.

    The points of a disc of area A have a mean squared distance of A / (2 pi) from its center.

    Args:
        is_foreground: [height, width].
        count: How many are True.
    """
    if not count:
        return 0.0, 0.0
    offsets, squares = [], 0.0
    for axis, size in enumerate(is_foreground.shape):
        of_each = is_foreground.sum(axis=1 - axis)
        places = np.arange(size) - (size - 1) / 2
        mean = float(of_each @ places) / count
        squares += float(of_each @ places**2) / count - mean**2
        offsets.append(mean / (size / 2))
    return math.hypot(*offsets), squares * 2 * math.pi / count


def sharpness(channel: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian (Pech-Pacheco et al., 2000) of one channel, [height, width], 0..255.

    Only pixels whose four neighbors belong to the cell count: the edge to the black ground is sharp in any picture.
    """
    values = channel.astype(np.int16)
    inner = values[1:-1:STEP, 1:-1]
    above, below = values[:-2:STEP, 1:-1], values[2::STEP, 1:-1]
    left, right = values[1:-1:STEP, :-2], values[1:-1:STEP, 2:]
    is_inside = (inner > 0) & (above > 0) & (below > 0) & (left > 0) & (right > 0)
    laplacian = (4 * inner - above - below - left - right)[is_inside]
    return float(laplacian.var()) if laplacian.size else 0.0


def unusual(found: Appearance, typical: TypicalCells) -> str:
    """Say in one line what sets a cell apart from those of the training part; empty where nothing does."""
    if found.foreground < typical.foreground.low:
        return (
            f"nearly empty: {found.foreground:.1%} of the frame are not black, {_expected(typical.foreground, '.1%')}"
        )
    if found.side not in typical.side:
        return f"another scale: the image has {found.side:g} pixels a side, {_expected(typical.side, '.0f')}"
    if found.foreground > typical.foreground.high:
        return f"too full: {found.foreground:.1%} of the frame are not black, {_expected(typical.foreground, '.1%')}"
    if found.offset > typical.offset.high:
        return f"off center: by {found.offset:.1%} of half the frame, expected at most {typical.offset.high:.1%}"
    if found.spread > typical.spread.high:
        return (
            f"not one round cell: it is spread {found.spread:.2f} times as wide as a disc, expected at most "
            f"{typical.spread.high:.2f}"
        )
    if found.brightness not in typical.brightness:
        return f"unusual brightness: it is {found.brightness:.0f}, {_expected(typical.brightness, '.0f')}"
    for color in ("red", "blue"):
        share, expected = getattr(found, color), getattr(typical, color)
        if share not in expected:
            return f"unusual color: {color} is {share:.1%} of the light, {_expected(expected, '.1%')}"
    if found.sharpness not in typical.sharpness:
        what = "blurred" if found.sharpness < typical.sharpness.low else "grainy"
        return f"{what}: the sharpness is {found.sharpness:.0f}, {_expected(typical.sharpness, '.0f')}"
    return ""


def typical_of(found: list[Appearance], subjects: TypicalSubjects | None = None) -> TypicalCells:
    """Return the ranges of cells of the training part.

    From the 0.5 % to the 99.5 % quantile, widened by the fourth root of their ratio: cells slightly smaller, darker or
    less sharp than any that was seen are no reason to look. Nor is a round, well centered cell: `offset` and `spread`
    may be 0, and up to a tenth larger than their quantile.
    """
    ranges: dict[str, Any] = {}
    for field in fields(Appearance):
        low, high = np.quantile([getattr(each, field.name) for each in found], (0.005, 0.995)).tolist()
        if field.name in ("offset", "spread"):
            ranges[field.name] = Range(0.0, high * 1.1)
            continue
        margin = (high / low) ** 0.25 if low > 0 else 1.0
        ranges[field.name] = Range(low / margin, high * margin)
    return TypicalCells(cells=len(found), subjects=subjects, **ranges)


def _expected(values: Range, form: str) -> str:
    if values.low == values.high:
        return f"expected {values.low:{form}}"
    return f"expected {values.low:{form}} to {values.high:{form}}"
