"""Finds the files that the user names: single files, and folders with their sub-folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runtime.errors import UsageError

# Files that lie beside images without being meant as one. Everything else in a folder gets a row: a cell in a
# format that is not known must show up as an error, not be passed over in silence.
COMPANION_SUFFIXES = (".csv", ".db", ".html", ".json", ".jsonl", ".md", ".partial", ".sqlite", ".ini")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Inputs:
    """The paths to classify, in order, and how many companion files of the folders were left out."""

    paths: tuple[str, ...]
    left_out: int


def find_inputs(names: list[str]) -> Inputs:
    """List named files as they are given, and folders recursively in the order of their names.

    Raises UsageError for a name that does not exist and where nothing is found at all.
    """
    paths: list[str] = []
    left_out = 0
    for name in names:
        if not os.path.lexists(name):
            raise UsageError(f"expected an image or a folder of images at {name}, found nothing; check the path")
        if not os.path.isdir(name):  # noqa: PTH112  strings: a million Path objects cost a gigabyte
            paths.append(name)
            continue
        found = files_below(name)
        wanted = [path for path in found if not is_companion(path[len(name) :])]
        paths.extend(wanted)
        left_out += len(found) - len(wanted)
    if not paths:
        raise UsageError(f"expected images in {', '.join(names)}, found none; name a folder that holds image files")
    return Inputs(tuple(paths), left_out)


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
