"""What every backend does: uint8 cells in, probabilities out."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from runtime.closing import Closing
from runtime.errors import BackendError, NotFiniteError
from runtime.schema import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Backend(Closing):
    """One model loaded by one inference library; a context manager.

    `infer` checks its input once; a subclass's `_infer` only computes. Any thread may call `infer`: as many at a time
    as the backend bears are let through.
    """

    name: str  # "cpu", "cuda"
    description: str  # library, version and device, for people

    def __init__(self, image: ImageSpec, runs_at_a_time: int = 1) -> None:
        self._cell_shape = (image.height, image.width, 3)
        self._let_through = threading.BoundedSemaphore(runs_at_a_time)

    def infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N], for uint8 RGB cells [N, height, width, 3].

        The caller owns both arrays: the input may be reused at once, the output is a fresh one.
        """
        if cells.dtype != np.uint8 or cells.shape[1:] != self._cell_shape or len(cells) == 0:
            raise BackendError(
                f"expected uint8 cells of shape [N, {', '.join(map(str, self._cell_shape))}] with N >= 1, "
                f"received {cells.dtype} {list(cells.shape)}"
            )
        with self._let_through:
            p_all = self._infer(cells)
        if not np.isfinite(p_all).all():
            raise NotFiniteError(
                f"expected probabilities from {self.description}, found values that are not finite; "
                "check the bundle with `python -m export verify`"
            )
        return p_all

    @abstractmethod
    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]: ...
