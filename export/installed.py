"""The folder on a device that holds the bundle in use and the one before it.

DIR/current              a link to the bundle in use; replaced in one step, it leads to a whole bundle at any moment
DIR/previous             a link to the one before it
DIR/installed/0007-3f2a…  a bundle: the number of its installation, the first digits of its hash
DIR/.previous            while a switch goes on: what is to become `previous`, once `current` leads elsewhere

Whoever changes the folder holds it; what a killed process left is put in order by the next one that does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputError
from runtime.files import flush_folder, output_errors
from runtime.locks import locked_folder

CURRENT = "current"
PREVIOUS = "previous"
PENDING = ".previous"
BUNDLES = "installed"
OUR_NAMES = re.compile(r"current|previous|\.previous|\.(current|previous|\.previous)\.new|installed")
BUNDLE_NAME = re.compile(r"(\d{4,})-([0-9a-f]{12})")
UNFINISHED_NAME = re.compile(rf"\.{BUNDLE_NAME.pattern}\.unfinished-.*")
HASH_DIGITS = 12


class InstallFolder:
    """A folder that bundles are installed into, held against other processes by `held_install_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def current(self) -> Path | None:
        """The folder of the bundle in use; None where there is none."""
        return self._behind(CURRENT)

    @property
    def previous(self) -> Path | None:
        """The folder of the bundle before it; None where there is none."""
        return self._behind(PREVIOUS)

    def new_place(self, content_sha256: str) -> Path:
        """Return where a bundle of that content is to be written: no folder stands there."""
        numbers = [int(found[1]) for found in map(BUNDLE_NAME.fullmatch, self._bundle_names()) if found]
        return self.path / BUNDLES / f"{max(numbers, default=0) + 1:04d}-{content_sha256[:HASH_DIGITS]}"

    @contextmanager
    def switched(self, bundle: Path) -> Iterator[Path]:
        """Let `current` lead to another bundle, and yield it to be proved; lead back if what is done inside fails.

        What was in use becomes `previous`, unless it is the same bundle, installed anew. Others are removed.
        """
        old = self.current
        with output_errors(bundle.parent):
            flush_folder(bundle.parent)
        if old and not is_of_content(old, bundle.name.split("-")[1]):
            self._link(PENDING, old)
        try:
            self._link(CURRENT, bundle)
            yield self.path / CURRENT
        except BaseException:
            self._lead_back(old)
            raise
        self.put_in_order()

    def put_in_order(self) -> None:
        """Finish a switch that was cut off, and remove what no link leads to."""
        with output_errors(self.path):
            pending = self._behind(PENDING)
            if pending and pending != self.current:
                (self.path / PENDING).replace(self.path / PREVIOUS)
            (self.path / PENDING).unlink(missing_ok=True)
            flush_folder(self.path)  # before what the old links lead to goes
        for name in self._bundle_names():
            folder = self.path / BUNDLES / name
            if folder not in (self.current, self.previous):
                shutil.rmtree(folder, ignore_errors=True)

    def _lead_back(self, old: Path | None) -> None:
        if old:
            self._link(CURRENT, old)
        else:
            (self.path / CURRENT).unlink(missing_ok=True)
        self.put_in_order()

    def _link(self, name: str, bundle: Path) -> None:
        aside = self.path / f".{name}.new"
        with output_errors(self.path / name):
            aside.unlink(missing_ok=True)
            aside.symlink_to(Path(BUNDLES) / bundle.name)
            aside.replace(self.path / name)
            flush_folder(self.path)

    def _behind(self, name: str) -> Path | None:
        link = self.path / name
        if not link.is_symlink():
            if link.exists():
                raise OutputError(f"expected {link} to be a link that an installation made, found none; move it away")
            return None
        target = link.readlink()
        if target.parent != Path(BUNDLES) or not BUNDLE_NAME.fullmatch(target.name):
            raise OutputError(
                f"expected {link} to lead into {self.path / BUNDLES}, found that it leads to {target}; remove the link"
            )
        return self.path / target if (self.path / target).is_dir() else None

    def _bundle_names(self) -> list[str]:
        """Return the names of the bundles, whole or not."""
        return [folder.name for folder in (self.path / BUNDLES).iterdir()]


def is_of_content(bundle: Path, content_sha256: str) -> bool:
    """Say whether an installed bundle's folder is named after that content."""
    return bundle.name.split("-")[1] == content_sha256[:HASH_DIGITS]


@contextmanager
def held_install_folder(path: Path) -> Iterator[InstallFolder]:
    """Make the folder where it is missing, put it in order, and keep other installations out until the end.

    Raises OutputError where it cannot be written, holds something else, or is held by another installation.
    """
    if os.name == "nt":
        raise OutputError("expected Linux or macOS to install a bundle, found Windows; name the bundle with --bundle")
    path = Path(os.path.abspath(path))  # noqa: PTH100  a link to the folder itself stays as it is named
    _refuse_foreign(path)
    with output_errors(path):
        (path / BUNDLES).mkdir(parents=True, exist_ok=True)
    with locked_folder(path) as is_locked:
        if not is_locked:
            raise OutputError(
                f"expected {path} to be free, found another installation that is going on, or a file system without "
                "locks; wait for it to end, or choose a folder on a local disk"
            )
        folder = InstallFolder(path)
        folder.put_in_order()
        yield folder


def _refuse_foreign(path: Path) -> None:
    """Raise OutputError where a folder holds what no installation wrote: unknown bundles are removed from it."""
    with output_errors(path):
        names = [entry.name for entry in path.iterdir()] if path.exists() else []
        found = [name for name in names if not OUR_NAMES.fullmatch(name)]
        if BUNDLES in names:
            names = [entry.name for entry in (path / BUNDLES).iterdir()]
            found += [name for name in names if not (BUNDLE_NAME.fullmatch(name) or UNFINISHED_NAME.fullmatch(name))]
    if found:
        raise OutputError(
            f"expected a new folder, or one that holds installed bundles alone, found {found[0]} in {path}; "
            "choose another folder"
        )
