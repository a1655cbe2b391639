"""The rules that the page shares with the Python code give the same answers."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from runtime.cell_names import printable
from runtime.classifier import Classifier, ClassifierOptions, review_band
from runtime.files import CsvWriter
from runtime.groups import COLUMNS, GroupCounts, subject_of, wilson_interval
from runtime.inputs import COMPANION_SUFFIXES, is_companion
from runtime.schema import Decision, Prediction
from tests.page.visitor import Visitor

NAMES = (
    "UID_11_2_3_all.bmp",
    "uid_h10_2_3_HEM.png",
    "folder/deeper/UID_H1_2_3_hem.bmp",
    "UID_11_2_3_all (1).bmp",
    "UID_11_2_3_allx.bmp",
    "UID_11_2_3_all2.bmp",
    "UID_11_2_all.bmp",
    "xUID_11_2_3_all.bmp",
    "DRAWN_H3_9_1_hem.png",
    "UID_\u0661\u0662_2_3_all.bmp",
    "UID_11_2_3_all\u017f.bmp",
    "UID_11_2_3_all/",
    "folder/./",
    "a\\UID_11_2_3_all.bmp",
    "cell_\u202egpj.bmp",
    "line\nbreak\ttab\r\x00\x1b[31m\x7f\x85",
    "no-break\u00a0space\u2003\u2028\u2029\ufeff",
    "smile\U0001f600 \U000e0041 \ue000",
    "\u00fcml\u00e4ut \u4e2d\u6587 \u05d0\u05d1",
    "<script>alert(1)</script>",
    "",
)


def test_subjects_and_shown_names_are_those_of_python(visitor: Visitor) -> None:
    assert visitor.call("cell_names.js", "given.map(module.subjectOf)", NAMES) == [subject_of(name) for name in NAMES]
    assert visitor.call("cell_names.js", "given.map(module.printable)", NAMES) == [printable(name) for name in NAMES]
    half = visitor.page.evaluate(
        "import('/static/cell_names.js').then(module => module.printable('a' + String.fromCharCode(0xdcff)))"
    )
    assert half == printable("a\udcff")


def test_the_same_files_lie_beside_images(visitor: Visitor) -> None:
    paths = ["a.bmp", ".a.bmp", "a/.b/c.bmp", "a/b.CSV", "notes.txt", "a.b/c"]
    paths += [f"x{suffix}" for suffix in COMPANION_SUFFIXES]
    assert visitor.call("files.js", "given.map(module.isCompanion)", paths) == [is_companion(path) for path in paths]


def test_intervals_are_those_of_python(visitor: Visitor) -> None:
    pairs = [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (999, 1000), (13, 77)]
    found = visitor.call("groups.js", "given.map(([count, total]) => module.wilsonInterval(count, total))", pairs)
    for (count, total), interval in zip(pairs, found, strict=True):
        assert interval == pytest.approx(vars(wilson_interval(count, total)), abs=1e-12)


def random_predictions() -> list[Prediction]:
    """Cells of subjects with few and many, of unknown ones, and files that could not be read."""
    chance = random.Random(0)
    subjects = ["2", "10", "H2", "H10", "07", "7", *["3"] * 30, *["H1"] * 20]
    paths = [f"UID_{chance.choice(subjects)}_{number}_1_all.bmp" for number in range(300)] + ["other.bmp"] * 5
    return [_random_prediction(path, chance) for path in paths]


def _random_prediction(path: str, chance: random.Random) -> Prediction:
    p_all = round(chance.random(), 6)
    if p_all < 0.1:
        return Prediction(path, "", None, "error", "the file is empty", 0.0)
    return Prediction(path, "ALL" if p_all >= 0.5 else "healthy", p_all, chance.choice(["ok", "review"]), "", 0.0)


def test_the_roll_up_by_subject_is_that_of_python(visitor: Visitor, tmp_path: Path) -> None:
    predictions = random_predictions()
    counts = GroupCounts("subject")
    for one in predictions:
        counts.add(one)
    counts.write(tmp_path / "groups.csv")
    rows = [{"path": one.path, "answer": {}, "decision": vars(one)} for one in predictions]
    expression = """(() => {
      const groups = module.groupsOf(given);
      return { table: module.tableOf(groups), notes: module.notesOf(groups), csv: module.groupsCsv(groups) };
    })()"""
    found = visitor.call("groups.js", expression, rows)
    assert found["table"] == [list(row.values()) for row in counts.table()]
    assert [note.replace(" (--min-cells)", "") for note in counts.notes()] == found["notes"]
    assert found["csv"] == (tmp_path / "groups.csv").read_text()
    assert found["csv"].startswith(",".join(COLUMNS))


def test_csv_is_written_as_python_writes_it(visitor: Visitor) -> None:
    lines: list[list[Any]] = [
        ["plain.bmp", 1],
        ['quo"te', "com,ma"],
        ["line\nbreak", "carriage\rreturn"],
        ["=1+1", "@sum"],
        [" spaces ", "\u00fc\u4e2d"],
        ["", ""],
    ]
    stream = io.StringIO()
    writer = CsvWriter(stream)
    for line in [["a", "b"], *lines]:
        writer.write(line)
    assert visitor.call("csv.js", "module.csvText(['a', 'b'], given)", lines) == stream.getvalue()


def test_the_band_round_a_threshold_is_that_of_classify(visitor: Visitor) -> None:
    values = (0.0, 0.001, 0.2, 0.5, 0.85, 1.0)
    cases = [(start, end, start * 0.6, 1 - 0.6 * (1 - start)) for start in values for end in values]
    expression = """given.map(([start, end, low, high]) => (
      module.reviewBand(end, { bundleThreshold: start, bundleBand: [low, high] })))"""
    expected = [
        list(review_band(Decision("none", start, 1.0, 0.1, 0.1, low, high), end)) for start, end, low, high in cases
    ]
    assert visitor.call("decision.js", expression, cases) == expected


def test_labels_at_a_threshold_are_those_of_classify(visitor: Visitor, images: list[Path], cells: Path) -> None:
    paths = [*images, cells / "broken.bmp"]
    visitor.add(paths)
    visitor.waits_for(len(paths))
    for threshold in (0.0, 0.2, 0.85, 0.914, 1.0, 0.5):
        with Classifier(ClassifierOptions(backend="cpu", threshold=threshold)) as classifier:
            expected = list(classifier.classify([str(path) for path in paths]))
        visitor.set_threshold(threshold)
        _, rows = visitor.download()
        assert [(row["label"], row["status"], row["reason"]) for row in rows] == [
            (one.label, one.status, one.reason) for one in expected
        ]
