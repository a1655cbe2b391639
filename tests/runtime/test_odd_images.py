"""That each odd or damaged file gives one row, and never an answer that rests on other pixels than the cell's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import UnreadableCellError
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec
from tests.runtime.odd_images import SIDE, OddImage, make_odd_images

ROOT = Path(__file__).parents[2]
ROUNDING = 1  # grey levels, of transparency
CLASSIFY = """
import json, sys
from dataclasses import asdict
from runtime.classifier import Classifier
with Classifier() as classifier:
    print(json.dumps([asdict(row) for row in classifier.classify(json.load(sys.stdin))]))
"""


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> list[OddImage]:
    return make_odd_images(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def rows(odd_images: list[OddImage]) -> list[dict[str, Any]]:
    """What the classifier says, in a process of its own: a crash or a hang there ends this test alone."""
    done = subprocess.run(
        [sys.executable, "-c", CLASSIFY],
        cwd=ROOT,
        input=json.dumps([str(odd.path) for odd in odd_images]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    classified: list[dict[str, Any]] = json.loads(done.stdout)
    return classified


def test_the_corpus_is_large_and_holds_answers_and_errors(odd_images: list[OddImage]) -> None:
    answers = sum(odd.pixels is not None for odd in odd_images)
    assert len({odd.path for odd in odd_images}) == len(odd_images) >= 300
    assert min(answers, len(odd_images) - answers) >= 100


def test_each_file_gives_one_row_in_its_place(odd_images: list[OddImage], rows: list[dict[str, Any]]) -> None:
    assert [row["path"] for row in rows] == [str(odd.path) for odd in odd_images]


def test_each_row_is_an_answer_or_an_error_as_the_file_deserves(
    odd_images: list[OddImage], rows: list[dict[str, Any]]
) -> None:
    expected = ["error" if odd.pixels is None else "review" for odd in odd_images]  # 60 pixels a side are unusual
    pairs = zip(rows, expected, strict=True)
    wrong = [f"{row['path']}: {row['status']} {row['reason']}" for row, status in pairs if row["status"] != status]
    assert not wrong, "\n".join(wrong)


def test_a_reason_is_one_line_and_an_error_has_no_label(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert (row["status"] == "error") == (row["label"] == "") == (row["p_all"] is None), row
        assert len(row["reason"].splitlines()) == 1, row


def test_an_answer_rests_on_the_pixels_of_the_cell(odd_images: list[OddImage]) -> None:
    wrong = []
    for odd in odd_images:
        if odd.pixels is None:
            continue
        try:
            cell = load_cell(odd.path, ImageSpec(SIDE, SIDE))
        except UnreadableCellError as error:
            wrong.append(f"{odd.path.name}: {error}")
            continue
        difference = np.abs(cell.astype(int) - odd.pixels).max()
        if difference > ROUNDING:
            wrong.append(f"{odd.path.name}: {difference} grey levels from what was expected")
    assert not wrong, "\n".join(wrong)
