"""Measures the look of the cells that a run was fitted on, so that the runtime knows what is unlike them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from scipy import stats

from runtime.appearance import typical_of
from runtime.errors import DataError, UnreadableCellError
from runtime.preprocessing import read_bytes
from runtime.reading import look_at
from runtime.schema import Appearance, ImageSpec, Range, TypicalCells, TypicalSubjects
from runtime.shift import MEASURES
from train.dataset import Cell

CONFIDENCE = 0.99  # of each measure's range for one more subject
FEWEST_SUBJECTS = 5  # of fewer no range is taken
FEWEST_OF_SUBJECT = 5  # cells that a subject's mean is taken of
MULTIPLIED = ("brightness", "foreground")  # by a lamp, by a lens


def typical_cells(cells: Sequence[Cell], image: ImageSpec) -> TypicalCells:
    """Return the look of the cells that can be read; raise DataError unless there are some."""
    by_subject: dict[str, list[Appearance]] = defaultdict(list)
    for cell in cells:
        try:
            _, appearance = look_at(read_bytes(cell.path), image)
        except UnreadableCellError:
            continue
        by_subject[cell.subject].append(appearance)
    if not by_subject:
        raise DataError(f"expected training cells that can be read, found none of {len(cells)}; check the data")
    found = list(chain.from_iterable(by_subject.values()))
    return typical_of(found, None if "" in by_subject else typical_subjects(by_subject.values()))


def typical_subjects(of_each: Iterable[Sequence[Appearance]]) -> TypicalSubjects | None:
    """Return where the means over one more subject's cells are expected; None for too few subjects.

    A prediction interval for one more observation, m +- t s sqrt(1 + 1/n) (G. J. Hahn, W. Q. Meeker: Statistical
    Intervals, 1991), of the subjects' means; of their logarithms for what a lamp or a lens multiplies.
    """
    measured = [[each for each in cells if each.foreground] for cells in of_each]
    measured = [cells for cells in measured if len(cells) >= FEWEST_OF_SUBJECT]
    if len(measured) < FEWEST_SUBJECTS:
        return None

    def expected(measure: str) -> Range:
        means = [float(np.mean([getattr(cell, measure) for cell in cells])) for cells in measured]
        if measure in MULTIPLIED:
            logarithms = _one_more([math.log(mean) for mean in means])
            return Range(math.exp(logarithms.low), math.exp(logarithms.high))
        return _one_more(means)

    return TypicalSubjects(subjects=len(measured), **{measure: expected(measure) for measure in MEASURES})


def _one_more(values: Sequence[float]) -> Range:
    count = len(values)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) * math.sqrt(1 + 1 / count)
    return Range(float(np.mean(values) - reach), float(np.mean(values) + reach))
