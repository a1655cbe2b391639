"""Files and folders that appear under their name only when they are complete, and their hashes."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from runtime.errors import OutputError
from runtime.held import held_folder

BLOCK_BYTES = 1 << 20
MOVED_AWAY = "-old"  # ends the name of a folder while another one takes its place


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
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


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

    Names that are no UTF-8 keep their bytes; lines end in a line feed on every system.
    """
    with (
        written_aside(path) as aside,
        output_errors(path),
        aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield stream


def output_place(path: Path) -> Path:
    """Return where a file that the user asks for at `path` is to stand: at the end of a link, which stays one.

    Raises OutputError where something else than a file is there, such as a folder, a device or a pipe: a file that is
    renamed to `path` would take its place.
    """
    with output_errors(path):
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        if place.is_dir():
            raise OutputError(f"expected a file name, found the folder {path}; choose another name")
        if place.exists() and not place.is_file():
            raise OutputError(f"expected a file name, found a device or a pipe at {path}; choose another name")
    return place


def refuse_unwritable(path: Path) -> None:
    """Raise OutputError where no file could come to stand at `path`, before there is something to write.

    Missing parent folders are made.
    """
    _file_beside(output_place(path)).unlink()


def _file_beside(path: Path) -> Path:
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    return Path(name)


def file_clock_ns(path: Path) -> int:
    """Return now, in nanoseconds, as the file system gives times to files beside `path`, which need not exist.

    Its clock may be another computer's, and it may be coarse. Raises OutputError where no file can be made there.
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
    """Say whether a path leads to another file than the one of that identity, or the file was changed since.

    A file that has gone has not changed. A change so soon after the identity was taken that the file system's clock
    stood still shows only in that it was after `moment_ns`, a moment of `file_clock_ns` before that.
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


@contextmanager
def folder_written_aside(path: Path, marker: str, ours: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` on success, delete it on any failure.

    An existing `path` is replaced only where it is a folder that this project wrote, as `refuse_foreign_folder` says.
    What processes that were killed on the way left beside it is put right first, as `settle_folder` says.
    """
    path = path.resolve()
    settle_folder(path)
    refuse_foreign_folder(path, marker, ours)
    with _folder_beside(path) as aside:
        yield aside
        with output_errors(path):
            aside.chmod(0o777 & ~current_umask())
            for written in (aside, *aside.rglob("*")):
                (flush_folder if written.is_dir() else flush_to_disk)(written)
            _replace_folder(aside, path)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that other processes see in use; at the end remove what is under its name."""
    with ExitStack() as in_use:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # One process at a time: before it is held, another one would take a new folder for an abandoned one.
            with held_folder(path.parent, wait=True):
                aside = Path(tempfile.mkdtemp(prefix=_prefix_beside(path), dir=path.parent))
                in_use.enter_context(held_folder(aside))
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def settle_folder(path: Path) -> None:
    """Put right what killed processes left of `folder_written_aside`, so that a whole folder is at `path` again.

    What one had moved away comes back where nothing took its place, and is removed where something did; half-written
    folders are removed. What a living process writes is left alone.
    """
    path = path.resolve()
    with output_errors(path), held_folder(path.parent, wait=True) as is_held:
        if is_held:  # so that nobody is replacing a folder here at this moment
            _settle_moved_away(path)
            _remove_abandoned(path)


def _settle_moved_away(path: Path) -> None:
    moved_away = [folder for folder in _folders_beside(path, MOVED_AWAY) if not folder.is_symlink()]
    for folder in sorted(moved_away, key=lambda folder: folder.stat().st_ctime_ns, reverse=True):  # the last one first
        _settle(folder, path)


def _settle(moved_away: Path, path: Path) -> None:
    if path.exists():
        shutil.rmtree(moved_away, ignore_errors=True)
    elif moved_away.exists():
        moved_away.rename(path)


def _remove_abandoned(path: Path) -> None:
    for folder in _folders_beside(path):
        with held_folder(folder) as is_abandoned:
            if is_abandoned and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _folders_beside(path: Path, suffix: str = "") -> list[Path]:
    """Return what stands beside `path` under a name that `tempfile` gave it, with that suffix."""
    return list(path.parent.glob(f"{glob.escape(_prefix_beside(path))}{'?' * 8}{suffix}"))


def _prefix_beside(path: Path) -> str:
    return f".{path.name}.unfinished-"


def refuse_foreign_folder(path: Path, marker: str, ours: tuple[str, ...]) -> None:
    """Raise OutputError unless `path` may be replaced.

    It may where it does not exist, where it is an empty folder, and where it is a folder with a file named `marker`
    in which every file matches one of the patterns `ours`.
    """
    with output_errors(path):
        is_taken = path.exists()
        files = [file for file in path.rglob("*") if not file.is_dir()] if path.is_dir() else []
    if path.is_dir() and not any(path.iterdir()):
        return
    if is_taken and not (path / marker).exists():
        raise OutputError(
            f"expected a new folder, or one that holds a {marker} to replace; "
            f"found something else at {path}; choose another name"
        )
    for file in files:
        if not any(file.match(pattern) for pattern in (marker, *ours)):
            raise OutputError(
                f"expected only files of this toolkit in {path}, which is to be replaced, found {file.name}; "
                "move it away, or choose another name"
            )


def _replace_folder(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`; what stood there gets the name of `new`, to be removed under it.

    One process at a time: another one would take a folder that is moved away for one that a killed process left.
    """
    moved_away = new.with_name(new.name + MOVED_AWAY)
    with held_folder(path.parent, wait=True):
        try:
            if path.exists():
                path.rename(moved_away)
            new.rename(path)
        except BaseException:
            _settle(moved_away, path)
            raise
        with suppress(OSError):  # the new folder is in its place, whatever becomes of the old one
            moved_away.rename(new)
        flush_folder(path.parent)


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

    Windows knows no such thing, nor do some file systems.
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
