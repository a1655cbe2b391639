"""Mean and standard deviation of the training cells, for the first layer of every network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import DataError
from train.prepared import Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS_PER_BLOCK = 256
CHANNELS = 3


@dataclass(frozen=True)
class Standardization:
    """Per-channel (R, G, B) mean and standard deviation of pixels 0..255; the network sees (x - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def standardization_of(pixels: Pixels, rows: NDArray[np.intp]) -> Standardization:
    """Compute the mean and the population standard deviation over the given rows in one pass, in float64.

    The sums of 8-bit values and of their squares are whole numbers below 2^53 for up to 10^11 pixels, so that
    the one-pass formula var = E[x^2] - E[x]^2 (float64 throughout) loses nothing to the order of summation.

    Args:
        pixels: uint8 [N, height, width, 3].
        rows: Which of the N to take: those of the training part alone.

    Raises DataError where a channel is the same everywhere, since nothing could be divided by its deviation.
    """
    total, squares, count = np.zeros(CHANNELS), np.zeros(CHANNELS), 0
    for start in range(0, len(rows), CELLS_PER_BLOCK):
        # Sorted rows are read from the disk in one sweep.
        for cell in pixels[np.sort(rows[start : start + CELLS_PER_BLOCK])]:
            values = cell.reshape(-1, CHANNELS).astype(np.float64)
            total += values.sum(axis=0)
            squares += np.square(values).sum(axis=0)
            count += len(values)
    mean = total / count
    variance = squares / count - np.square(mean)
    if not (variance > 0).all():
        raise DataError(
            "expected cells that vary in every color channel, found a channel that never changes; check the images"
        )
    return Standardization(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))
