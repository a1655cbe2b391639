from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.cell_names import printable
from runtime.classify import main
from runtime.command_line import DONE, PARTLY_DONE
from runtime.errors import OutputError, UsageError
from runtime.groups import GroupCounts, groups_path, wilson_interval
from runtime.schema import Prediction

CellFile = Callable[[str], Path]


def row(path: str, label: str = "ALL", status: str = "ok") -> Prediction:
    p_all = {"ALL": 0.9, "healthy": 0.1, "": None}[label]
    return Prediction(path, label, p_all, status, "", 0.001)


def counted(by: str, *rows: Prediction, min_cells: int = 1) -> GroupCounts:
    groups = GroupCounts(by, min_cells)
    for each in rows:
        groups.add(each)
    return groups


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.DictReader(stream))


# The Wilson intervals in table I of R. G. Newcombe: Two-sided confidence intervals for the single proportion:
# comparison of seven methods. Statistics in Medicine 17 (1998), 857-872.
PUBLISHED = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("count", "total", "low", "high"), PUBLISHED)
def test_the_interval_is_the_published_one(count: int, total: int, low: float, high: float) -> None:
    found = wilson_interval(count, total)
    assert found.value == count / total
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


@pytest.mark.parametrize("total", [1, 3, 20, 7919, 10**9])
def test_none_and_all_of_n_end_exactly_at_0_and_1_and_mirror_each_other(total: int) -> None:
    none, every = wilson_interval(0, total), wilson_interval(total, total)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(1 - every.low)
    assert 0.0 < none.high < 1.0


