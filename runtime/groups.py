"""Rolls predictions up by subject or folder: how many cells, which share of them ALL, how sure that share is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from statistics import NormalDist
from typing import Any

from runtime.cell_names import EXAMPLE, parse_cell_name, printable
from runtime.files import output_place, write_csv_aside
from runtime.outcomes import Outcomes, nouns
from runtime.schema import Interval, Prediction

CONFIDENCE = 0.95
# The interval of half the cells among 20 reaches from 0.30 to 0.70. With fewer it leaves most shares open, and a number
# would still be read as a finding.
DEFAULT_MIN_CELLS = 20
UNKNOWN = ""  # the group of the files whose names tell no subject
COLUMNS = ("group", "cells", "all", "share_all", "share_low", "share_high", "review", "error", "status")


def subject_of(path: str) -> str:
    """Return the subject that a C-NMC file name tells, in upper case; UNKNOWN where it tells none."""
    named = parse_cell_name(PurePath(path).name)
    return named.subject if named else UNKNOWN


def folder_of(path: str) -> str:
    """Return the folder that a file lies in, as the path has it; "." where it has none."""
    return str(PurePath(path).parent)


GROUPINGS: Mapping[str, Callable[[str], str]] = {"subject": subject_of, "folder": folder_of}


class GroupCounts:
    """Predictions counted by group; memory grows with the groups alone.

    A share is claimed of a group with enough cells, and of no group whose subject is not known: it may mix several.
    Its interval tells what so few cells leave open, not how often the model is wrong.
    """

    def __init__(self, by: str, min_cells: int = DEFAULT_MIN_CELLS) -> None:
        """Group by a key of GROUPINGS; a group of fewer than `min_cells` cells is insufficient."""
        self.by = by
        self.min_cells = min_cells
        self._group_of = GROUPINGS[by]
        self._groups: dict[str, Outcomes] = {}

    def add(self, prediction: Prediction) -> None:
        """Count one file in its group."""
        self._groups.setdefault(self._group_of(prediction.path), Outcomes()).add(prediction)

    @property
    def groups(self) -> dict[str, Outcomes]:
        """The groups by name, in natural order: 2 before 10; the unknown one comes last."""
        return dict(sorted(self._groups.items(), key=lambda item: (item[0] == UNKNOWN, _natural(item[0]))))

    def status(self, name: str) -> str:
        """Say whether a share is claimed of a group: "ok", "insufficient" or "unknown"."""
        if name == UNKNOWN:
            return "unknown"
        return "ok" if self._groups[name].cells >= self.min_cells else "insufficient"

    def share(self, name: str) -> Interval | None:
        """Return the share of ALL among a group's cells, None where none is claimed."""
        group = self._groups[name]
        return wilson_interval(group.leukemic, group.cells) if self.status(name) == "ok" else None

    def table(self) -> list[dict[str, Any]]:
        """Return the roll-up for people, a row for each group."""
        return [self._table_row(name, group) for name, group in self.groups.items()]

    def _table_row(self, name: str, group: Outcomes) -> dict[str, Any]:
        share = self.share(name)
        return {
            self.by: printable(name) or "(unknown)",
            "cells": group.cells,
            "ALL": group.leukemic,
            "share ALL": f"{share.value:.1%}" if share else self.status(name),
            "95 % interval": f"{share.low:.1%} to {share.high:.1%}" if share else "",
            "review": group.review,
            "not readable": group.errors,
        }

    def notes(self) -> list[str]:
        """Return what must be said beside the table, a sentence each."""
        notes = ["Intervals (Wilson) tell what so many cells leave open, not how often the model is wrong."]
        if any(self.status(name) == "insufficient" for name in self._groups):
            notes.append(f"insufficient: fewer than {self.min_cells} cells (--min-cells), so no share is claimed.")
        if unknown := self._groups.get(UNKNOWN):
            files = nouns(unknown.rows, "file")
            notes.append(f"(unknown): {unknown.rows} {files} without a subject in the name, as {EXAMPLE} has.")
        return notes

    def write(self, path: Path) -> None:
        """Write the roll-up as CSV, whole or not at all; raise OutputError where it cannot be written."""
        write_csv_aside(
            output_place(path), COLUMNS, (self._csv_row(name, group) for name, group in self.groups.items())
        )

    def _csv_row(self, name: str, group: Outcomes) -> tuple[object, ...]:
        share = self.share(name)
        limits = (share.value, share.low, share.high) if share else ()
        shares = [f"{value:.6f}" for value in limits] or [""] * 3
        return (name, group.cells, group.leukemic, *shares, group.review, group.errors, self.status(name))


def wilson_interval(count: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the share `count` / `total` with its score interval.

    E. B. Wilson: Probable inference, the law of succession, and statistical inference. J. Am. Stat. Assoc. 22 (1927),
    209-212. It keeps within 0..1 and has a width where no cell, or every cell, is ALL.

    Raises:
        ValueError: `total` is not 1 or more, or `count` is not from 0 to `total`.
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"expected a count from 0 to a total of 1 or more, received {count} of {total}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = count / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    # At 0 and at `total` a limit is the share itself, which rounding would miss by its last bit.
    return Interval(share, max(center - half, 0.0) if count else 0.0, min(center + half, 1.0) if count < total else 1.0)


def groups_path(results: Path, by: str) -> Path:
    """Return where the roll-up of a results file stands: results.subjects.csv beside results.csv."""
    return results.with_name(f"{results.stem}.{by}s.csv")


def _natural(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts by the numbers in a name; the name itself tells 7 from 07."""
    parts: list[str | int] = [*re.split(r"(\d+)", name)]
    parts[1::2] = map(int, parts[1::2])
    return parts, name
