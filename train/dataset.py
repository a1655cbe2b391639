"""Finds labelled cells: C-NMC folders, a folder for each class, or a CSV table.

The label comes from a name (of the file, the folder or the table), never from an order: sorted folder names would
make ALL the class 0, the opposite of the release.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from runtime.cell_names import EXAMPLE, parse_cell_name
from runtime.cpus import available_cpus
from runtime.errors import DataError
from runtime.files import sha256_of_file
from runtime.inputs import files_below
from runtime.progress import with_progress

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
FOLDER_TO_LABEL = {"all": 1, "hem": 0, "healthy": 0, "normal": 0}
NAME_TO_LABEL = {**FOLDER_TO_LABEL, "1": 1, "0": 0}
CSV_COLUMNS = ("path", "label", "subject")
# The table of the release's preliminary test set, whose images are called 1.bmp, 2.bmp and so on.
PRELIMINARY_COLUMNS = ("Patient_ID", "new_names", "labels")
PRELIMINARY_SUFFIX = "_labels"  # the images are beside the table, or in the folder of the same name without this

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cell:
    """One labelled image file."""

    path: Path
    label: int  # 1 is ALL, 0 is healthy
    subject: str  # empty where it is not known
    sha256: str


class Labelled(Protocol):
    """What has a label, 1 for ALL and 0 for healthy."""

    @property
    def label(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class _Found:
    path: Path
    label: int
    subject: str


def find_cells(data: Path) -> list[Cell]:
    """Find the labelled cells of a folder or a CSV table, sorted by path, with the hash of each file.

    Raises DataError where there are none, where an image has no label or two that contradict each other, and where
    a file cannot be opened. Whether it holds a picture is not checked here.
    """
    if data.suffix.lower() == ".csv":
        found = _from_csv(data)
    elif data.is_dir():
        found = _from_folder(data)
    else:
        raise DataError(f"expected a folder of cells or a .csv table at {data}, found neither; check the path")
    found.sort(key=lambda cell: str(cell.path))
    hashes = in_parallel(_hash, (cell.path for cell in found), total=len(found), title="hashing")
    return [Cell(f.path, f.label, f.subject, sha256) for f, sha256 in zip(found, hashes, strict=True)]


def refuse_one_class(cells: Iterable[Labelled], where: str) -> None:
    """Raise DataError unless both classes are there."""
    count = Counter(cell.label for cell in cells)
    if not (count[0] and count[1]):
        raise DataError(
            f"expected cells of both classes in {where}, found {count[1]} ALL and {count[0]} healthy; "
            "add cells of the missing class"
        )


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], *, total: int, title: str) -> list[Result]:
    """Apply `work` to each item in threads, with a progress bar on a terminal; results in the items' order."""
    with ThreadPoolExecutor(available_cpus()) as pool:
        return list(with_progress(pool.map(work, items), total=total, title=title, unit="cell"))


def _from_folder(folder: Path) -> list[_Found]:
    files = (Path(name) for name in files_below(str(folder)))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    if not images:
        raise DataError(
            f"expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}, found none; check the path"
        )
    return [_labelled_by_name(path, folder) for path in images]


def _labelled_by_name(path: Path, folder: Path) -> _Found:
    named = parse_cell_name(path.stem)
    told = (NAME_TO_LABEL[named.kind] if named else None, _folder_label(path, folder))
    labels = {label for label in told if label is not None}
    if not labels:
        raise DataError(
            f"expected a name like {EXAMPLE}, or a folder named {' or '.join(FOLDER_TO_LABEL)}, "
            f"found {path}; move it or use a .csv table with the columns {','.join(CSV_COLUMNS)}"
        )
    if len(labels) > 1:
        raise DataError(
            f"expected the label in a cell's name to agree with its folder, found {path}; correct the one that is wrong"
        )
    [label] = labels
    return _Found(path, label, named.subject if named else "")


def _folder_label(path: Path, folder: Path) -> int | None:
    """Return the label of the folders between `folder` and the file that are named like a class, None without one."""
    inside = path.parent.relative_to(folder).parts
    labels = {FOLDER_TO_LABEL[name.lower()] for name in inside if name.lower() in FOLDER_TO_LABEL}
    if len(labels) > 1:
        raise DataError(f"expected one class among the folders of a cell, found two in {path}; move it")
    return labels.pop() if labels else None


def _from_csv(table: Path) -> list[_Found]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            read = _from_preliminary_row if set(PRELIMINARY_COLUMNS) <= set(columns) else _from_row
            missing = [column for column in CSV_COLUMNS if column not in columns]
            if missing and read is _from_row:
                raise DataError(
                    f"expected the columns {','.join(CSV_COLUMNS)} in {table}, missing {','.join(missing)} "
                    f"among {','.join(columns)}; add them, separated by commas (subject may stay empty)"
                )
            found = [read(row, table, reader.line_num) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"expected a CSV table in UTF-8 at {table}, found: {error}; check the file") from error
    if not found:
        raise DataError(f"expected a row for each cell in {table}, found none; add rows below the header")
    return found


def _from_row(row: dict[str, str | None], table: Path, line: int) -> _Found:
    path = table.parent / (row["path"] or "")
    label = _label_of_row(row["label"], path.stem, table, line)
    if path.is_relative_to(table.parent) and _folder_label(path, table.parent) not in (None, label):
        raise DataError(
            f"expected the label in line {line} of {table} to agree with the cell's folder, "
            f"found {row['label']!r} for {path}; correct the one that is wrong"
        )
    return _Found(_existing([path], table, line), label, (row["subject"] or "").strip().upper())


def _from_preliminary_row(row: dict[str, str | None], table: Path, line: int) -> _Found:
    name, original = row["new_names"] or "", Path(row["Patient_ID"] or "").stem
    label = _label_of_row(row["labels"], original, table, line)
    folder = table.with_name(table.stem.removesuffix(PRELIMINARY_SUFFIX))
    named = parse_cell_name(original)
    return _Found(_existing([table.parent / name, folder / name], table, line), label, named.subject if named else "")


def _label_of_row(text: str | None, name: str, table: Path, line: int) -> int:
    """Return the label that `text` stands for; raise DataError where it is none, or not that of the cell's name."""
    label = NAME_TO_LABEL.get((text or "").strip().lower())
    if label is None:
        raise DataError(
            f"expected one of the labels {', '.join(NAME_TO_LABEL)} in line {line} of {table}, found {text!r}; "
            "correct it"
        )
    named = parse_cell_name(name)
    if named and NAME_TO_LABEL[named.kind] != label:
        raise DataError(
            f"expected the label in line {line} of {table} to agree with the cell's name, "
            f"found {text!r} for {name}; correct the one that is wrong"
        )
    return label


def _existing(candidates: list[Path], table: Path, line: int) -> Path:
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f"expected an image at {' or '.join(map(str, candidates))} (line {line} of {table}), found none; "
        "paths are relative to the table"
    )


def _hash(path: Path) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise DataError(
            f"expected a file that can be read at {path}, found: {error.strerror}; make it readable"
        ) from error


def refuse_contradictions(cells: Iterable[Cell], unreadable: Container[str]) -> None:
    """Raise DataError where identical files have two labels; files without a picture, such as empty ones, may."""
    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.sha256 in unreadable:
            continue
        same = first.setdefault(cell.sha256, cell)
        if same.label != cell.label:
            raise DataError(
                f"expected one label for identical files, found two: {same.path} and {cell.path}; "
                "remove or relabel one of them"
            )
