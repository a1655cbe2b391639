"""Whether an engine answers the golden cells like the variant that it was built from, in batches of any size."""

from __future__ import annotations

import math

import numpy as np

from runtime.backends.base import Backend
from runtime.bundle import Golden
from runtime.errors import ConversionError, NotFiniteError
from runtime.schema import SELF_TEST_TOLERANCES


def prove_answers(backend: Backend, golden: Golden, precision: str, batch: tuple[int, int, int]) -> str:
    """Compare an engine's answers with those that the variant gave when it was exported; return the result in words.

    All golden cells pass through it one by one, in batches of the size it is optimized for, in its largest, and in one
    that is split with a remainder: each size has kernels of its own.

    Raises ConversionError for another answer and for one that is not a number.
    """
    _, best, largest = batch
    differences = {size: _difference(backend, golden, precision, size) for size in (1, best, largest)}
    rest = largest + max(best - 1, 1)
    differences[rest] = _difference(backend, golden, precision, rest)
    worst = max(differences, key=lambda size: differences[size])
    if not differences[worst] <= SELF_TEST_TOLERANCES[precision]:
        raise ConversionError(
            f"expected an engine that answers the {len(golden.cells)} golden cells as {precision} did when it was "
            f"exported, found p_all to differ by {differences[worst]:.2g} in batches of {worst} (at most "
            f"{SELF_TEST_TOLERANCES[precision]:g} is accepted); no engine was written; try another "
            "--optimization-level or --precision"
        )
    sizes = ", ".join(map(str, differences))
    return f"{len(golden.cells)} golden cells in batches of {sizes}: p_all differs by {differences[worst]:.2g} at most"


def _difference(backend: Backend, golden: Golden, precision: str, size: int) -> float:
    """Return the largest difference of p_all where the golden cells, from the first again as needed, fill batches."""
    count = len(golden.cells)
    batches = np.resize(np.arange(count), (math.ceil(count / size), size))
    try:
        answers = [backend.infer(golden.cells[batch]) for batch in batches]
    except NotFiniteError as error:
        raise ConversionError(
            f"expected an engine that answers the golden cells in batches of {size} with numbers, found values that "
            "are not finite; no engine was written; try another --optimization-level or --precision"
        ) from error
    return float(np.abs(np.concatenate(answers) - golden.p_all[precision][batches.ravel()]).max())
