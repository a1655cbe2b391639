"""What a watched folder's database holds."""

from __future__ import annotations

from pathlib import Path

from runtime.result_store import stored_predictions
from runtime.schema import Prediction


def stored_rows(path: Path) -> list[Prediction]:
    """Return all rows in the order in which they were written."""
    with stored_predictions(path) as predictions:
        return list(predictions)
