"""Folders that appear under their names only when complete."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from runtime.errors import OutputError
from runtime.files import current_umask, flush_folder, flush_to_disk, output_errors
from runtime.locks import locked_folder

MOVED_AWAY = "-old"  # ends the name of a folder while another one takes its place


@contextmanager
def folder_written_aside(path: Path, marker: str, ours: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` on success, delete it on any failure.

    An existing `path` is replaced only where it is a folder that this project wrote, as `refuse_foreign_folder` says.
    First, whatever killed processes left beside it is put right, as `settle_folder` says.
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
            # One process at a time: before it is locked, another one would take a new folder for an abandoned one.
            with locked_folder(path.parent, wait=True):
                aside = Path(tempfile.mkdtemp(prefix=_prefix_beside(path), dir=path.parent))
                in_use.enter_context(locked_folder(aside))
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
    with output_errors(path), locked_folder(path.parent, wait=True) as is_locked:
        if is_locked:  # so nobody is replacing a folder here at this moment
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
        with locked_folder(folder) as is_abandoned:
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
    with locked_folder(path.parent, wait=True):
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
