"""Changes a training cell as another slide or another day might have: the field's usual means for cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from runtime.schema import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of the cells only this share is turned by any angle or scaled, since that resamples and so blurs: a network that is
# fitted on blurred cells alone takes sharp ones for ALL.
RESAMPLED_SHARE = 0.5
CHANNEL_SHARE = 0.5  # of the stain jitter that each channel has on its own


def augments(recipe: Recipe) -> bool:
    """Say whether `augmented` changes anything."""
    return recipe.turn or recipe.scale > 0 or recipe.stain_jitter > 0 or recipe.blur > 0


def augmented(cell: NDArray[np.uint8], rng: np.random.Generator, recipe: Recipe) -> NDArray[np.uint8]:
    """Return a changed copy of a cell, uint8 RGB [size, size, 3] over black.

    A cell has no up and down, so turning and mirroring cost nothing. Its size and colours tell the classes apart:
    change them little.
    """
    if recipe.turn:
        cell = np.rot90(cell, int(rng.integers(4)))
        cell = cell[:, ::-1] if rng.integers(2) else cell
    if (recipe.turn or recipe.scale) and rng.random() < RESAMPLED_SHARE:
        degrees = rng.uniform(0, 90) if recipe.turn else 0.0
        cell = _turned_and_scaled(cell, degrees, 1 + rng.uniform(-recipe.scale, recipe.scale))
    if recipe.stain_jitter:
        cell = _restained(cell, rng, recipe.stain_jitter)
    if recipe.blur:
        cell = _refocused(cell, rng.uniform(-recipe.blur, recipe.blur))
    return np.ascontiguousarray(cell)


def _turned_and_scaled(cell: NDArray[np.uint8], degrees: float, factor: float) -> NDArray[np.uint8]:
    """Turn round the centre and scale in one resampling; what comes in from outside is black."""
    centre = (len(cell) - 1) / 2
    angle = math.radians(degrees)
    # Pillow asks for the way back: from a place in the result to one in the source.
    cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
    back = (cosine, sine, centre * (1 - cosine - sine), -sine, cosine, centre * (1 - cosine + sine))
    image = Image.fromarray(np.ascontiguousarray(cell))
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR))


def _restained(cell: NDArray[np.uint8], rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    """Multiply the optical density, -log((x + 1) / 256), by a random gain for all channels and one for each.

    By the law of Beer and Lambert that is another amount of stain. Black stays black: it is no stain but the frame.
    """
    gain = np.exp(rng.normal(0, deviation) + rng.normal(0, CHANNEL_SHARE * deviation, (3, 1)))
    level = (np.arange(256) + 1) / 256
    table = np.rint(np.clip(256 * level**gain - 1, 0, 255)).astype(np.uint8)
    table[:, 0] = 0
    return np.stack([table[channel][cell[..., channel]] for channel in range(3)], axis=-1)


def _refocused(cell: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Blur by a Gaussian of `radius` pixels, or sharpen by as much where `radius` is below 0."""
    image = Image.fromarray(np.ascontiguousarray(cell))
    if radius >= 0:
        return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))
    return np.asarray(image.filter(ImageFilter.UnsharpMask(-radius, percent=100, threshold=0)))
