"""What the page shows of a watched folder: the database's newest rows, counts of all, and pictures of single rows.

The database is opened to be read for each question and closed again: the service that writes it never waits for us,
and a database that was moved away or replaced is noticed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.contact_sheet import as_jpeg
from runtime.errors import UnreadableCellError
from runtime.outcomes import Outcomes
from runtime.preprocessing import MAX_FILE_BYTES, decode_cell
from runtime.results import row_of
from runtime.schema import ImageSpec, Prediction
from runtime.watching.database import FileVersion
from runtime.watching.result_reader import Reader, has_service, last_warning, read

PICTURE = ImageSpec(320, 320)
MOST_ROWS = 200  # of one answer
LARGEST_ROW = 2**63 - 1  # SQLite's numbers
# A link in the place of the file is not followed, and a pipe is not waited for.
CAREFULLY: int = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))
ANSWERER_COLUMNS = ("time", "threshold", "bundle", "precision", "backend", "version")
READ_COLUMNS = ("file", "label", "p_all", "status", "reason", "seconds", *ANSWERER_COLUMNS)


class NoPictureError(Exception):
    """There is no picture of a row; says why in one line."""


@dataclass(frozen=True)
class NewRows:
    """What the database holds beyond a row that is known."""

    results: list[dict[str, Any]]  # the newest rows, the oldest of them first
    last: int  # the number of the newest row; 0: there is none
    counts: dict[str, int]  # of all rows: each label, review and error
    database: str  # changes where another database takes its place
    warning: str  # of `runtime.watch`: what sets the last cells apart as a whole; empty for nothing
    watching: bool  # a service writes the database now


@dataclass(frozen=True)
class WatchedCell:
    """The file of a row, still as it was when it was classified, and what was answered."""

    data: bytes
    p_all: float | None  # None: an error
    precision: str
    bundle: str  # SHA-256 of the bundle that answered


class WatchFeed:
    """Reads the database that `runtime.watch` writes; may be used from several threads."""

    def __init__(self, database: Path, folder: Path | None = None) -> None:
        """Follow `database`; without the watched `folder` there are no pictures."""
        self._database = database
        self._folder = folder
        self._tally = _Tally()
        self._counting = threading.Lock()

    @property
    def has_pictures(self) -> bool:
        """Whether pictures of rows can be asked for."""
        return self._folder is not None

    def news(self, after: int, limit: int) -> NewRows:
        """Return at most `limit` of the newest rows after the row `after`; raise OutputError without a database."""

        def ask(reader: Reader) -> tuple[_Tally, list[dict[str, Any]], str]:
            connection = reader.connection
            if connection is None:
                return _Tally(), [], ""
            connection.execute("BEGIN")  # rows and counts of one moment
            [last] = connection.execute("SELECT coalesce(max(rowid), 0) FROM results").fetchone()
            tally = self._tally.up_to(connection, _identity_of(connection), last)
            return tally, _rows_after(connection, after, limit), last_warning(connection)

        with self._counting:
            self._tally, rows, warning = read(self._database, ask)
            tally = self._tally
        return NewRows(rows, tally.last, tally.counts, tally.database, warning, has_service(self._database))

    def picture(self, row: int) -> bytes:
        """Return the cell of a row as a small JPEG file; raises what `cell` raises."""
        try:
            return as_jpeg(decode_cell(self.cell(row).data, PICTURE))
        except UnreadableCellError as error:
            raise NoPictureError(f"expected an image at row {row}, found: {error}") from error

    def cell(self, row: int) -> WatchedCell:
        """Return the cell of a row.

        Raises OutputError where the database cannot be read, NoPictureError where there is no cell of that row.
        """
        if self._folder is None:
            raise NoPictureError("expected the service to know the watched folder; start it with --watch-folder DIR")
        version, sha256, answer = self._row(row)
        try:
            return WatchedCell(_read_version(_inside(self._folder, version.file), version, sha256), *answer)
        except (OSError, ValueError, RuntimeError) as error:  # gone, a name that is none, links in a circle
            reason = getattr(error, "strerror", None) or "not the name of a file"
            raise NoPictureError(f"expected the cell of row {row} in the watched folder, found: {reason}") from error

    def _row(self, row: int) -> tuple[FileVersion, str, list[Any]]:
        """Return which file a row is of, the content's SHA-256, and p_all, precision and bundle."""
        question = "SELECT file, size, mtime_ns, sha256, p_all, precision, bundle FROM results WHERE rowid = ?"

        def ask(reader: Reader) -> Any:
            return reader.connection and reader.connection.execute(question, (row,)).fetchone()

        found = read(self._database, ask)
        if not found:
            raise NoPictureError(f"expected the number of a row, found {row}; ask for the newest rows again")
        file, size, mtime_ns, sha256, *answer = found
        return FileVersion(file, size, mtime_ns), sha256, answer


