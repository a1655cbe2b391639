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

    `infer` checks its input once; a subclass's `_infer` only computes. `infer` is thread-safe; at most
    `runs_at_a_time` calls run at once.
    """

    name: str  # "cpu", "cuda", "openvino", "tensorrt"
    description: str  # library, version and device, for people
    gives_heat = False  # whether `infer_with_heat` can be called

    def __init__(self, image: ImageSpec, runs_at_a_time: int = 1) -> None:
        self._cell_shape = (image.height, image.width, 3)
        self._let_through = threading.BoundedSemaphore(runs_at_a_time)

    def infer(self, cells: NDArray[np.uint8], *, beside_others: bool = False) -> NDArray[np.float32]:
        """Return p_all, float32 [N], for uint8 RGB cells [N, height, width, 3].

        The caller owns both arrays: the input may be reused at once, the output is a fresh one. `beside_others` says
        that the caller's other threads compute meanwhile, so that this call should take one thread where it can.

        Raises BackendError for cells of another dtype or shape, or none, and where the library fails; NotFiniteError
        for answers that are not numbers.
        """
        self._refuse_unfit_cells(cells)
        with self._let_through:
            p_all = self._infer(cells) if beside_others else self._infer_alone(cells)
        self._refuse_not_finite(p_all)
        return p_all

    def infer_with_heat(self, cells: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return p_all, and the map behind each answer, float32 [N, rows, columns]: above 0 speaks for ALL.

        Only where `gives_heat`. Raises what `infer` raises.
        """
        self._refuse_unfit_cells(cells)
        with self._let_through:
            p_all, heat = self._infer_with_heat(cells)
        self._refuse_not_finite(p_all)
        self._refuse_not_finite(heat)
        return p_all, heat

    def _refuse_unfit_cells(self, cells: NDArray[np.uint8]) -> None:
        if cells.dtype != np.uint8 or cells.shape[1:] != self._cell_shape or len(cells) == 0:
            raise BackendError(
                f"expected uint8 cells of shape [N, {', '.join(map(str, self._cell_shape))}] with N >= 1, "
                f"received {cells.dtype} {list(cells.shape)}"
            )

    def _refuse_not_finite(self, values: NDArray[np.float32]) -> None:
        if not np.isfinite(values).all():
            raise NotFiniteError(
                f"expected probabilities from {self.description}, found values that are not finite; "
                "check the bundle with `python -m export verify`"
            )

    @abstractmethod
    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]: ...

    def _infer_alone(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._infer(cells)

    def _infer_with_heat(self, cells: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        raise NotImplementedError(f"{self.description} gives no map")
