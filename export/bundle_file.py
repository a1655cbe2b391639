"""Files of a bundle, read so that an error names the file that cannot be read, not the one that is being written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runtime.bundle import reading_errors
from runtime.files import blocks_of_file


def copy_bundle_file(source: Path, target: Path) -> None:
    """Copy a file; raise BundleError where the source cannot be read, OSError where the target cannot be written."""
    with target.open("wb") as stream:
        for block in _blocks(source):
            stream.write(block)


def _blocks(path: Path) -> Iterator[bytes]:
    with reading_errors(path):
        yield from blocks_of_file(path)
