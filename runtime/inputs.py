"""Finds the files that the user names: single files, and folders with their sub-folders."""

from __future__ import annotations

import codecs
import fnmatch
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

from runtime.errors import UsageError, reason_of
from runtime.outcomes import nouns

# Files that lie beside images without being meant as one. Everything else in a folder gets a row: a cell in a
# format that is not known must show up as an error, not be passed over in silence.
MAP_SUFFIX = ".map.png"  # of the pictures of --explain
COMPANION_SUFFIXES = (
    ".csv",
    ".db",
    ".html",
    ".ini",
    ".json",
    ".jsonl",
    ".lock",
    ".md",
    ".parquet",
    ".partial",
    ".sqlite",
    MAP_SUFFIX,
)

# Names that programs give a file while they copy it; a watched file is classified once it has been renamed.
UNFINISHED_COPY_SUFFIXES = (".crdownload", ".filepart", ".part", ".tmp")

STANDARD_INPUT = "-"
SEPARATOR = "[/\\\\]" if os.sep == "\\" else "/"  # of a pattern, as a regular expression

Item = TypeVar("Item")
Found = tuple[str, bool]  # a file, and whether it is wanted


@dataclass(frozen=True)
class Inputs:
    """The paths to classify, in order and each file once, and what to report about the others."""

    paths: tuple[str, ...]
    left_out: int  # files of the folders: hidden, companion or not of the wanted names
    repeated: int = 0  # paths to files that were given already, as by a folder and then one of its sub-folders
    empty: tuple[str, ...] = ()  # what was named or listed and gave no path


def find_inputs(names: Sequence[str], listed: Sequence[str] = (), include: Sequence[str] = ()) -> Inputs:
    """List named files as they are given, and folders recursively in the order of their names, each file once.

    Args:
        names: Files, folders, and patterns such as `cells/*.bmp` or `cells/**/*_1_*.png`.
        listed: Files and folders of a list; one that does not exist is kept, and costs its own row.
        include: Of the files in folders, only those whose name matches one of these patterns; none: all.

    Raises UsageError for a name that does not exist and where nothing is found at all.
    """
    place_to_path: dict[str, str] = {}
    left_out: set[str] = set()
    empty: list[str] = []
    given = 0
    real_folder = cache(os.path.realpath)
    for name, founds in _each_name(names, listed, include):
        before = given
        for path, wanted in founds:
            place = _place(path, real_folder)
            if wanted:
                given += 1
                place_to_path.setdefault(place, path)
            else:
                left_out.add(place)
        if given == before:
            empty.append(name)
    if not given:
        raise nothing_found((*names, *listed[:3]), include)
    paths = tuple(place_to_path.values())
    return Inputs(paths, len(left_out - place_to_path.keys()), given - len(paths), tuple(empty))


def nothing_found(names: Sequence[str], include: Sequence[str]) -> UsageError:
    """Return the error for names, none of which gave a file."""
    return UsageError(
        f"expected images in {', '.join(names) or 'the list'}, found none"
        + (f" whose name matches {' or '.join(include)}" if include else "")
        + "; name a folder that holds image files"
    )


def left_out_text(files: int, include: Sequence[str]) -> str:
    """Say how many files of the folders were left out, and why."""
    filtered = ", or not of the names in --include" if include else ""
    return f"left out {files} {nouns(files, 'file')} of the folders: hidden, beside images (such as .csv){filtered}"


def _each_name(
    names: Sequence[str], listed: Sequence[str], include: Sequence[str]
) -> Iterator[tuple[str, Iterable[Found]]]:
    for name in names:
        yield name, files_of_name(name, include)
    for name in listed:
        yield name, _files_of(name, include)


def read_list(file: str) -> list[str]:
    """Return the paths of a list, one in each line, "-" for standard input; empty lines do not count.

    A path may hold bytes that are not text. Raises UsageError where the list cannot be read.
    """
    content = _list_content(file)
    if b"\0" in content:
        raise UsageError(
            f"expected paths in UTF-8, one in each line, at {file}, found null characters, as in UTF-16 (of > in "
            "Windows PowerShell) or of find -print0; write lines of UTF-8"
        )
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip()]


def _list_content(file: str) -> bytes:
    try:
        if file != STANDARD_INPUT:
            return Path(file).read_bytes()
        if sys.stdin is None:
            raise ValueError("standard input is closed")
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        raise UsageError(f"expected a list of paths that can be read at {file}, found: {reason_of(error)}") from error


