"""Judges a conversion: the one place that compares a variant's probabilities with the Keras model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.base import Backend
from runtime.schema import TOLERANCES, Parity

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Verdict:
    """How a variant's probabilities lie to the reference's on the same cells."""

    precision: str
    difference: NDArray[np.float64]  # [N], absolute difference of p_all
    flipped: NDArray[np.bool_]  # [N], where the label at the threshold differs
    tolerance: float

    @property
    def max_difference(self) -> float:
        """The largest difference of p_all."""
        return float(self.difference.max())

    @property
    def passed(self) -> bool:
        """Whether the variant may stand for the reference.

        A cell whose reference lies within the tolerance of the threshold may flip by rounding alone; it is counted,
        but what is judged is the difference.
        """
        return self.max_difference <= self.tolerance


def judge(precision: str, p_all: NDArray[np.float32], reference: NDArray[np.float32], threshold: float) -> Verdict:
    """Compare p_all of a variant with that of the reference, both float32 [N], on the same cells in the same order."""
    return Verdict(
        precision=precision,
        difference=np.abs(p_all.astype(np.float64) - reference.astype(np.float64)),
        flipped=(p_all >= threshold) != (reference >= threshold),
        tolerance=TOLERANCES[precision],
    )


def infer_in_batches(backend: Backend, cells: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return p_all, float32 [N], computed `batch_size` cells at a time, the last batch as short as it falls."""
    starts = range(0, len(cells), batch_size)
    return np.concatenate([backend.infer(cells[start : start + batch_size]) for start in starts])


def parity_at_batch_sizes(
    backend: Backend,
    precision: str,
    cells: NDArray[np.uint8],
    reference: NDArray[np.float32],
    threshold: float,
    batch_sizes: tuple[int, ...],
) -> Parity:
    """Judge a variant at several batch sizes; return the worst of them."""
    verdicts = [
        judge(precision, infer_in_batches(backend, cells, batch_size), reference, threshold)
        for batch_size in batch_sizes
    ]
    return Parity(
        cells=len(cells),
        batch_sizes=batch_sizes,
        max_difference=max(verdict.max_difference for verdict in verdicts),
        tolerance=TOLERANCES[precision],
        flipped=max(int(verdict.flipped.sum()) for verdict in verdicts),
    )
