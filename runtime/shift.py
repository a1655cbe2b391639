"""Tells when many cells, taken together, look unlike those that the model was fitted on: another stain, lamp or camera.

One cell differs from the next by more than one lamp from another, so that no limit for single cells finds it; the mean
over many cells does. What a microscope and a patient change alike, such as the size of the cells, it finds late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.schema import Prediction, TypicalSubjects

FEWEST_CELLS = 20  # that a mean is taken of
WINDOW = 100  # cells of a service that are judged together
# Name for people and format of each measure of TypicalSubjects.
MEASURES = {
    "brightness": ("brightness", ".1f"),
    "red": ("share of red in the light", ".1%"),
    "green": ("share of green in the light", ".1%"),
    "blue": ("share of blue in the light", ".1%"),
    "foreground": ("size, as share of the frame,", ".1%"),
}


@dataclass
class Appearances:
    """How cells look, taken together; memory does not grow with their number."""

    cells: int = 0  # that have a picture which is not black
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MEASURES, 0.0))  # over them, of each measure

    def add(self, prediction: Prediction) -> None:
        """Take a cell in; a row without a picture, or with a black one, tells nothing."""
        appearance = prediction.appearance
        if appearance is None or not appearance.foreground:
            return
        self.cells += 1
        for name in MEASURES:
            self.sums[name] += getattr(appearance, name)

    def merge(self, other: Appearances) -> None:
        """Take in what another one has."""
        self.cells += other.cells
        for name in MEASURES:
            self.sums[name] += other.sums[name]


class ShiftCheck:
    """Compares the means over the cells of one run with those of the subjects that the model was fitted on."""

    def __init__(self, typical: TypicalSubjects | None) -> None:
        """Without `typical` there is nothing to compare with, and never a warning."""
        self.found = Appearances()
        self._typical = typical

    def add(self, prediction: Prediction) -> None:
        """Take a cell in."""
        self.found.add(prediction)

    @property
    def warning(self) -> str:
        """What sets the cells apart as a whole, one line; empty where nothing does, or for fewer than FEWEST_CELLS."""
        cells, sums = self.found.cells, self.found.sums
        if self._typical is None or cells < FEWEST_CELLS:
            return ""
        unusual = []
        for name, (title, form) in MEASURES.items():
            mean, expected = sums[name] / cells, getattr(self._typical, name)
            if not expected.low <= mean <= expected.high:
                unusual.append(f"mean {title} {mean:{form}}, expected {expected.low:{form}} to {expected.high:{form}}")
        if not unusual:
            return ""
        return (
            f"WARNING: taken together, {cells} cells look unlike those of the {self._typical.subjects} subjects "
            f"that the model was fitted on: {'; '.join(unusual)}. Many labels may be wrong: check stain, lamp, white "
            "balance and magnification, and try the model on labelled cells of this microscope"
        )


class ShiftAlarm:
    """Judges cells as they come, WINDOW after WINDOW; says when they begin to look unusual and when that is over."""

    def __init__(self, typical: TypicalSubjects | None, tell: Callable[[str], None]) -> None:
        self._typical = typical
        self._tell = tell
        self._check = ShiftCheck(typical)
        self._is_on = False

    def add(self, prediction: Prediction) -> None:
        """Take a cell in."""
        self._check.add(prediction)
        if self._check.found.cells < WINDOW:
            return
        warning = self._check.warning
        if warning and not self._is_on:
            self._tell(warning)
        if self._is_on and not warning:
            self._tell(f"the last {WINDOW} cells look as expected again")
        self._is_on = bool(warning)
        self._check = ShiftCheck(self._typical)
