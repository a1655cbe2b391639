"""The SQLite database of a watched folder: its columns, how it is opened, and how it is told from others."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from runtime.errors import OutputError
from runtime.results import AUDIT_COLUMNS, COLUMNS
from runtime.schema import Audit, Prediction

STORE_VERSION = 2  # PRAGMA user_version; other columns or another key are another version
READABLE_VERSIONS = (1, 2)  # 1: one row for each size and modification time, no `looks`
APPLICATION_ID = 0x414C4C65  # "ALLe": tells this project's databases from others
OPENING_TIMEOUT_S = 5.0


class FileVersion(NamedTuple):
    """What tells most contents of one file apart without reading it."""

    file: str  # relative to the watched folder; may hold surrogates for bytes that are not UTF-8
    size: int  # bytes
    mtime_ns: int  # compared for equality alone: a clock may step back

    @classmethod
    def of(cls, file: str, found: os.stat_result) -> FileVersion:
        """Return the version of a file with this status."""
        return cls(file, found.st_size, storable_time(found.st_mtime_ns))


SQL_TYPES = {str: "TEXT NOT NULL", int: "INTEGER NOT NULL", float: "REAL NOT NULL", float | None: "REAL"}
HINTS = {**get_type_hints(FileVersion), **get_type_hints(Prediction), **get_type_hints(Audit)}
NAME_TO_TYPE: dict[str, Any] = {name: HINTS[name] for name in (*FileVersion._fields, *COLUMNS, *AUDIT_COLUMNS)}


def storable_time(time_ns: int) -> int:
    """Return a time in SQLite's 64 bits; one beyond the year 2262, from a wrong clock, wraps around."""
    return (time_ns + 2**63) % 2**64 - 2**63


def own_files(path: Path) -> set[str]:
    """Return the names of the files that a database consists of while it is used; none of them is a cell."""
    return {path.name, *(real_path(path).name + suffix for suffix in ("", "-wal", "-shm", "-journal", "-lock"))}


def real_path(path: Path) -> Path:
    """Return where a link leads: beside that file SQLite keeps the log, and a service its lock."""
    return Path(os.path.realpath(path))


def lock_path(path: Path) -> Path:
    """Return the file beside a database, no link, that the service which writes it holds locked."""
    return path.with_name(f"{path.name}-lock")


def connect(path: Path, mode: str = "rwc") -> sqlite3.Connection:
    """Open a database without a transaction; its text has surrogates for bytes that are not UTF-8."""
    with database_errors(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, timeout=OPENING_TIMEOUT_S, isolation_level=None, uri=True)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether the database has been set up; raise OutputError where it is another program's or version's."""
    with database_errors(path):
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
def database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into an OutputError that names the database."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise OutputError(f"cannot use the database {path}: {error}") from error
