"""Results files of runs that were cut off: finds them and reads them as far as they are whole."""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.errors import OutputError
from runtime.files import file_clock_ns, has_changed, output_errors, output_place
from runtime.locks import is_locked
from runtime.schema import Appearance

if TYPE_CHECKING:
    from typing_extensions import Self

PARTIAL = ".partial"

Row = dict[str, Any]


class Source(NamedTuple):
    """What a run keeps, beside the table, about the file of a row."""

    identity: str
    appearance: Appearance | None  # where there was a picture

    @property
    def line(self) -> str:
        """Both as a line of text."""
        measures = vars(self.appearance).values() if self.appearance else ()
        return " ".join((self.identity, *map("{:.6g}".format, measures))) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Self:
        """Read such a line."""
        identity, *measures = line.rstrip("\n").split(" ")
        return cls(identity, Appearance(*map(float, measures)) if measures else None)


@dataclass(frozen=True)
class UnfinishedResults:
    """A results file under its temporary name, `<name>.<run>.<began>.<random>.partial`."""

    path: Path
    suffix: str  # of the results file, lower case
    columns: tuple[str, ...]
    began_ns: int  # of the files' clock
    others: tuple[Path, ...] = ()  # of shorter runs that were also cut off: continuing the longest makes them useless

    def rows(self) -> Iterator[tuple[Row, Source]]:
        """Yield the rows, and what was kept of each one's file, up to the first that is not whole.

        The last one may be cut in the middle. Rows whose paths now lead to other files are left out, and so are
        those of images that were changed after the run began: they may be of what was there before.
        """
        with self.path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            rows = self._csv_rows(stream) if self.suffix == ".csv" else self._json_rows(stream)
            for row, source in zip(rows, self._sources(), strict=False):
                if not has_changed(row["path"], source.identity, self.began_ns):
                    yield row, source

    def _sources(self) -> Iterator[Source]:
        unusable = (FileNotFoundError, TypeError, ValueError)  # gone, of another version, damaged
        with suppress(*unusable), sources_path(self.path).open(encoding="ascii") as stream:
            yield from map(Source.of_line, _whole_lines(stream))

    def _csv_rows(self, stream: Any) -> Iterator[Row]:
        lines = csv.reader(_whole_lines(stream))
        if tuple(next(lines, ())) != self.columns:
            return
        for values in lines:
            if len(values) != len(self.columns):
                return
            yield dict(zip(self.columns, values, strict=True))

    def _json_rows(self, stream: Any) -> Iterator[Row]:
        for line in _whole_lines(stream):
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not isinstance(row, dict) or tuple(row) != self.columns:
                return
            yield row


def find_unfinished(path: Path, run: str, columns: tuple[str, ...]) -> UnfinishedResults | None:
    """Return what a cut-off run left of the results file `path`, the longest where several did, None where none did.

    Args:
        path: The results file that was to be written.
        run: Names the bundle and the options that decide what a row says.
        columns: Of the table.

    What was written before `path` itself was completed is out of date and does not count.

    Raises OutputError where only runs with other options left one, and where a run is writing one now.
    """
    place = output_place(path)
    with output_errors(path):
        completed = place.stat().st_mtime_ns if place.exists() else 0
        found = place.parent.glob(f"{glob.escape(place.name)}.*{PARTIAL}")
        left = [each for each in found if each.stat().st_mtime_ns >= completed]
        ours = [each for each in left if _is_of_run(each, place, run)]
        if locked := [each.name for each in ours if is_locked(each)]:
            raise OutputError(
                f"expected to continue {path.name} of a run that was cut off, found that another run is writing "
                f"{locked[0]}; wait for it, or stop it"
            )
        if ours:
            longest = max(ours, key=lambda each: each.stat().st_size)
            others = tuple(each for each in ours if each != longest)
            return UnfinishedResults(longest, path.suffix.lower(), columns, _began_ns(longest), others)
    if left:
        raise OutputError(
            f"expected to continue {path.name}, found that {left[0].name} was begun with another bundle, precision, "
            "threshold or columns; give the same options as then, or omit --resume to start over"
        )
    return None


def partial_prefix(path: Path, run: str) -> str:
    """Return how the temporary name of a results file that is begun now begins."""
    return f"{path.name}.{run}.{file_clock_ns(path)}."


def sources_path(partial: Path) -> Path:
    """Return the path of the list of the files that the rows of an unfinished results file are of."""
    return partial.with_name(f".{partial.name}.files")


def _is_of_run(partial: Path, path: Path, run: str) -> bool:
    return bool(re.fullmatch(rf"{re.escape(f'{path.name}.{run}')}\.\d+\.[^.]+{re.escape(PARTIAL)}", partial.name))


def _began_ns(partial: Path) -> int:
    return int(partial.name.split(".")[-3])


def _whole_lines(stream: Any) -> Iterator[str]:
    """Yield the lines that end in a line feed."""
    return (line for line in stream if line.endswith("\n"))
