"""Results of a watched folder in SQLite: each version of each file once, whatever stops the process.

A row of a file that could not be opened says nothing of its content, and gives way to the next one of that version.

A row is the results table's with its audit and, before it, what tells one version of a file from another.
The write-ahead log lets others read, and `stored_predictions` export, while a service writes. `synchronous=FULL` puts
a transaction on the disk before it counts: a row that was seen survives a power cut, so its file may be moved away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from runtime.closing import Closing
from runtime.errors import OutputError, UnopenableCellError
from runtime.results import AUDIT_COLUMNS, COLUMNS
from runtime.schema import Audit, Prediction

STORE_VERSION = 1  # PRAGMA user_version; another set of columns is another version
APPLICATION_ID = 0x414C4C65  # "ALLe": tells this project's databases from others
OPENING_TIMEOUT_S = 5.0
BUSY_TIMEOUT_MS = 200  # of one try; what could not be written is kept and tried again


class FileVersion(NamedTuple):
    """One content of one file: another size or modification time is another cell."""

    file: str  # relative to the watched folder; may hold surrogates for bytes that are no UTF-8
    size: int  # bytes
    mtime_ns: int  # compared for equality alone: a clock may step back


SQL_TYPES = {str: "TEXT NOT NULL", int: "INTEGER NOT NULL", float: "REAL NOT NULL", float | None: "REAL"}
HINTS = {**get_type_hints(FileVersion), **get_type_hints(Prediction), **get_type_hints(Audit)}
NAME_TO_TYPE: dict[str, Any] = {name: HINTS[name] for name in (*FileVersion._fields, *COLUMNS, *AUDIT_COLUMNS)}


class ResultStore(Closing):
    """The database of one service; used from one thread.

    Rows wait in memory until `commit`, and stay there where it fails, so that nothing is lost while a disk is full.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the database; raise OutputError where it cannot be written, is foreign, or has a service."""
        if not path.parent.is_dir():
            raise OutputError(f"expected a folder for the database at {path.parent}, found none; make it first")
        self.path = path
        self._unwritten: dict[FileVersion, Prediction] = {}
        self._connection = _connect(path)
        try:
            _refuse_foreign(self._connection, path)
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

    def holds(self, version: FileVersion) -> bool:
        """Say whether this version of the file has a row of its content.

        Raises OutputError where the database cannot be read.
        """
        if version in self._unwritten:
            return not self._unwritten[version].reason.startswith(UnopenableCellError.BEGINNING)
        with _database_errors(self.path):
            return self._connection.execute(_SELECT, _bound(version)).fetchone() is not None

    def add(self, version: FileVersion, prediction: Prediction) -> None:
        """Keep a row for the next commit."""
        self._unwritten[version] = prediction

    def commit(self) -> None:
        """Write all rows that wait in one transaction; raise OutputError, and keep them, where that fails."""
        if not self._unwritten:
            return
        self._refuse_replaced()
        values = (_bound((*version, *_values(prediction))) for version, prediction in self._unwritten.items())
        with _database_errors(self.path), self._transaction():
            self._connection.executemany(_INSERT, values)
        self._unwritten.clear()

    def close(self) -> None:
        """Close the database and let another service have it; rows that wait are dropped."""
        self._connection.close()
        self._lock.close()

    def _prepare(self) -> None:
        """Make the table where there is none, and prove that the database can be written."""
        with _database_errors(self.path):
            [mode] = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise OutputError(
                    f"expected a place for the database where SQLite can keep a write-ahead log, found that "
                    f"{self.path} has none (journal_mode {mode}); put it on a local disk"
                )
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                self._connection.execute(_CREATE)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        self._inode = self.path.stat().st_ino

    def _refuse_replaced(self) -> None:
        """Raise OutputError where the file is no longer under its name: SQLite would go on writing it all the same."""
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


@contextmanager
def stored_predictions(path: Path) -> Iterator[Iterator[Prediction]]:
    """Yield the predictions of a database in the order in which they were written, also while a service writes it.

    Raises OutputError where it cannot be read or is not this version's.
    """
    with reading(path) as connection:
        if connection is None:
            yield iter(())
            return
        names = ", ".join((*COLUMNS, *AUDIT_COLUMNS))
        rows = connection.execute(f"SELECT {names} FROM results ORDER BY rowid")  # noqa: S608
        yield (replace(Prediction(*row[: len(COLUMNS)]), audit=Audit(*row[len(COLUMNS) :])) for row in rows)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Yield a connection that can only read, also while a service writes; None where no service has set it up yet.

    Raises OutputError where it cannot be read or is not this version's.
    """
    if not path.is_file():
        raise OutputError(f"expected the database of a watched folder at {path}, found none; check the path")
    with closing(_connect(path, "ro")) as connection, _database_errors(path):
        yield connection if _refuse_foreign(connection, path) else None


