"""Counts over one run of classify."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.schema import CLASSES, Prediction


@dataclass
class Summary:
    """Counts by outcome; memory does not grow with the number of rows."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    review: int = 0  # of those
    errors: int = 0
    resumed: int = 0  # rows that an earlier run had made
    started: float = field(default_factory=time.perf_counter)

    def add(self, prediction: Prediction) -> None:
        """Count one row."""
        if prediction.status == "error":
            self.errors += 1
        else:
            self.counts[prediction.label] += 1
            self.review += prediction.status == "review"

    def add_counts(self, labels: Mapping[str, int], review: int) -> None:
        """Count many rows: how often each label stands in them, "" for an error, and how many are for review."""
        for label, count in labels.items():
            if label:
                self.counts[label] += count
            else:
                self.errors += count
        self.review += review

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return self.errors + sum(self.counts.values())

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.started
        counts = ", ".join(f"{self.counts[label]} {label}" for label in reversed(CLASSES))
        rate = (self.rows - self.resumed) / seconds if seconds else 0.0
        return (
            f"{self.rows} files in {seconds:.1f} s ({rate:.0f} a second): {counts}, {self.review} of them for review, "
            f"{self.errors} not readable"
        )
