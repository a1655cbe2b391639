"""Proves that the map in a converted graph is the one that automatic differentiation of the Keras model gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from runtime.backends.base import Backend
from runtime.errors import ConversionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Between a cell's two maps, in the mean over the cells. Where several places are equally large, as in a black
# background, rounding decides which of them a pooling takes.
SMALLEST_CORRELATION = {"fp32": 0.99, "fp16": 0.99, "int8": 0.9}


class Explains(Protocol):
    """The model that variants are compared with."""

    def heat(self, cells: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the map behind each answer, float32 [N, rows, columns]; None where there is none."""


def refuse_wrong_heat(reference: Explains, variants: dict[str, Backend], cells: NDArray[np.uint8]) -> None:
    """Raise ConversionError where a variant's map of these cells is not the reference's.

    Args:
        reference: The Keras model.
        variants: By precision.
        cells: uint8 RGB [N, height, width, 3].
    """
    expected = reference.heat(cells)
    if expected is None:
        return
    for precision, backend in variants.items():
        _, found = backend.infer_with_heat(cells)
        correlation = float(np.mean([correlated(*pair) for pair in zip(found, expected, strict=True)]))
        if not correlation >= SMALLEST_CORRELATION[precision]:
            raise ConversionError(
                f"expected the map of {precision} to be the Keras model's, found a correlation of {correlation:.3f} "
                f"where at least {SMALLEST_CORRELATION[precision]:g} is accepted; no bundle was written; leave the "
                "precision out"
            )


def correlated(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return Pearson's correlation of two maps of one shape, -1..1; 1 for two that are the same everywhere."""
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return 1.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
