"""What a watched folder's database holds."""

from __future__ import annotations

from pathlib import Path

from runtime.schema import Prediction
from runtime.watching.result_reader import read_predictions


def stored_rows(path: Path) -> list[Prediction]:
    """Return all rows in the order in which they were written."""
    return read_predictions(path, list)
