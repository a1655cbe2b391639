"""Finds the files that the user names: single files, and folders with their sub-folders."""

from __future__ import annotations

import fnmatch
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runtime.errors import UsageError

# Files that lie beside images without being meant as one. Everything else in a folder gets a row: a cell in a
# format that is not known must show up as an error, not be passed over in silence.
COMPANION_SUFFIXES = (".csv", ".db", ".html", ".json", ".jsonl", ".md", ".partial", ".sqlite", ".ini")

STANDARD_INPUT = "-"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Inputs:
    """The paths to classify, in order, and how many files of the folders were left out."""

    paths: tuple[str, ...]
    left_out: int  # hidden, companion or not of the wanted names


def find_inputs(names: Sequence[str], listed: Sequence[str] = (), include: Sequence[str] = ()) -> Inputs:
    """List named files as they are given, and folders recursively in the order of their names.

    Args:
        names: Files, folders, and patterns such as `cells/*.bmp` or `cells/**/*_1_*.png`.
        listed: Files and folders of a list; one that does not exist is kept, and costs its own row.
        include: Of the files in folders, only those whose name matches one of these patterns; none: all.

    Raises UsageError for a name that does not exist and where nothing is found at all.
    """
    paths: list[str] = []
    left_out = 0
    for name in (*_existing(names), *listed):
        if not os.path.isdir(name):  # noqa: PTH112  strings: a million Path objects cost a gigabyte
            paths.append(name)
            continue
        found = files_below(name)
        wanted = [path for path in found if _is_wanted(path, name, include)]
        paths.extend(wanted)
        left_out += len(found) - len(wanted)
    if not paths:
        raise UsageError(
            f"expected images in {', '.join((*names, *listed[:3])) or 'the list'}, found none"
            + (f" whose name matches {' or '.join(include)}" if include else "")
            + "; name a folder that holds image files"
        )
    return Inputs(tuple(paths), left_out)


def read_list(file: str) -> list[str]:
    """Return the paths of a list, one in each line, "-" for standard input; empty lines do not count.

    A path may hold bytes that are no text. Raises UsageError where the list cannot be read.
    """
    try:
        content = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: standard input is closed
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"expected a list of paths that can be read at {file}, found: {reason}") from error
    return [os.fsdecode(line.rstrip(b"\r")) for line in content.split(b"\n") if line.strip()]


def _existing(names: Sequence[str]) -> Iterator[str]:
    """Yield the names that exist, and what the patterns among the others stand for."""
    for name in names:
        if os.path.lexists(name):
            yield name
            continue
        found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []  # noqa: PTH207
        if not found:
            raise UsageError(f"expected an image or a folder of images at {name}, found nothing; check the path")
        yield from found


def _is_wanted(path: str, folder: str, include: Sequence[str]) -> bool:
    name = os.path.basename(path)  # noqa: PTH119
    return not is_companion(path[len(folder) :]) and (
        not include or any(fnmatch.fnmatch(name, pattern) for pattern in include)
    )


def is_companion(path: str) -> bool:
    """Say whether a file, by its path inside a named folder, is hidden or of a kind that lies beside images."""
    is_hidden = any(name.startswith(".") for name in Path(path).parts)
    return is_hidden or path.lower().endswith(COMPANION_SUFFIXES)


def files_below(folder: str) -> list[str]:
    """List the files of a folder and its sub-folders, sorted folder by folder; each folder once, links followed.

    Raises UsageError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UsageError(f"expected a folder that can be read at {error.filename}, found: {error.strerror}")

    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link leads back to where we were
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found.extend(os.path.join(parent, file) for file in sorted(files))  # noqa: PTH118
    return found


def spread_over(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` of the items, evenly spread over them."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]
