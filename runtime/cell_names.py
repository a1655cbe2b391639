"""What the name of a cell's file says, and how any file's name is shown; standard library only."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

# C-NMC 2019: UID_<subject>_<image>_<cell>_all.bmp, UID_H<subject>_..._hem.bmp, in upper or lower case.
# DRAWN_ stands for UID_ in the names of drawn cells.
# What follows, such as the " (1)" of a copy, changes nothing.
CELL_NAME = re.compile(r"(?:UID|DRAWN)_(?P<subject>H?\d+)_\d+_\d+_(?P<class>all|hem)(?![a-z0-9])", re.IGNORECASE)
EXAMPLE = "UID_11_2_3_all.bmp"


@dataclass(frozen=True)
class CellName:
    """What is written in the name of a C-NMC cell."""

    subject: str  # such as "11" or "H10", in upper case
    kind: str  # "all" or "hem"


def parse_cell_name(name: str) -> CellName | None:
    """Read a file's name, with or without its suffix; None where it is not one of the release's."""
    found = CELL_NAME.match(name)
    return CellName(found["subject"].upper(), found["class"].lower()) if found else None


def printable(name: str) -> str:
    """Return a name as one line in which nothing hides.

    Line breaks, control characters that a terminal obeys, marks that reverse the writing and bytes that are not text
    become escapes, as Python writes them.
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def shell_word(path: os.PathLike[str] | str) -> str:
    """Return a path as a shell takes it for one word, to be pasted into a command line."""
    return f'"{path}"' if os.name == "nt" else shlex.quote(str(path))
