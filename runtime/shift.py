"""Says when many cells, taken together, look unlike those that the model was fitted on: another stain, lamp or camera.

One cell differs from the next by more than one lamp from another, so that no limit for single cells finds it; the mean
over many cells does. What a microscope and a patient change alike, such as the size of the cells, it finds late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.schema import Prediction, Range, TypicalSubjects

FEWEST_CELLS = 20  # that a mean is taken of
WINDOW = 100  # cells of a service that are judged together
# Name for people of each measure of TypicalSubjects, and whether it is a share.
MEASURES = {
    "brightness": ("brightness", False),
    "red": ("share of red in the light", True),
    "green": ("share of green in the light", True),
    "blue": ("share of blue in the light", True),
    "foreground": ("size, as share of the frame,", True),
}
WARNING = (
    "WARNING: taken together, {{cells}} cells look unlike those of the {subjects} subjects that the model was fitted "
    "on: {{unusual}}. Many labels may be wrong: check stain, lamp, white balance and magnification, and try the model "
    "on labelled cells of this microscope"
)


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


@dataclass(frozen=True)
class ExpectedMean:
    """Where the mean of one measure is expected, and how to say that it lies elsewhere."""

    measure: str  # of `Appearances.sums`
    low: float
    high: float
    is_share: bool  # told in percent
    text: str  # with {mean} in it


@dataclass(frozen=True)
class ShiftRule:
    """When cells are unusual as a whole, and how to say so; data alone, since the page applies it too."""

    fewest_cells: int
    means: tuple[ExpectedMean, ...]
    text: str  # with {cells} and {unusual} in it

    @classmethod
    def of(cls, typical: TypicalSubjects) -> ShiftRule:
        """Return the rule of a bundle."""
        means = []
        for measure, (title, is_share) in MEASURES.items():
            expected: Range = getattr(typical, measure)
            low, high = (_shown(value, is_share=is_share) for value in (expected.low, expected.high))
            text = f"mean {title} {{mean}}, expected {low} to {high}"
            means.append(ExpectedMean(measure, expected.low, expected.high, is_share, text))
        return cls(FEWEST_CELLS, tuple(means), WARNING.format(subjects=typical.subjects))

    def warning(self, found: Appearances) -> str:
        """Say in one line what sets cells apart as a whole; empty where nothing does, or for too few cells."""
        if found.cells < self.fewest_cells:
            return ""
        unusual = []
        for each in self.means:
            mean = found.sums[each.measure] / found.cells
            if not each.low <= mean <= each.high:
                unusual.append(each.text.format(mean=_shown(mean, is_share=each.is_share)))
        return self.text.format(cells=found.cells, unusual="; ".join(unusual)) if unusual else ""


def _shown(value: float, *, is_share: bool) -> str:
    return f"{value:.2%}" if is_share else f"{value:.1f}"  # ranges of shares are narrow


class ShiftCheck:
    """Takes in the cells of one run and judges them as a whole."""

    def __init__(self, typical: TypicalSubjects | None) -> None:
        """Without `typical` there is nothing to compare with, and never a warning."""
        self.found = Appearances()
        self._rule = ShiftRule.of(typical) if typical else None

    def add(self, prediction: Prediction) -> None:
        """Take a cell in."""
        self.found.add(prediction)

    @property
    def warning(self) -> str:
        """What sets the cells apart as a whole, one line; empty where nothing does, or for fewer than FEWEST_CELLS."""
        return self._rule.warning(self.found) if self._rule else ""


class ShiftAlarm:
    """Judges cells as they come, window after window; says when they begin to look unusual and when that is over."""

    def __init__(
        self, typical: TypicalSubjects | None, tell: Callable[[str], None], keep: Callable[[str], None]
    ) -> None:
        """`tell` takes lines for people, `keep` the warning of each window, empty where there is none."""
        self._typical = typical
        self._tell = tell
        self._keep = keep
        self._check = ShiftCheck(typical)
        self._is_on = False

    def add(self, prediction: Prediction) -> None:
        """Take a cell in."""
        self._check.add(prediction)
        if self._check.found.cells < WINDOW:
            return
        warning = self._check.warning
        self._keep(warning)
        if warning and not self._is_on:
            self._tell(warning)
        if self._is_on and not warning:
            self._tell(f"the last {WINDOW} cells look as expected again")
        self._is_on = bool(warning)
        self._check = ShiftCheck(self._typical)