@dataclass(frozen=True)
class _Tally:
    """Counts up to a row, so that each row of a database is counted once."""

    database: str = ""
    last: int = 0
    outcomes: Outcomes = field(default_factory=Outcomes)

    @property
    def counts(self) -> dict[str, int]:
        return {**self.outcomes.labels, "review": self.outcomes.review, "error": self.outcomes.errors}

    def up_to(self, connection: sqlite3.Connection, database: str, last: int) -> _Tally:
        """Return the counts of all rows, of which `last` is the newest."""
        is_same = self.database == database
        if is_same and self.last == last:
            return self
        found = (self if is_same and self.last < last else _Tally()).with_newer(connection, database, last)
        [rows] = connection.execute("SELECT count(*) FROM results").fetchone()
        # A file that could not be opened, and then could, has a new row in the place of its old one.
        return found if found.outcomes.rows == rows else _Tally().with_newer(connection, database, last)

    def with_newer(self, connection: sqlite3.Connection, database: str, last: int) -> _Tally:
        """Return these counts and those of the rows from this tally's last one to `last`."""
        outcomes = deepcopy(self.outcomes)
        newer = connection.execute(
            "SELECT label, status, count(*) FROM results WHERE rowid > ? AND rowid <= ? GROUP BY label, status",
            (self.last, last),
        )
        for label, status, count in newer:
            outcomes.count(label, status, count)
        return _Tally(database, last, outcomes)


def _identity_of(connection: sqlite3.Connection) -> str:
    """Return what tells a database from one that takes its place: a hash of its first row, empty without rows."""
    first = connection.execute("SELECT * FROM results ORDER BY rowid LIMIT 1").fetchone()
    return hashlib.sha256(repr(first).encode()).hexdigest()[:16] if first else ""


def _rows_after(connection: sqlite3.Connection, after: int, limit: int) -> list[dict[str, Any]]:
    found = connection.execute(
        f"SELECT rowid, {', '.join(READ_COLUMNS)} FROM results WHERE rowid > ? ORDER BY rowid DESC LIMIT ?",  # noqa: S608
        (after, limit),
    ).fetchall()
    return [_row(*values) for values in reversed(found)]


def _row(number: int, *values: Any) -> dict[str, Any]:
    """Return a row of the results table with its number, its time and what answered; its path is that in the folder."""
    of_prediction, of_audit = values[: -len(ANSWERER_COLUMNS)], values[-len(ANSWERER_COLUMNS) :]
    return {"id": number, **row_of(Prediction(*of_prediction)), **dict(zip(ANSWERER_COLUMNS, of_audit, strict=True))}


def _inside(folder: Path, file: str) -> Path:
    """Return where a file of the folder really lies; raise NoPictureError where that is outside."""
    root = folder.resolve(strict=True)
    found = (root / file).resolve(strict=True)
    if not found.is_relative_to(root):
        raise NoPictureError("expected a file inside the watched folder, found one outside")
    return found


def _read_version(path: Path, version: FileVersion, sha256: str) -> bytes:
    """Return the content of a file that is still the one that was classified."""
    with os.fdopen(os.open(path, CAREFULLY), "rb") as stream:
        # Of what was opened: another file may have taken its place after its path was looked at.
        found = os.fstat(stream.fileno())
        is_same = stat.S_ISREG(found.st_mode) and FileVersion.of(version.file, found) == version
        data = stream.read(MAX_FILE_BYTES) if is_same else b""
    if not is_same or (sha256 and hashlib.sha256(data).hexdigest() != sha256):
        raise NoPictureError("expected the file that was classified, found that it has changed since then")
    return data
