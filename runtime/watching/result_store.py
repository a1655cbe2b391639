"""Results of a watched folder in SQLite: each content of each file once, whatever stops the process.

A row of a file that could not be opened says nothing of its content, and gives way to the next one of that version.
Other content may come with the size and modification time of that before. So the table `looks` holds when anything
about a file had changed before it was read, `st_ctime_ns`; where that is another now, the file is read again, and has
another row where its SHA-256 is another. Where only its modification time is another, its last row takes that. The
table `shift` holds the warning of the last cells judged together.

A row is the results table's with its audit and, before it, what tells one version of a file from another.
The write-ahead log lets others `read`, and `read_predictions` export, while a service writes. `synchronous=FULL` puts
a transaction on the disk before it counts: a row that was seen survives a power cut, so its file may be moved away.
At rest the database is one file without a log. A reader makes no files beside it: they would be its user's, and the
service could not write them.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from runtime.closing import Closing
from runtime.errors import OutputError, UnopenableCellError
from runtime.results import AUDIT_COLUMNS, COLUMNS
from runtime.schema import Audit, Prediction

Answer = TypeVar("Answer")

STORE_VERSION = 2  # PRAGMA user_version; other columns or another key are another version
READABLE_VERSIONS = (1, 2)  # 1: one row for each size and modification time, no `looks`
APPLICATION_ID = 0x414C4C65  # "ALLe": tells this project's databases from others
OPENING_TIMEOUT_S = 5.0
BUSY_TIMEOUT_MS = 200  # of one try; what could not be written is kept and tried again
INDEX_DELAY_S = 0.1  # a service that begins has made its log's index by then
READING_TRIES = 5  # each but the last ended by a service that began or ended meanwhile


class FileVersion(NamedTuple):
    """What tells most contents of one file apart without reading it."""

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
        path = _real(path)
        if not path.parent.is_dir():
            raise OutputError(f"expected a folder for the database at {path.parent}, found none; make it first")
        self.path = path
        self._unwritten: dict[tuple[FileVersion, str], Prediction] = {}  # the string: SHA-256 of the content
        self._unwritten_looks: dict[FileVersion, int] = {}
        self._unwritten_warning: str | None = None
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

    def holds(self, version: FileVersion, changed_ns: int | None = None) -> bool:
        """Say whether this version of the file has a row of its content and nothing about it changed since it was read.

        Nothing counts as changed where one of the times is not known: `changed_ns`, or that of an older database's row.
        Raises OutputError where the database cannot be read.
        """
        if version in self._unwritten_looks:
            return changed_ns in (None, self._unwritten_looks[version])
        with _database_errors(self.path):
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
        with _database_errors(self.path), self._transaction():
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
        with suppress(sqlite3.Error):  # a reader is at it: the log stays
            self._connection.execute("PRAGMA journal_mode = DELETE")
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


def last_warning(connection: sqlite3.Connection) -> str:
    """Return what sets the last cells of a database apart as a whole; empty for nothing, or where it is not kept."""
    [has_table] = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'shift'").fetchone()
    found = connection.execute("SELECT warning FROM shift").fetchone() if has_table else None
    return found[0] if found else ""


def read_predictions(path: Path, use: Callable[[Iterator[Prediction]], Answer]) -> Answer:
    """Return what `use` makes of all predictions, in the order in which they were written.

    Works and raises as `read` does, and calls `use` anew as that does: the predictions end only where they are right.
    """

    def ask(reader: Reader) -> Answer:
        return use(_predictions(reader))

    return read(path, ask)


def read(path: Path, ask: Callable[[Reader], Answer]) -> Answer:
    """Return the answer to what is asked of a database, also while a service writes it; reading makes no file.

    Where a service has begun or ended while `ask` was reading, `ask` is called anew and its answer before is dropped.
    Raises OutputError where the database cannot be read or is not this version's.
    """
    path = _real(path)
    for _ in range(READING_TRIES):
        if not path.is_file():
            raise OutputError(f"expected the database of a watched folder at {path}, found none; check the path")
        rest = _Rest.of(path)
        try:
            with closing(_connect(path, rest.way_to_open())) as connection, _database_errors(path):
                reader = Reader(connection if _refuse_foreign(connection, path) else None, rest)
                answer = ask(reader)
        except OutputError:
            if rest.is_over():
                continue
            raise
        if not rest.is_over():
            return answer
    raise OutputError(f"cannot read {path}: services begin and end to write it all the time; try again later")


def _predictions(reader: Reader) -> Iterator[Prediction]:
    if reader.connection is not None:
        names = ", ".join((*COLUMNS, *AUDIT_COLUMNS))
        rows = reader.connection.execute(f"SELECT {names} FROM results ORDER BY rowid")  # noqa: S608
        for row in rows:
            yield replace(Prediction(*row[: len(COLUMNS)]), audit=Audit(*row[len(COLUMNS) :]))
    reader.check()


class Reader(NamedTuple):
    """A database that is being read."""

    connection: sqlite3.Connection | None  # can only read; None where no service has set the database up yet
    rest: _Rest

    def check(self) -> None:
        """Raise OutputError where what was read may be wrong, and is read anew; for what cannot be taken back."""
        if self.rest.is_over():
            raise OutputError("expected a database at rest, found that a service began to write it")


@dataclass(frozen=True)
class _Rest:
    """Whether a service writes a database or left it without its log, and what the file was like then.

    SQLite reads a database at rest without any lock (`immutable`): a service that begins has its log beside the
    database before it changes a row, and changes the file's head before that and again when it ends.
    """

    path: Path
    seen: tuple[int, ...] | None  # None: with a log, which SQLite's locks guard

    @classmethod
    def of(cls, path: Path) -> _Rest:
        return cls(path, cls._look(path))

    def way_to_open(self) -> str:
        """Return the mode in which the database is opened, as SQLite's URIs say it, without making a file beside it."""
        if self.seen is not None:
            return "ro&immutable=1"
        index = Path(f"{self.path}-shm")
        if not index.exists():
            time.sleep(INDEX_DELAY_S)
        # A copy may come without the log's index; then it has to be made.
        return "ro&readonly_shm=1" if index.exists() else "ro"

    def is_over(self) -> bool:
        """Say whether the database was at rest and may have been written since."""
        return self.seen is not None and self._look(self.path) != self.seen

    @staticmethod
    def _look(path: Path) -> tuple[int, ...] | None:
        with _database_errors(path):
            found = path.stat()  # before the log is looked for: a service may end in between
            if Path(f"{path}-wal").exists():
                return None
            return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def own_files(path: Path) -> set[str]:
    """Return the names of the files that a database consists of while it is used; none of them is a cell."""
    return {path.name, *(_real(path).name + suffix for suffix in ("", "-wal", "-shm", "-journal", "-lock"))}


