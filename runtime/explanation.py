"""Says which places of a cell an answer comes from: by the graph's own map, or by covering place after place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.base import Backend

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRADIENT = "activation times gradient"
OCCLUSION = "occlusion"
PLACES = 8  # along each side, that are covered one after the other
SMALLEST_P = 1e-6  # where the logit is cut off


@dataclass(frozen=True)
class Explanation:
    """The map behind an answer."""

    p_all: float
    heat: NDArray[np.float32]  # [rows, columns] over the whole frame; above 0 speaks for ALL, below for healthy
    method: str  # GRADIENT or OCCLUSION


def method_of(backend: Backend) -> str:
    """Say how `explain` would make a map."""
    return GRADIENT if backend.gives_heat else OCCLUSION


def explain(backend: Backend, cell: NDArray[np.uint8], batch_size: int) -> Explanation:
    """Classify a cell and map what its answer comes from.

    The graph's map says how much the last activations at a place add to the logit. Where a graph has none, each place
    is covered with black, the background's color, and the map says by how much the logit falls (Zeiler, Fergus:
    "Visualizing and Understanding Convolutional Networks", arXiv 1311.2901).

    Args:
        backend: The model.
        cell: uint8 RGB [height, width, 3], of the backend's size.
        batch_size: Most cells per inference.

    Raises what `Backend.infer` raises.
    """
    if backend.gives_heat:
        p_all, heat = backend.infer_with_heat(cell[np.newaxis])
        return Explanation(float(p_all[0]), heat[0], GRADIENT)
    whole = backend.infer(cell[np.newaxis])
    covered = _covered(cell)
    p_covered = [backend.infer(covered[start : start + batch_size]) for start in range(0, len(covered), batch_size)]
    fall = _logit(whole) - _logit(np.concatenate(p_covered))
    return Explanation(float(whole[0]), fall.reshape(PLACES, PLACES).astype(np.float32), OCCLUSION)


def _covered(cell: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the cell once for each place, row by row, with that place black: uint8 [PLACES², height, width, 3]."""
    copies = np.repeat(cell[np.newaxis], PLACES * PLACES, axis=0)
    rows, columns = (np.linspace(0, size, PLACES + 1).round().astype(int) for size in cell.shape[:2])
    for index, copy in enumerate(copies):
        row, column = divmod(index, PLACES)
        copy[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 0
    return copies


def _logit(p_all: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(p_all.astype(np.float64), SMALLEST_P, 1 - SMALLEST_P)
    logit: NDArray[np.float64] = np.log(p / (1 - p))
    return logit
