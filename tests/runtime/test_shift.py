from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from runtime.classifier import Classifier
from runtime.classify import main
from runtime.command_line import DONE, INTERRUPTED
from runtime.schema import Appearance, Prediction, Range, TypicalSubjects
from runtime.shift import FEWEST_CELLS, WINDOW, ShiftAlarm, ShiftCheck
from tests.runtime.tinted import tinted

TYPICAL = TypicalSubjects(
    subjects=14,
    foreground=Range(0.1, 0.3),
    brightness=Range(45, 68),
    red=Range(0.37, 0.4),
    green=Range(0.15, 0.18),
    blue=Range(0.42, 0.47),
)
USUAL = Appearance(
    side=450, foreground=0.2, brightness=60, red=0.39, blue=0.445, sharpness=150, offset=0.02, spread=1.02
)


def row(appearance: Appearance | None) -> Prediction:
    status = "ok" if appearance else "error"
    return Prediction("a.bmp", "ALL", 0.9, status, "", 0.001, appearance=appearance)


def like_usual(**changes: float) -> Appearance:
    return Appearance(**{**vars(USUAL), **changes})


def check_of(*appearances: Appearance | None) -> ShiftCheck:
    check = ShiftCheck(TYPICAL)
    for appearance in appearances:
        check.add(row(appearance))
    return check


def test_cells_that_differ_by_themselves_and_not_as_a_whole_are_no_reason_to_warn() -> None:
    dark, bright = like_usual(brightness=20), like_usual(brightness=95)
    assert check_of(*[dark, bright] * FEWEST_CELLS).warning == ""


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"brightness": 72}, "mean brightness 72.0, expected 45.0 to 68.0"),
        ({"foreground": 0.08}, "mean size, as share of the frame, 8.00%, expected 10.00% to 30.00%"),
        ({"red": 0.41, "blue": 0.425}, "mean share of red in the light 41.00%, expected 37.00% to 40.00%"),
        ({"red": 0.395, "blue": 0.465}, "mean share of green in the light 14.00%, expected 15.00% to 18.00%"),
        ({"blue": 0.475, "red": 0.37}, "mean share of blue in the light 47.50%, expected 42.00% to 47.00%"),
        ({"red": 0.4004}, "mean share of red in the light 40.04%, expected 37.00% to 40.00%"),
    ],
)
def test_what_all_cells_have_in_common_is_told(changes: dict[str, float], found: str) -> None:
    """Each of these cells alone would pass: single cells of the training part lie farther out."""
    warning = check_of(*[like_usual(**changes)] * FEWEST_CELLS).warning
    assert f"{FEWEST_CELLS} cells look unlike those of the 14 subjects" in warning
    assert found in warning
    assert warning.count("expected") == 1
    assert "\n" not in warning


def test_few_cells_and_rows_without_a_picture_tell_nothing() -> None:
    bright, black = like_usual(brightness=72), like_usual(brightness=0, foreground=0, red=0, blue=0)
    few = [bright] * (FEWEST_CELLS - 1)
    assert check_of(*few, None, black).warning == ""
    assert check_of(*few, None, black, bright).warning


def test_a_bundle_whose_subjects_are_not_known_never_warns() -> None:
    check = ShiftCheck(None)
    for _ in range(FEWEST_CELLS):
        check.add(row(like_usual(brightness=250)))
    assert check.warning == ""


def test_a_service_is_told_when_it_begins_and_when_it_is_over_and_keeps_what_each_window_says() -> None:
    said: list[str] = []
    kept: list[str] = []
    alarm = ShiftAlarm(TYPICAL, said.append, kept.append)
    for appearance, windows in ((USUAL, 2), (like_usual(brightness=72), 3), (USUAL, 2)):
        for _ in range(windows * WINDOW):
            alarm.add(row(appearance))
    assert [line.split(":")[0] for line in said] == ["WARNING", f"the last {WINDOW} cells look as expected again"]
    assert [bool(warning) for warning in kept] == [False] * 2 + [True] * 3 + [False] * 2


@pytest.mark.parametrize("done_before", [0, FEWEST_CELLS - 1], ids=["whole", "cut off before the last cell"])
def test_classify_warns_of_a_run_on_the_screen_and_on_its_page(
    done_before: int,
    cell_file: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bluish cells; the drawn ones stand for photographs, which is enough for that."""
    source = cell_file("cell.png")
    (tmp_path / "cells").mkdir()
    for number in range(FEWEST_CELLS):
        tinted(source, tmp_path / "cells" / f"{number}.png", (0.7, 0.9, 1.3))
    whole = Classifier.classify

    def interrupted(self: Classifier, paths: Iterable[str]) -> Iterator[Prediction]:
        yield from islice(whole(self, paths), done_before)
        raise KeyboardInterrupt

    out, page = tmp_path / "r.csv", tmp_path / "r.html"
    command = [str(tmp_path / "cells"), "--out", str(out), "--html", str(page)]
    if done_before:
        time.sleep(0.05)  # longer than the file system's clock stands still
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "classify", interrupted)
            assert main(command) == INTERRUPTED
    assert main([*command, "--resume"]) == DONE
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert "mean share of blue in the light" in line
    assert f"{FEWEST_CELLS} cells look unlike" in page.read_text(encoding="utf-8")


def test_real_cells_are_usual_as_a_whole_and_a_tint_that_no_single_cell_shows_is_told(
    real_cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = sorted(real_cells.rglob("*.png"))[::29]
    for name, gains in (("as they are", (1.0, 1.0, 1.0)), ("magenta", (1.05, 0.9, 1.05))):
        (tmp_path / name).mkdir()
        cells = [tinted(source, tmp_path / name / f"{index}.bmp", gains) for index, source in enumerate(sources)]
        assert main([*cells, "--out", str(tmp_path / f"{name}.csv")]) == DONE
        warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
        assert len(warnings) == (name == "magenta")
    assert "mean share of green" in warnings[0]
