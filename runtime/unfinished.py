"""Results files of runs that were cut off: found again, read as far as they are whole."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import OutputError
from runtime.files import output_errors

PARTIAL = ".partial"

Row = dict[str, Any]


@dataclass(frozen=True)
class UnfinishedResults:
    """A results file under its temporary name, `<name>.<run>.<random>.partial`."""

    path: Path
    columns: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """Yield the rows up to the first that is not whole: the last one may have been cut in the middle."""
        is_csv = Path(self.path.name.removesuffix(PARTIAL)).suffixes[-3].lower() == ".csv"
        with self.path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            yield from self._csv_rows(stream) if is_csv else self._json_rows(stream)

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

    Raises OutputError where there is none of this run, but one with other options.
    """
    with output_errors(path):
        left = [Path(name) for name in glob.glob(f"{glob.escape(str(path))}.*{PARTIAL}")]  # noqa: PTH207
        ours = [each for each in left if each.name.removeprefix(f"{path.name}.").startswith(f"{run}.")]
        if ours:
            return UnfinishedResults(max(ours, key=lambda each: each.stat().st_size), columns)
    if left:
        raise OutputError(
            f"expected to go on with {path.name}, but {left[0].name} was begun with another bundle, precision, "
            "threshold or columns; give the same options as then, or leave --resume away to begin anew"
        )
    return None


def _whole_lines(stream: Any) -> Iterator[str]:
    """Yield the lines that end in a line feed."""
    return (line for line in stream if line.endswith("\n"))
