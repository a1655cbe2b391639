"""Sensitivity and specificity by threshold on the cells that a bundle is proved on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.schema import OperatingPoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 200  # from 0 to 1


def operating_curve(labels: NDArray[np.bool_], p_all: NDArray[np.float32]) -> tuple[OperatingPoint, ...]:
    """Return sensitivity and specificity at evenly spaced thresholds from 0 to 1.

    Args:
        labels: [N], True for ALL; both classes.
        p_all: [N], calibrated; a cell is ALL where it reaches the threshold.
    """
    thresholds = np.linspace(0, 1, STEPS + 1)
    is_all = p_all[:, None] >= thresholds
    sensitivity, specificity = is_all[labels].mean(axis=0), 1 - is_all[~labels].mean(axis=0)
    return tuple(OperatingPoint(*map(float, point)) for point in zip(thresholds, sensitivity, specificity, strict=True))
