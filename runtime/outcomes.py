"""How many files came out as what."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.schema import CLASSES, Prediction


def nouns(count: float, noun: str) -> str:
    """Return the noun that fits a count: "file" for 1, "files" for any other."""
    return noun if count == 1 else f"{noun}s"


@dataclass
class Outcomes:
    """Counts of rows by what they say; memory does not grow with the number of rows."""

    labels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(reversed(CLASSES), 0))
    review: int = 0  # of those, that a person should look at
    errors: int = 0  # files that could not be read and have no label

    def add(self, prediction: Prediction) -> None:
        """Count one row."""
        self.count(prediction.label, prediction.status)

    def count(self, label: str, status: str, rows: int = 1) -> None:
        """Count rows that all have this label and status; a cell under review counts as what it is labelled."""
        if status == "error":
            self.errors += rows
            return
        self.labels[label] = self.labels.get(label, 0) + rows  # a database may hold another release's labels
        if status == "review":
            self.review += rows

    def merge(self, other: Outcomes) -> None:
        """Count what another one has counted."""
        for label, rows in other.labels.items():
            self.labels[label] += rows
        self.review += other.review
        self.errors += other.errors

    @property
    def cells(self) -> int:
        """How many files have a label."""
        return sum(self.labels.values())

    @property
    def leukemic(self) -> int:
        """How many are labelled ALL."""
        return self.labels[CLASSES[1]]

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return self.cells + self.errors

    def __str__(self) -> str:
        labels = ", ".join(f"{count} {label}" for label, count in self.labels.items())
        return f"{labels}, {self.review} of them for review, {self.errors} not readable"
