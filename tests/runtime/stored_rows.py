"""What a watched folder's database holds."""

from __future__ import annotations

from pathlib import Path

from runtime.result_store import read_predictions
from runtime.schema import Prediction


def stored_rows(path: Path) -> list[Prediction]:
    """Return all rows in the order in which they were written."""
    return read_predictions(path, list)
