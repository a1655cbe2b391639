"""Results of a watched folder in SQLite: a row for each content of each file, whatever stops the process.

A row of a file that could not be opened says nothing of its content, and gives way to the next one of that version.
New content may come with the same size and modification time. So the table `looks` holds when anything about a file
had last changed before it was read, `st_ctime_ns`; where that is different now, the file is read again, and gets
another row if its SHA-256 is different. If only its modification time is, its last row takes that. The table `shift`
holds the warning of the last cells judged together.

A row is the results table's with its audit and, before it, what tells one version of a file from another.
The write-ahead log lets others read while a service writes. `synchronous=FULL` puts a transaction on the disk before
it counts: a row that was seen survives a power cut, so its file may be moved away. At rest the database is one file
without a log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.closing import Closing
from runtime.errors import OutputError, UnopenableCellError
from runtime.results import AUDIT_COLUMNS, COLUMNS
from runtime.schema import Prediction
from runtime.watching.database import (
    APPLICATION_ID,
    NAME_TO_TYPE,
    SQL_TYPES,
    STORE_VERSION,
    FileVersion,
    connect,
    database_errors,
    lock_path,
    real_path,
    refuse_foreign,
)

LOCK_TIMEOUT_S = 0.5  # of a service that begins: a reader that asks for one shares the lock for a moment
BUSY_TIMEOUT_MS = 200  # of one try; what could not be written is kept and tried again


class ResultStore(Closing):
    """The database of one service; used from one thread.

    Rows wait in memory until `commit`, and stay there where it fails, so that nothing is lost while a disk is full.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the database; raise OutputError where it cannot be written, is foreign, or has a service."""
        path = real_path(path)
        if not path.parent.is_dir():
            raise OutputError(f"expected a folder for the database at {path.parent}, found none; make it first")
        self.path = path
        self._unwritten: dict[tuple[FileVersion, str], Prediction] = {}  # the string: SHA-256 of the content
        self._unwritten_looks: dict[FileVersion, int] = {}
        self._unwritten_warning: str | None = None
        self._connection = connect(path)
        try:
            refuse_foreign(self._connection, path)
            self._lock = _lock(path)
        except BaseException:
            self._connection.close()
            raise
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def unwritten(self) -> int:
        """How many rows wait for the next commit."""
        return len(self._unwritten)

    def holds(self, version: FileVersion, changed_ns: int | None = None) -> bool:
        """Say whether this version of the file has a row of its content and nothing about it changed since it was read.

        Nothing counts as changed where one of the times is not known: `changed_ns`, or that of an older database's row.
        Raises OutputError where the database cannot be read.
        """
        if version in self._unwritten_looks:
            return changed_ns in (None, self._unwritten_looks[version])
        with database_errors(self.path):
            found = self._connection.execute(_SELECT, _bound(version)).fetchone()
        return found is not None and (None in (changed_ns, found[0]) or changed_ns == found[0])

    def add(self, version: FileVersion, prediction: Prediction, changed_ns: int = 0) -> None:
        """Keep a row for the next commit, which drops it where the same content has one.

        `changed_ns` is the `st_ctime_ns` that the file had before it was read.
        """
        if not prediction.is_unopened:
            for key in [(version, sha256) for sha256 in ("", _sha256_of(prediction))]:
                if key in self._unwritten and self._unwritten[key].is_unopened:
                    del self._unwritten[key]
            self._unwritten_looks.pop(version, None)  # the last one counts
            self._unwritten_looks[version] = changed_ns
        elif version in self._unwritten_looks:
            return
        self._unwritten.setdefault((version, _sha256_of(prediction)), prediction)

    def keep_warning(self, warning: str) -> None:
        """Keep for the next commit what sets the last cells apart as a whole, empty for nothing."""
        self._unwritten_warning = warning

    def commit(self) -> None:
        """Write all rows that wait in one transaction; raise OutputError, and keep them, where that fails."""
        if not self._unwritten:
            return
        self._refuse_replaced()
        with database_errors(self.path), self._transaction():
            for (version, sha256), prediction in self._unwritten.items():
                if sha256 and not prediction.is_unopened:
                    self._connection.execute(_MOVE_TIME, _bound((version.mtime_ns, version.file, sha256)))
                is_same = (*version, sha256, prediction.is_unopened)
                self._connection.execute(_INSERT, _bound((*version, *_values(prediction), *is_same)))
            # After the rows that take their place, which get the highest number: readers take it for new.
            self._connection.executemany(_DELETE_UNOPENED, map(_bound, self._unwritten_looks))
            looks = ((version.file, changed_ns) for version, changed_ns in self._unwritten_looks.items())
            self._connection.executemany(_INSERT_LOOK, map(_bound, looks))
            if self._unwritten_warning is not None:
                self._connection.execute(_INSERT_WARNING, (self._unwritten_warning,))
        self._unwritten.clear()
        self._unwritten_looks.clear()
        self._unwritten_warning = None

    def close(self) -> None:
        """Close the database and let another service have it; rows that wait are dropped."""
        with suppress(sqlite3.Error):  # a reader has it open: the log stays
            self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()
        self._lock.close()

    def _prepare(self) -> None:
        """Make the table where there is none, and prove that the database can be written."""
        with database_errors(self.path):
            [mode] = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise OutputError(
                    f"expected a place for the database where SQLite can keep a write-ahead log, found that "
                    f"{self.path} has none (journal_mode {mode}); put it on a local disk"
                )
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                [version] = self._connection.execute("PRAGMA user_version").fetchone()
                if version == 1:
                    for statement in _UPGRADE:
                        self._connection.execute(statement)
                self._connection.execute(_CREATE.format("results"))
                self._connection.execute(_CREATE_LOOKS)
                self._connection.execute(_CREATE_SHIFT)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        self._inode = self.path.stat().st_ino

    def _refuse_replaced(self) -> None:
        """Raise OutputError where the file is no longer under its name: SQLite would continue to write it."""
        try:
            found = self.path.stat().st_ino
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; put the database back") from error
        if found != self._inode:
            raise OutputError(f"cannot write {self.path}: another file lies there now; put the database back")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _lock(path: Path) -> sqlite3.Connection:
    """Return the lock that one service at a time may hold; raise OutputError where another holds it.

    An exclusive transaction on an empty database beside `path`: SQLite's locks end with the process, on every system,
    and the service's own database stays open to readers.
    """
    with ExitStack() as undo:
        try:
            connection = undo.enter_context(
                closing(sqlite3.connect(lock_path(path), timeout=LOCK_TIMEOUT_S, isolation_level=None))
            )
            connection.execute("PRAGMA journal_mode = MEMORY")  # no further file
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise OutputError(
                    f"expected {path} for this service alone, found that another one writes it; stop that one, or name "
                    "another database"
                ) from error
            raise OutputError(f"cannot write {lock_path(path)}: {error}; choose a place that can be written") from error
        undo.pop_all()
    return connection


def _values(prediction: Prediction) -> tuple[Any, ...]:
    if prediction.audit is None:
        raise ValueError(f"expected a prediction with an audit, received {prediction}")
    audit = (getattr(prediction.audit, column) for column in AUDIT_COLUMNS)  # astuple copies each value, at length
    return *(getattr(prediction, column) for column in COLUMNS), *audit


def _sha256_of(prediction: Prediction) -> str:
    return prediction.audit.sha256 if prediction.audit else ""


def _bound(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values as they are bound: text as bytes, for SQLite keeps any bytes as text, but takes no surrogates."""
    return tuple(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in values)