def own_files(path: Path) -> set[str]:
    """Return the names of the files that a database consists of while it is used; none of them is a cell."""
    return {path.name + suffix for suffix in ("", "-wal", "-shm", "-lock")}


def _connect(path: Path, mode: str = "rwc") -> sqlite3.Connection:
    """Open a database without a transaction; text comes back as file names do, with surrogates for no UTF-8."""
    with _database_errors(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, timeout=OPENING_TIMEOUT_S, isolation_level=None, uri=True)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def _lock(path: Path) -> sqlite3.Connection:
    """Return the lock that one service at a time may hold; raise OutputError where another holds it.

    An exclusive transaction on an empty database beside `path`: SQLite's locks end with the process, on every system,
    and the service's own database stays open to readers.
    """
    connection = sqlite3.connect(f"{path}-lock", timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = MEMORY")  # no further file
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if "locked" in str(error):
            raise OutputError(
                f"expected {path} for this service alone, found that another one writes it; stop that one, or name "
                "another database"
            ) from error
        raise OutputError(f"cannot write {path}-lock: {error}; choose a place that can be written") from error
    return connection


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether the database has been set up; raise OutputError where it is another program's or version's."""
    with _database_errors(path):
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        found = tuple(row[1] for row in connection.execute("PRAGMA table_info(results)"))
    if not tables and not application:
        return False
    if application != APPLICATION_ID:
        raise OutputError(
            f"expected a database of a watched folder at {path}, found one of another program; name another file"
        )
    if version > STORE_VERSION:
        raise OutputError(
            f"expected a database of version {STORE_VERSION} at {path}, found {version}: a newer version of this "
            "toolkit wrote it; install that one, or name another file"
        )
    if version != STORE_VERSION or found != tuple(NAME_TO_TYPE):
        raise OutputError(
            f"expected the columns {', '.join(NAME_TO_TYPE)} at {path}, found {', '.join(found)}: another version of "
            "this toolkit wrote it; export it with that one, and name another file"
        )
    return True


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into an OutputError that names the database."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise OutputError(f"cannot use the database {path}: {error}") from error


def _values(prediction: Prediction) -> tuple[Any, ...]:
    if prediction.audit is None:
        raise ValueError(f"expected a prediction with an audit, received {prediction}")
    return *(getattr(prediction, column) for column in COLUMNS), *astuple(prediction.audit)


def _bound(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values as they are bound: text as bytes, for SQLite keeps any bytes as text, but takes no surrogates."""
    return tuple(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in values)


_COLUMN_TEXT = ", ".join(f"{name} {SQL_TYPES[kind]}" for name, kind in NAME_TO_TYPE.items())
_CREATE = f"CREATE TABLE IF NOT EXISTS results ({_COLUMN_TEXT}, UNIQUE ({', '.join(FileVersion._fields)}))"
_TELLS_OF_CONTENT = f"reason NOT LIKE '{UnopenableCellError.BEGINNING}%'"
_SELECT = f"SELECT 1 FROM results WHERE file = CAST(? AS TEXT) AND size = ? AND mtime_ns = ? AND {_TELLS_OF_CONTENT}"  # noqa: S608
_PARAMETERS = ", ".join("CAST(? AS TEXT)" if kind is str else "?" for kind in NAME_TO_TYPE.values())
# A commit that failed may have reached the disk all the same: its rows are the same when they are written again. A row
# in the place of another, of a file that could not be opened, gets the highest number: readers take it for new.
_NEXT_ROW = "(SELECT coalesce(max(rowid), 0) + 1 FROM results)"
_INSERT = f"INSERT OR REPLACE INTO results (rowid, {', '.join(NAME_TO_TYPE)}) VALUES ({_NEXT_ROW}, {_PARAMETERS})"  # noqa: S608