def _real(path: Path) -> Path:
    """Return where a link leads: beside that file SQLite keeps the log, and a service its lock."""
    return Path(os.path.realpath(path))


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
    if version not in READABLE_VERSIONS or found != tuple(NAME_TO_TYPE):
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
# Of the file's newest row alone: what comes back after other content has a row behind that content's.
_MOVE_TIME = (
    "UPDATE OR IGNORE results SET mtime_ns = ? WHERE file = CAST(? AS TEXT) AND sha256 = CAST(? AS TEXT) "
    "AND rowid = (SELECT max(rowid) FROM results AS others WHERE others.file = results.file)"
)
_INSERT_LOOK = "INSERT OR REPLACE INTO looks VALUES (CAST(? AS TEXT), ?)"
_PARAMETERS = ", ".join("CAST(? AS TEXT)" if kind is str else "?" for kind in NAME_TO_TYPE.values())
# A commit that failed may have reached the disk all the same, and a file may be read again: what is there stays.
_NEXT_ROW = "(SELECT coalesce(max(rowid), 0) + 1 FROM results)"
_IS_SAME = f"{_IS_VERSION} AND {_TELLS_OF_CONTENT} AND (sha256 = CAST(? AS TEXT) OR ?)"
_INSERT = (
    f"INSERT OR REPLACE INTO results ({_NAMES}) SELECT {_NEXT_ROW}, {_PARAMETERS} "  # noqa: S608
    f"WHERE NOT EXISTS (SELECT 1 FROM results WHERE {_IS_SAME})"
)
