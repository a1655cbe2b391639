"""Reads the database of a watched folder, also while a service writes it.

A reader makes no files beside it: they would belong to its user, and the service could not write them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from runtime.errors import OutputError
from runtime.results import AUDIT_COLUMNS, COLUMNS
from runtime.schema import Audit, Prediction
from runtime.watching.database import connect, database_errors, lock_path, real_path, refuse_foreign

Answer = TypeVar("Answer")

INDEX_DELAY_S = 0.1  # a service that begins has made its log's index by then
READING_TRIES = 5  # each but the last ended by a service that began or ended meanwhile


def last_warning(connection: sqlite3.Connection) -> str:
    """Return what sets the last cells of a database apart as a whole; empty for nothing, or where it is not kept."""
    [has_table] = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'shift'").fetchone()
    found = connection.execute("SELECT warning FROM shift").fetchone() if has_table else None
    return found[0] if found else ""


def has_service(path: Path) -> bool:
    """Say whether a service writes the database now, by its lock; True where that cannot be found out.

    Asking makes no file. It shares the lock for a moment, for which a service that begins waits.
    """
    lock = lock_path(real_path(path))
    try:
        with closing(sqlite3.connect(f"{lock.absolute().as_uri()}?mode=ro", timeout=0, uri=True)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.Error:
        return lock.exists()  # held, or not to be read
    return False


def read_predictions(path: Path, use: Callable[[Iterator[Prediction]], Answer]) -> Answer:
    """Return what `use` makes of all predictions, in the order in which they were written.

    Works and raises as `read` does, and may call `use` again as that does: the predictions end only if they are right.
    """

    def ask(reader: Reader) -> Answer:
        return use(_predictions(reader))

    return read(path, ask)


def read(path: Path, ask: Callable[[Reader], Answer]) -> Answer:
    """Return the answer to what is asked of a database, also while a service writes it; reading makes no file.

    Where a service has begun or ended while `ask` was reading, `ask` is called again and its first answer is dropped.
    Raises OutputError where the database cannot be read or is not this version's.
    """
    path = real_path(path)
    for _ in range(READING_TRIES):
        if not path.is_file():
            raise OutputError(f"expected the database of a watched folder at {path}, found none; check the path")
        rest = _Rest.of(path)
        try:
            with closing(connect(path, rest.way_to_open())) as connection, database_errors(path):
                reader = Reader(connection if refuse_foreign(connection, path) else None, rest)
                answer = ask(reader)
        except OutputError:
            if rest.is_over():
                continue
            raise
        if not rest.is_over():
            return answer
    raise OutputError(f"cannot read {path}: services keep starting and stopping to write it; try again later")


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
        """Raise OutputError where what was read may be wrong and is read again; for what cannot be taken back."""
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
        with database_errors(path):
            found = path.stat()  # before the log is looked for: a service may end in between
            if Path(f"{path}-wal").exists():
                return None
            return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
