"""Measures how the cells look that a run was fitted on, so that the runtime knows what is unlike them."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.appearance import Appearance, typical_of
from runtime.errors import DataError, UnreadableCellError
from runtime.preprocessing import read_bytes
from runtime.reading import look_at
from runtime.schema import ImageSpec, TypicalCells
from train.dataset import Cell


def typical_cells(cells: Sequence[Cell], image: ImageSpec) -> TypicalCells:
    """Return how the cells look that can be read; raise DataError unless there are some."""
    found: list[Appearance] = []
    for cell in cells:
        try:
            _, appearance = look_at(read_bytes(cell.path), image)
        except UnreadableCellError:
            continue
        found.append(appearance)
    if not found:
        raise DataError(f"expected training cells that can be read, found none of {len(cells)}; check the data")
    return typical_of(found)
