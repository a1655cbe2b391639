"""How few labelled cells are too few."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.schema import Proof

# A proof may be right by chance on a handful of cells, so nothing is proved by them.
FEWEST_TO_PROVE = 10  # of each class
# The largest activation, and the typical look of a cell, must not be those of one cell.
FEWEST_TO_CONVERT = 5  # of each class
NOT_PROVED = "compared on too few cells for a proof"


def too_few_to_prove(labels: Iterable[int]) -> str:
    """Return why cells with these labels, 1 for ALL and 0 for healthy, are no proof; empty where they are one."""
    is_all = [label == 1 for label in labels]
    healthy = len(is_all) - sum(is_all)
    if min(sum(is_all), healthy) >= FEWEST_TO_PROVE:
        return ""
    return f"{NOT_PROVED}: {sum(is_all)} ALL and {healthy} healthy, where {FEWEST_TO_PROVE} of each class are needed"


def is_not_proved(proof: Proof) -> bool:
    """Say whether it is too few cells alone, and no difference, that keeps a variant from being proved."""
    return bool(proof.failures) and all(failure.startswith(NOT_PROVED) for failure in proof.failures)