_COLUMN_TEXT = ", ".join(f"{name} {SQL_TYPES[kind]}" for name, kind in NAME_TO_TYPE.items())
_CREATE = f"CREATE TABLE IF NOT EXISTS {{}} ({_COLUMN_TEXT}, UNIQUE ({', '.join(FileVersion._fields)}, sha256))"
_CREATE_LOOKS = "CREATE TABLE IF NOT EXISTS looks (file TEXT PRIMARY KEY, changed_ns INTEGER NOT NULL) WITHOUT ROWID"
_CREATE_SHIFT = "CREATE TABLE IF NOT EXISTS shift (rowid INTEGER PRIMARY KEY, warning TEXT NOT NULL)"
_INSERT_WARNING = "INSERT OR REPLACE INTO shift VALUES (1, ?)"
_NAMES = f"rowid, {', '.join(NAME_TO_TYPE)}"
_UPGRADE = (  # of version 1
    _CREATE.format("upgraded"),
    f"INSERT INTO upgraded ({_NAMES}) SELECT {_NAMES} FROM results",  # noqa: S608
    "DROP TABLE results",
    "ALTER TABLE upgraded RENAME TO results",
)
_IS_VERSION = "file = CAST(? AS TEXT) AND size = ? AND mtime_ns = ?"
_TELLS_OF_CONTENT = f"reason NOT LIKE '{UnopenableCellError.BEGINNING}%'"
_SELECT = f"SELECT changed_ns FROM results LEFT JOIN looks USING (file) WHERE {_IS_VERSION} AND {_TELLS_OF_CONTENT}"  # noqa: S608
_DELETE_UNOPENED = f"DELETE FROM results WHERE {_IS_VERSION} AND NOT {_TELLS_OF_CONTENT}"  # noqa: S608
# Only of the file's newest row: content that comes back after other content gets a new row.
_MOVE_TIME = (
    "UPDATE OR IGNORE results SET mtime_ns = ? WHERE file = CAST(? AS TEXT) AND sha256 = CAST(? AS TEXT) "
    "AND rowid = (SELECT max(rowid) FROM results AS others WHERE others.file = results.file)"
)
_INSERT_LOOK = "INSERT OR REPLACE INTO looks VALUES (CAST(? AS TEXT), ?)"
_PARAMETERS = ", ".join("CAST(? AS TEXT)" if kind is str else "?" for kind in NAME_TO_TYPE.values())
# A commit that failed may still have reached the disk, and a file may be read again: what is there stays.
_NEXT_ROW = "(SELECT coalesce(max(rowid), 0) + 1 FROM results)"
_IS_SAME = f"{_IS_VERSION} AND {_TELLS_OF_CONTENT} AND (sha256 = CAST(? AS TEXT) OR ?)"
_INSERT = (
    f"INSERT OR REPLACE INTO results ({_NAMES}) SELECT {_NEXT_ROW}, {_PARAMETERS} "  # noqa: S608
    f"WHERE NOT EXISTS (SELECT 1 FROM results WHERE {_IS_SAME})"
)
