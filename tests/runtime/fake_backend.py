"""A backend that needs no library: p_all is the brightness of a cell's first pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.base import Backend
from runtime.schema import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEC = ImageSpec(width=4, height=4)


class BrightnessBackend(Backend):
    """Remembers the sizes of the batches that it was given."""

    name = "fake"
    description = "a fake"

    def __init__(self, scale: float = 1 / 255, runs_at_a_time: int = 1) -> None:
        super().__init__(SPEC, runs_at_a_time)
        self.batch_sizes: list[int] = []
        self._scale = scale

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batch_sizes.append(len(cells))
        return (cells[:, 0, 0, 0] * self._scale).astype(np.float32)

    def close(self) -> None:
        """Nothing to free."""