def files_of_name(name: str, include: Sequence[str]) -> Iterable[Found]:
    """Find the files of a name that exists, or of what it stands for as a pattern, one folder at a time.

    Raises UsageError where it stands for nothing.
    """
    if os.path.lexists(name):
        return _files_of(name, include)
    matches = _matches(name) if glob.has_magic(name) else set()
    if not matches:
        raise UsageError(
            f"expected an image or a folder of images at {name}, found {_what_is_there(name)}; check the path"
        )
    # Files first: a file that the pattern itself names is wanted even if a folder that it also names would leave it
    # out. Maps are the exception: a pattern for PNG cells does not mean the pictures drawn of them.
    founds = _each_once(_files_of(match, include) for match in sorted(matches, key=_folders_last))
    return ((path, wanted and not path.lower().endswith(MAP_SUFFIX)) for path, wanted in founds)


def _what_is_there(name: str) -> str:
    """Say why a file is not found."""
    try:
        os.lstat(name)
    except PermissionError:
        return "no permission to look there"
    except (OSError, ValueError):
        pass
    return "nothing"


def _folders_last(name: str) -> tuple[bool, str]:
    return os.path.isdir(name), name  # noqa: PTH112


def _each_once(founds: Iterable[Iterable[Found]]) -> Iterator[Found]:
    """Join findings: a pattern may match a folder, what it holds, and links to it."""
    real_folder = cache(os.path.realpath)
    seen: set[str] = set()
    for path, wanted in chain.from_iterable(founds):
        place = _place(path, real_folder)
        if place not in seen:
            seen.add(place)
            yield path, wanted


def _place(path: str, real_folder: Callable[[str], str]) -> str:
    """Return what two paths to one file have in common, however links lead to its folder."""
    parent, name = os.path.split(path)
    return os.path.join(real_folder(parent), name)  # noqa: PTH118


def _matches(pattern: str) -> set[str]:
    """Return what matches a pattern, in which ** stands for a folder and all below it.

    The glob module would follow a link that leads back up until the path is too long; with a second one, for ever.
    """
    any_folders = re.search(rf"(?:^|(?<={SEPARATOR}))\*\*(?:{SEPARATOR}|$)", pattern)
    if not any_folders:
        return set(glob.glob(pattern))  # noqa: PTH207
    above, below = pattern[: any_folders.start()], pattern[any_folders.end() :]
    folders = glob.glob(above or os.curdir + os.sep)  # noqa: PTH207
    if not below:
        return set(folders)
    return {
        match.removeprefix(os.curdir + os.sep) if not above else match
        for folder in folders
        for parent, _ in walk_folder(folder)
        if not is_hidden(parent[len(folder) :])
        for match in _matches(os.path.join(glob.escape(parent), below))  # noqa: PTH118
    }


def _files_of(name: str, include: Sequence[str]) -> Iterable[Found]:
    """Find a file, or the files of a folder; a file that is named is wanted in any case."""
    if not os.path.isdir(name):  # noqa: PTH112  strings: a million Path objects cost a gigabyte
        return [(name, True)]
    return ((path, is_wanted(path, name, include)) for path in _each_below(name))


def is_wanted(path: str, folder: str, include: Sequence[str]) -> bool:
    """Say whether a file of a named folder is neither hidden nor a companion, and of one of the names, if any."""
    name = os.path.basename(path)  # noqa: PTH119
    return not is_companion(path[len(folder) :]) and (
        not include or any(fnmatch.fnmatch(name, pattern) for pattern in include)
    )


def is_companion(path: str) -> bool:
    """Say whether a file, by its path inside a named folder, is hidden or of a kind that lies beside images."""
    return is_hidden(path) or path.lower().endswith(COMPANION_SUFFIXES)


def is_not_yet_a_cell(path: str) -> bool:
    """Say whether a file of a watched folder, by its path inside it, is a companion or a copy that is not finished."""
    return is_companion(path) or path.lower().endswith(UNFINISHED_COPY_SUFFIXES)


def is_hidden(path: str) -> bool:
    """Say whether a file or folder, by its path inside a named folder, is hidden or lies in a hidden folder."""
    return any(name.startswith(".") for name in Path(path).parts)


def files_below(folder: str) -> list[str]:
    """List the files of a folder and its sub-folders, sorted folder by folder; each folder once, links followed.

    Raises UsageError where a folder cannot be read.
    """
    return [*_each_below(folder)]


def _each_below(folder: str) -> Iterator[str]:
    return (os.path.join(parent, file) for parent, files in walk_folder(folder) for file in sorted(files))  # noqa: PTH118


def walk_folder(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and its sub-folders with the names of their files; each folder once, links followed.

    Raises UsageError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UsageError(f"expected a folder that can be read at {error.filename}, found: {error.strerror}")

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link leads back to where we were
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield parent, files


def spread_over(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` of the items, evenly spread over them."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]
