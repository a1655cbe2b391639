from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest

from export.typical import FEWEST_OF_SUBJECT, FEWEST_SUBJECTS, typical_subjects
from runtime.schema import Appearance, Range, TypicalSubjects

MEASURES = [field.name for field in fields(TypicalSubjects) if field.name != "subjects"]


def cells_of(brightness: float, count: int = FEWEST_OF_SUBJECT) -> list[Appearance]:
    return [Appearance(450, 0.2, brightness, 0.4, 0.44, 150, 0.02, 1.02)] * count


def subjects_like(brightnesses: Sequence[float]) -> TypicalSubjects:
    typical = typical_subjects([cells_of(each) for each in brightnesses])
    assert typical is not None
    return typical


def test_one_more_subject_lies_in_the_range_as_often_as_is_said() -> None:
    random = np.random.default_rng(0)
    held, rounds = 0, 2000
    for _ in range(rounds):
        *known, one_more = np.exp(random.normal(4, 0.1, 9)).tolist()
        expected = subjects_like(known).brightness
        held += expected.low <= one_more <= expected.high
    assert held / rounds == pytest.approx(0.99, abs=0.006), "99 %, give or take 2.7 standard errors"


def test_what_a_lamp_multiplies_has_a_range_of_ratios() -> None:
    typical = subjects_like([40, 50, 60, 70, 80])
    doubled = subjects_like([80, 100, 120, 140, 160])
    assert doubled.brightness.low == pytest.approx(2 * typical.brightness.low)
    assert doubled.brightness.high == pytest.approx(2 * typical.brightness.high)
    middle = math.prod([40, 50, 60, 70, 80]) ** (1 / 5)
    assert typical.brightness.low * typical.brightness.high == pytest.approx(middle**2)


def test_each_subject_counts_once_however_many_cells_it_has() -> None:
    few = subjects_like([40, 50, 60, 70, 80])
    many = typical_subjects([cells_of(40, count=500), *(cells_of(each) for each in (50, 60, 70, 80))])
    assert many is not None
    assert many.brightness.low == pytest.approx(few.brightness.low)


def test_subjects_of_few_cells_and_black_pictures_are_left_out() -> None:
    enough = [cells_of(each) for each in (40, 50, 60, 70, 80)]
    black = [Appearance(450, 0.0, 0, 0, 0, 0, 0, 0)] * FEWEST_OF_SUBJECT
    more = [cells_of(250, count=FEWEST_OF_SUBJECT - 1), black]
    assert typical_subjects([*enough, *more]) == typical_subjects(enough)


def test_of_few_subjects_nothing_is_said() -> None:
    assert typical_subjects([cells_of(50)] * (FEWEST_SUBJECTS - 1)) is None


def test_every_measure_has_a_range() -> None:
    typical = subjects_like([40, 50, 60, 70, 80])
    assert typical.subjects == FEWEST_SUBJECTS
    assert all(isinstance(getattr(typical, name), Range) for name in MEASURES)
    assert typical.green.low == pytest.approx(0.16)