@pytest.mark.parametrize(("count", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_a_share_of_nothing_is_refused(count: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"received {count} of {total}"):
        wilson_interval(count, total)


def test_a_cell_under_review_counts_as_labelled_and_an_error_is_no_cell() -> None:
    names = [f"UID_7_{number}_1_all.bmp" for number in range(4)]
    rows = [row(names[0]), row(names[1], "ALL", "review"), row(names[2], "healthy"), row(names[3], "", "error")]
    group = counted("subject", *rows).groups["7"]
    assert (group.cells, group.leukemic, group.review, group.errors) == (3, 2, 1, 1)


def test_subjects_are_read_in_any_case_and_from_any_folder() -> None:
    names = ["UID_H3_1_1_hem.bmp", "x/uid_h3_2_1_HEM.PNG", "DRAWN_11_1_1_all.png", "UID_11_5_1_all (1).bmp", "11.bmp"]
    groups = counted("subject", *map(row, names)).groups
    assert {name: group.cells for name, group in groups.items()} == {"11": 2, "H3": 2, "": 1}


def test_folders_are_told_apart_by_their_whole_path() -> None:
    groups = counted("folder", row("a/all/1.bmp"), row("a//all/2.bmp"), row("b/all/1.bmp"), row("1.bmp")).groups
    assert {name: group.cells for name, group in groups.items()} == {".": 1, "a/all": 2, "b/all": 1}


def test_groups_stand_in_the_order_in_which_people_count() -> None:
    names = [f"UID_{subject}_1_1_all.bmp" for subject in ("H10", "10", "H2", "9", "07", "7")]
    assert list(counted("subject", row("unknown.bmp"), *map(row, names)).groups) == [
        *("07", "7", "9", "10", "H2", "H10"),
        "",
    ]


def test_no_share_is_claimed_of_too_few_cells_or_of_an_unknown_subject() -> None:
    rows = [row(f"UID_{subject}_{n}_1_all.bmp") for subject, count in (("1", 2), ("2", 3)) for n in range(count)]
    groups = counted("subject", *rows, *(row(f"{n}.bmp") for n in range(5)), min_cells=3)
    assert {name: (groups.status(name), groups.share(name) is None) for name in groups.groups} == {
        "1": ("insufficient", True),
        "2": ("ok", False),
        "": ("unknown", True),
    }
    assert groups.notes()[1:] == [
        "insufficient: fewer than 3 cells (--min-cells), so no share is claimed.",
        "(unknown): 5 files without a subject in the name, as UID_11_2_3_all.bmp has.",
    ]


def test_a_group_of_errors_alone_has_no_share_even_without_a_minimum() -> None:
    groups = counted("subject", row("UID_1_1_1_all.bmp", "", "error"))
    assert (groups.status("1"), groups.share("1")) == ("insufficient", None)


def test_what_is_kept_does_not_grow_with_the_rows() -> None:
    rows = [row(f"UID_{number % 3}_{number}_1_all.bmp") for number in range(3000)]
    few, many = (len(pickle.dumps(counted("subject", *rows[:count]))) for count in (300, 3000))
    assert many < few + 100, "bytes; larger numbers take a few more"


def test_the_file_keeps_odd_folder_names_and_the_screen_shows_them_harmlessly(tmp_path: Path) -> None:
    names = ['comma, "quote"', "line\nbreak", "carriage\rreturn", "\x1b[31mred", "\u202egpj", os.fsdecode(b"\xff")]
    groups = counted("folder", *(row(f"{name}/1.bmp") for name in names))
    groups.write(tmp_path / "r.folders.csv")
    assert {each["group"] for each in csv_rows(tmp_path / "r.folders.csv")} == set(names)
    assert all(str(each["folder"]).isprintable() for each in groups.table())
    assert printable("ü \u202e\n") == r"ü \u202e\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".CSV"])
def test_the_roll_up_stands_beside_the_results(suffix: str) -> None:
    assert groups_path(Path(f"a/r.1{suffix}"), "folder") == Path("a/r.1.folders.csv")


def test_classify_writes_and_prints_the_roll_up(
    cell_file: CellFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("UID_H2_1_1_hem.bmp", "uid_h2_2_1_hem.bmp", "other.bmp"):
        cell_file(f"cells/{name}")
    (tmp_path / "cells" / "UID_H2_3_1_hem.bmp").write_bytes(b"")
    command = [str(tmp_path / "cells"), "--threshold", "0", "--group-by", "subject", "--min-cells", "2"]
    assert main([*command, "--out", str(tmp_path / "r.csv")]) == PARTLY_DONE
    assert csv_rows(tmp_path / "r.subjects.csv") == [
        {
            "group": "H2",
            "cells": "2",
            "all": "2",
            "share_all": "1.000000",
            "share_low": "0.342380",
            "share_high": "1.000000",
            "review": "2",
            "error": "1",
            "status": "ok",
        },
        {
            "group": "",
            "cells": "1",
            "all": "1",
            "share_all": "",
            "share_low": "",
            "share_high": "",
            "review": "1",
            "error": "0",
            "status": "unknown",
        },
    ]
    said = capsys.readouterr().err.splitlines()
    assert ["H2", "2", "2", "100.0%", "34.2%", "to", "100.0%", "2", "1"] in [line.split() for line in said]
    assert "(unknown): 1 file without a subject in the name, as UID_11_2_3_all.bmp has." in said
    assert f"Roll-up: {tmp_path / 'r.subjects.csv'}" in said


def test_without_a_results_file_the_table_goes_to_standard_error_alone(
    cell_file: CellFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cell_file("UID_1_1_1_all.bmp")
    assert main([str(before), "--group-by", "folder"]) == DONE
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert "share ALL" in said.err
    assert list(tmp_path.iterdir()) == [before]


def test_a_place_that_is_taken_is_refused_before_anything_is_classified(cell_file: CellFile, tmp_path: Path) -> None:
    (tmp_path / "r.subjects.csv").mkdir()
    with pytest.raises(OutputError, match=r"found the folder .*r\.subjects\.csv"):
        main([str(cell_file("cell.bmp")), "--group-by", "subject", "--out", str(tmp_path / "r.csv")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.bmp", "r.subjects.csv"]


def test_a_minimum_without_groups_is_refused() -> None:
    with pytest.raises(UsageError, match="expected --group-by with --min-cells"):
        main(["--demo", "--min-cells", "3"])
