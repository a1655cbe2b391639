"""Backends around another one, which note what a measurement needs to know."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.base import Backend
from runtime.errors import BackendError, NotFiniteError
from runtime.schema import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class WrappedBackend(Backend):
    """Answers as the backend inside does."""

    def __init__(self, inner: Backend, image: ImageSpec) -> None:
        super().__init__(image)
        self.inner = inner
        self.name, self.description = inner.name, inner.description

    def infer(self, cells: NDArray[np.uint8], *, beside_others: bool = False) -> NDArray[np.float32]:
        """Return what the backend inside does; it checks the input itself."""
        return self.inner.infer(cells, beside_others=beside_others)

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.infer(cells)

    def close(self) -> None:
        """Close the backend inside."""
        self.inner.close()


class ClockedBackend(WrappedBackend):
    """Notes the seconds that each call takes."""

    def __init__(self, inner: Backend, image: ImageSpec) -> None:
        super().__init__(inner, image)
        self.seconds: list[float] = []

    def infer(self, cells: NDArray[np.uint8], *, beside_others: bool = False) -> NDArray[np.float32]:
        """Return what the backend inside does, and note how long that took."""
        started = time.perf_counter()
        p_all = super().infer(cells, beside_others=beside_others)
        self.seconds.append(time.perf_counter() - started)
        return p_all


class GuardedBackend(WrappedBackend):
    """Notes the first failure and answers NaN from then on, so that others are measured to the end."""

    def __init__(self, inner: Backend, image: ImageSpec) -> None:
        super().__init__(inner, image)
        self.error: BackendError | None = None

    def infer(self, cells: NDArray[np.uint8], *, beside_others: bool = False) -> NDArray[np.float32]:
        """Return what the backend inside does until it fails, NaN from then on."""
        if self.error is None:
            try:
                return super().infer(cells, beside_others=beside_others)
            except NotFiniteError:
                raise
            except BackendError as error:
                self.error = error
        return np.full(len(cells), np.nan, np.float32)
