"""Varies a training cell as another slide or another day would: the usual augmentations of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from runtime.schema import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Only this share of the cells is rotated by any angle or scaled, since resampling blurs: a network fitted on blurred
# cells alone takes sharp ones for ALL. The others keep their exact pixels, in another order.
RESAMPLED_SHARE = 0.5
CHANNEL_SHARE = 0.5  # of the stain jitter, drawn for each channel alone

# A cell is too small to split among threads, and the other cores are busy with the network.
cv2.setNumThreads(1)


def augments(recipe: Recipe) -> bool:
    """Say whether `augmented` changes anything."""
    return recipe.turn or recipe.scale > 0 or recipe.stain_jitter > 0 or recipe.blur > 0


def augmented(cell: NDArray[np.uint8], rng: np.random.Generator, recipe: Recipe) -> NDArray[np.uint8]:
    """Return a cell, uint8 RGB [size, size, 3] over black, as `recipe` and the numbers drawn from `rng` change it.

    A cell has no up and down, so rotating and mirroring cost nothing. Its size and colors tell the classes apart:
    change them little. The result is contiguous; where nothing is changed it is the cell itself.
    """
    if (recipe.turn or recipe.scale) and rng.random() < RESAMPLED_SHARE:
        cell = _resampled(cell, rng, recipe)
    elif recipe.turn:
        cell = _reoriented(cell, rng)
    if recipe.stain_jitter:
        cell = _restained(cell, rng, recipe.stain_jitter)
    if recipe.blur:
        cell = _refocused(cell, rng.uniform(-recipe.blur, recipe.blur))
    return np.ascontiguousarray(cell)


def _resampled(cell: NDArray[np.uint8], rng: np.random.Generator, recipe: Recipe) -> NDArray[np.uint8]:
    """Mirror, rotate about the center and scale in one resampling; what enters from outside is black."""
    last = len(cell) - 1
    factor = 1 + rng.uniform(-recipe.scale, recipe.scale)
    degrees = rng.uniform(0, 360) if recipe.turn else 0.0
    matrix = cv2.getRotationMatrix2D((last / 2, last / 2), degrees, factor)  # pixel centers have whole coordinates
    if recipe.turn and rng.integers(2):
        matrix[:, 2] += last * matrix[:, 0]  # x becomes last - x
        matrix[:, 0] *= -1
    # With a fourth channel a pixel is one aligned word, which OpenCV 5 resamples in two thirds of the time.
    warped = cv2.warpAffine(cv2.cvtColor(cell, cv2.COLOR_RGB2RGBA), matrix, cell.shape[:2], flags=cv2.INTER_LINEAR)
    changed: NDArray[np.uint8] = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return changed


def _reoriented(cell: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one of the eight orientations of a square; no pixel changes its value."""
    if rng.integers(2):
        cell = cv2.transpose(cell)
    if rng.integers(2):
        cell = cv2.flip(cell, 0)
    if rng.integers(2):
        cell = cv2.flip(cell, 1)
    return cell


def _restained(cell: NDArray[np.uint8], rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    """Multiply the optical density, -log((x + 1) / 256), by a random gain for all channels and one for each.

    By the Beer-Lambert law that is another amount of stain. Black stays black: it is the frame, not stain.
    """
    gain = np.exp(rng.normal(0, deviation) + rng.normal(0, CHANNEL_SHARE * deviation, 3))
    level = (np.arange(256)[:, None] + 1) / 256
    table = np.rint(np.clip(256 * level**gain - 1, 0, 255)).astype(np.uint8)
    table[0] = 0
    changed: NDArray[np.uint8] = cv2.LUT(cell, table[None])
    return changed


def _refocused(cell: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Blur by a Gaussian of `radius` pixels, or sharpen by as much (unsharp mask) where `radius` is below 0."""
    blurred: NDArray[np.uint8] = cv2.GaussianBlur(cell, (0, 0), abs(radius))
    if radius >= 0:
        return blurred
    sharpened: NDArray[np.uint8] = cv2.addWeighted(cell, 2, blurred, -1, 0)
    return sharpened
