"""A progress bar on a terminal.

tqdm is imported only where a bar shows: its import takes about a tenth of a second, which a script that classifies a
few cells would wait for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def with_progress(
    items: Iterable[Item], *, unit: str, total: int | None = None, title: str | None = None
) -> Iterable[Item]:
    """Return the items; while they are taken, a bar counts them where standard error is a terminal.

    Args:
        items: What is counted.
        unit: What one item is, in the singular.
        total: How many there are, where `items` has no length.
        title: Shown before the bar.
    """
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc=title, unit=unit, leave=False)
