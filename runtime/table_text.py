"""How tables write their values: numbers with the figures that count, words for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

FIGURES = 4  # significant, of the largest number of a column
FEWEST_FIGURES = 3  # significant, to which a column's decimals may cut a number


def column_texts(values: Sequence[object]) -> list[str]:
    """Return the values of a column as people read them.

    All floats have the decimals that give the largest FIGURES significant digits, or as many as they need. One that
    these would cut to fewer than FEWEST_FIGURES is written with FIGURES of its own, such as 0.9875 or 1e-07. Only zero
    is 0.
    """
    decimals = _decimals(value for value in values if isinstance(value, float))
    return [_text(value, decimals) for value in values]


def value_text(value: object) -> str:
    """Return a value that stands alone."""
    return column_texts([value])[0]


def _decimals(column: Iterable[float]) -> int:
    """Return the decimals of a column, no more than its numbers have."""
    numbers = [abs(number) for number in column if math.isfinite(number)]
    largest = max(numbers, default=0.0)
    whole_digits = len(str(int(largest))) if largest >= 1 else 0
    own = (len(f"{number:.{FIGURES}f}".rstrip("0").partition(".")[2]) for number in numbers)
    return min(max(FIGURES - whole_digits, 0), max(own, default=0))


def _text(value: object, decimals: int) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value == 0:
        return "0"
    text = f"{value:.{decimals}f}"
    if abs(value) < 10 ** (FEWEST_FIGURES - 1 - decimals) and float(text) != value:
        return f"{value:.{FIGURES}g}"
    return f"{value:,.{decimals}f}"
