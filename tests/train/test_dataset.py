from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from runtime.errors import DataError
from train.dataset import find_cells, in_parallel, refuse_contradictions, refuse_one_class


def write(folder: Path, *names: str) -> None:
    """Write files whose content is their name; whether it is a picture is not this module's business."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def labels(data: Path) -> dict[str, tuple[int, str]]:
    return {cell.path.name: (cell.label, cell.subject) for cell in find_cells(data)}


def test_the_release_is_labelled_by_names_in_any_case(tmp_path: Path) -> None:
    write(
        tmp_path,
        "fold_0/all/UID_11_10_1_all.bmp",
        "fold_0/hem/UID_H12_5_1_hem.bmp",
        "fold_1/ALL/uid_7_1_2_ALL.BMP",
        "fold_2/hem/UID_h3_22_1_hem.png",
    )
    assert labels(tmp_path) == {
        "UID_11_10_1_all.bmp": (1, "11"),
        "UID_H12_5_1_hem.bmp": (0, "H12"),
        "uid_7_1_2_ALL.BMP": (1, "7"),
        "UID_h3_22_1_hem.png": (0, "H3"),
    }


def test_a_folder_for_each_class_labels_what_lies_below(tmp_path: Path) -> None:
    write(tmp_path, "ALL/a.png", "Healthy/deep/b.jpg", "hem/c.tiff")
    assert labels(tmp_path) == {"a.png": (1, ""), "b.jpg": (0, ""), "c.tiff": (0, "")}


def test_a_table_names_paths_labels_and_subjects(tmp_path: Path) -> None:
    write(tmp_path, "x/a.png", "b.png", "c.png")
    table = tmp_path / "cells.csv"
    table.write_text("subject,path,label,note\np1,x/a.png,ALL,\n,b.png,0,hm\nh2,c.png,healthy,\n")
    assert labels(table) == {"a.png": (1, "P1"), "b.png": (0, ""), "c.png": (0, "H2")}


def test_the_data_folders_own_name_is_no_label(tmp_path: Path) -> None:
    write(tmp_path / "ALL", "healthy/a.png", "unsure/b.png")
    with pytest.raises(DataError, match=r"found .*unsure/b\.png"):
        find_cells(tmp_path / "ALL")


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "data/all/a.png", "elsewhere/hem/b.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "all" / "loop").symlink_to(tmp_path / "data")
    assert set(labels(tmp_path / "data")) == {"a.png", "b.png"}


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "all/a.png", "hem/b.png", "hem/notes.txt", "hem/._b.png", "labels.csv")
    assert set(labels(tmp_path)) == {"a.png", "b.png"}


BAD_FOLDERS = {
    "empty": ([], r"expected images \(.*\) below .*, found none; check the path"),
    "no label": (
        ["cells/a.png"],
        r"expected a name like UID_11_2_3_all\.bmp, or a folder named all or hem or healthy or normal",
    ),
    "contradiction": (["all/UID_H1_2_3_hem.bmp"], "expected the label in a cell's name to agree with its folder"),
    "other class names": (["blast/a.png", "lymphocyte/b.png"], "expected a name like"),
    "two classes": (["all/normal/a.png"], "expected one class among the folders of a cell, found two"),
}


@pytest.mark.parametrize(("names", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_a_folder_that_cannot_be_labelled_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_cells(tmp_path)


BAD_TABLES = {
    "missing column": ("path,label\na.png,1\n", "missing subject"),
    "no rows": ("path,label,subject\n", "expected a row for each cell"),
    "no file": ("path,label,subject\nnone.png,1,\n", r"expected an image at .*none\.png \(line 2 of .*\), found none"),
    "strange label": ("path,label,subject\na.png,2,\n", "expected one of the labels .* in line 2 of .*, found '2'"),
    "short row": ("path,label,subject\na.png\n", "expected one of the labels .* found None"),
    "contradiction": ("path,label,subject\nUID_1_2_3_all.bmp,0,\n", "to agree with the cell's name"),
    "nothing": ("", "missing path,label,subject"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_a_table_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png", "UID_1_2_3_all.bmp")
    (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        find_cells(tmp_path / "cells.csv")


def test_identical_files_with_two_labels_are_refused_where_they_hold_a_picture(tmp_path: Path) -> None:
    write(tmp_path, "all/a.png", "hem/b.png")
    (tmp_path / "hem" / "b.png").write_text("all/a.png")
    cells = find_cells(tmp_path)
    with pytest.raises(DataError, match="expected one label for identical files, found two"):
        refuse_contradictions(cells, unreadable=[])
    refuse_contradictions(cells, unreadable=[cells[0].sha256])


def test_a_copy_that_a_file_manager_named_keeps_its_label(tmp_path: Path) -> None:
    write(tmp_path, "UID_11_2_3_all (1).bmp", "UID_H1_2_3_hem - Copy.bmp")
    assert labels(tmp_path) == {"UID_11_2_3_all (1).bmp": (1, "11"), "UID_H1_2_3_hem - Copy.bmp": (0, "H1")}
    write(tmp_path, "hem/UID_11_2_3_all (1).bmp")
    with pytest.raises(DataError, match="expected the label in a cell's name to agree with its folder"):
        find_cells(tmp_path)


def test_a_table_that_contradicts_the_folder_of_its_cell_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "hem/a.png")
    (tmp_path / "cells.csv").write_text("path,label,subject\nhem/a.png,1,\n")
    with pytest.raises(
        DataError, match=r"expected the label in line 2 of .* to agree with the cell's folder, found '1'"
    ):
        find_cells(tmp_path / "cells.csv")


PRELIMINARY = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H19_22_2_hem.bmp,2.bmp,0\n"


@pytest.mark.parametrize("folder", [".", "C-NMC_test_prelim_phase_data"])
def test_the_preliminary_test_set_is_read_through_its_table(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder, "1.bmp", "2.bmp")
    table = tmp_path / "C-NMC_test_prelim_phase_data_labels.csv"
    table.write_text(PRELIMINARY)
    assert labels(table) == {"1.bmp": (1, "57"), "2.bmp": (0, "H19")}


def test_a_preliminary_label_that_contradicts_the_original_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "1.bmp", "2.bmp")
    (tmp_path / "x_labels.csv").write_text(PRELIMINARY.replace("2.bmp,0", "2.bmp,1"))
    with pytest.raises(DataError, match=r"line 3 of .* found '1' for UID_H19_22_2_hem"):
        find_cells(tmp_path / "x_labels.csv")


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a folder of cells or a \.csv table"):
        find_cells(tmp_path / "none")


def test_one_class_is_refused_with_both_counts(tmp_path: Path) -> None:
    write(tmp_path, "all/a.png", "all/b.png")
    with pytest.raises(DataError, match="found 2 ALL and 0 healthy"):
        refuse_one_class(find_cells(tmp_path), "the data")


def test_the_real_cells_are_those_of_the_readme(real_cells: Path) -> None:
    cells = find_cells(real_cells / "C-NMC_training_data")
    assert len(cells) == 2860
    assert sum(cell.label for cell in cells) == 1934
    assert {cell.subject for cell in cells if cell.label == 0} == {"H10", "H14", "H22"}
    assert len({cell.sha256 for cell in cells}) == 2860


def test_as_many_threads_work_as_this_process_may_use_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    together = threading.Barrier(3, timeout=10)
    assert sorted(in_parallel(lambda _: together.wait(), range(3), total=3, title="waiting")) == [0, 1, 2]
