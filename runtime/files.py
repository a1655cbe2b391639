"""Files that appear under their names only when complete, and what tells one file from another."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from runtime.errors import OutputError, reason_of

BLOCK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for block in blocks_of_file(path):
        digest.update(block)
    return digest.hexdigest()


def blocks_of_file(path: Path) -> Iterator[bytes]:
    """Yield a file's content, BLOCK_BYTES at a time."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


@contextmanager
def output_errors(path: Path, advice: str = "choose a place that can be written") -> Iterator[None]:
    """Turn an operating-system error while `path` is being written into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {reason_of(error)}; {advice}") from error


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on any failure.

    The content is flushed to the disk before the rename, so that a power cut leaves the old file or the new one.
    Missing parent folders are made. Raises OutputError where the place cannot be written.
    """
    aside = _file_beside(path)
    try:
        yield aside
        with output_errors(path):
            give_usual_permissions(aside)
            flush_to_disk(aside)
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def text_written_aside(path: Path) -> Iterator[TextIO]:
    """Yield a UTF-8 file that appears at `path` as `written_aside` says.

    Names that are not UTF-8 keep their bytes; lines end in a line feed on every system.
    """
    with (
        written_aside(path) as aside,
        output_errors(path),
        aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield stream


def output_place(path: Path) -> Path:
    """Return where to write a file that the user asks for at `path`: at the end of a link, which stays a link.

    Raises OutputError where something other than a file is there, such as a folder, a device or a pipe: a file renamed
    to `path` would replace it.
    """
    with output_errors(path):
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        if place.is_dir():
            raise OutputError(f"expected a file name, found the folder {path}; choose another name")
        if place.exists() and not place.is_file():
            raise OutputError(f"expected a file name, found a device or a pipe at {path}; choose another name")
    return place


def refuse_unwritable(path: Path) -> None:
    """Raise OutputError where no file can be written to `path`, before there is something to write.

    Missing parent folders are made.
    """
    _file_beside(output_place(path)).unlink(missing_ok=True)


def _file_beside(path: Path) -> Path:
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    return Path(name)


def file_clock_ns(path: Path) -> int:
    """Return the time, in nanoseconds, that the file system gives to files beside `path`, which need not exist.

    Its clock may be another computer's, and may be coarse. Raises OutputError where no file can be made there.
    """
    beside = _file_beside(path)
    try:
        return beside.stat().st_mtime_ns
    finally:
        beside.unlink()


def identity_of(found: os.stat_result) -> str:
    """Return what tells a file from any other, and from itself after a change, as 16 hexadecimal digits."""
    tells = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.sha256(repr(tells).encode()).hexdigest()[:16]


def has_changed(path: str, identity: str, moment_ns: int) -> bool:
    """Say whether a path leads to a file other than the one of that identity, or the file has changed since.

    A file that is gone has not changed. A change so soon after the identity was taken that the file system's clock had
    not moved shows only by being later than `moment_ns`, which `file_clock_ns` gave before that.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  of a million files
    except (OSError, ValueError):
        return False
    if identity_of(found) != identity:
        return True
    # st_ctime is when anything about the file changed; on Windows, when it was made.
    changed_ns = max(found.st_ctime_ns, found.st_mtime_ns) if os.name == "nt" else found.st_ctime_ns
    return changed_ns > moment_ns


def write_text_aside(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with text_written_aside(path) as stream:
        stream.write(text)


def write_csv_aside(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV table to `path`, whole or not at all."""
    with text_written_aside(path) as stream:
        writer = CsvWriter(stream)
        writer.write(columns)
        for row in rows:
            writer.write(row)


class CsvWriter:
    """Writes rows that end in a line feed to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._plain = csv.writer(stream, lineterminator="\n")
        # The csv module leaves a carriage return unquoted where rows end in a line feed, and readers split there.
        self._quoting = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, values: Iterable[object]) -> None:
        """Append one row."""
        row = tuple(values)
        (self._quoting if any("\r" in str(value) for value in row) else self._plain).writerow(row)


def give_usual_permissions(path: Path) -> None:
    """Give `path` the permissions of a file made in the ordinary way (a temporary file is private)."""
    path.chmod(0o666 & ~current_umask())


def current_umask() -> int:
    """Return the process's umask; reading it means setting it, so it is set back at once."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def flush_folder(path: Path) -> None:
    """Ask the operating system to put the folder's list of names onto the disk.

    Windows cannot do that, nor can some file systems.
    """
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


def flush_to_disk(path: Path) -> None:
    """Ask the operating system to put the file's content onto the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
