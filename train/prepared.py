"""Prepared images on disk: every cell decoded and resized once, then memory-mapped.

An entry is two files, `<key>.npy` (uint8 [N, size, size, 3], one row for each readable cell, in the order of the
hashes) and `<key>.json` (the hashes of the rows, the reasons for the cells that could not be read). The key covers
the cells' contents, the image size and the way of preparing, so that an entry never has to be invalidated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from runtime.errors import DataError, UnopenableCellError, UnreadableCellError, UsageError, one_line
from runtime.files import output_errors, write_text_aside, written_aside
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec
from train.dataset import Cell, in_parallel

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREPARATION_VERSION = 3  # raise it whenever runtime.preprocessing gives other pixels


class Pixels(Protocol):
    """Cells, uint8 RGB [N, size, size, 3]."""

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]: ...


class PixelFile:
    """Cells in a .npy file, mapped anew for each read: what was read does not stay in the process's memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # numpy reads the header with Python's parser, which now and then fails in two threads at once (CPython 3.11).
        self._opening = Lock()

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Return a copy of the cell of one row, or of those of several: a view would crash where the file shrinks."""
        try:
            with self._opening:
                pixels = np.load(self._path, mmap_mode="r")
            return np.array(pixels[rows])
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected the prepared images at {self._path}, found: {one_line(error)}; "
                "run again, with --resume where an epoch was finished"
            ) from error


@dataclass(frozen=True)
class PreparedImages:
    """The pixels of cells, found by their hash."""

    pixels: Pixels
    sha256_to_row: dict[str, int]
    unreadable: dict[str, str]  # hash to reason

    def rows(self, hashes: Sequence[str]) -> NDArray[np.intp]:
        """Return the row of each hash; raise DataError where a cell is not among them."""
        missing = [sha256 for sha256 in hashes if sha256 not in self.sha256_to_row]
        if missing:
            raise DataError(
                f"expected all {len(hashes)} cells of the run in --data or --test-data, {len(missing)} are missing or "
                f"not readable (first SHA-256: {missing[0][:12]}…); point to the folders that the run was begun on"
            )
        return np.array([self.sha256_to_row[sha256] for sha256 in hashes], dtype=np.intp)


def default_cache_folder() -> Path:
    """Return the user's cache folder for prepared images."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise UsageError("expected a home folder for the prepared images, found none; name one with --cache") from error
    return base / "allnet-edge" / "prepared"


def prepare_images(cells: Sequence[Cell], size: int, cache: Path | None = None) -> PreparedImages:
    """Open the prepared images of `cells` at size x size pixels, making them first where the cache lacks them.

    Raises OutputError where the cache cannot be written, DataError where no cell at all can be read.
    """
    sha256_to_path = {cell.sha256: cell.path for cell in cells}
    hashes = sorted(sha256_to_path)
    entry = (cache or default_cache_folder()) / _key(hashes, size)
    index_path, pixels_path = entry.with_suffix(".json"), entry.with_suffix(".npy")
    prepared = _opened(index_path, pixels_path, (len(hashes), size, size, 3))
    if prepared is None:
        unreadable = _write_pixels(pixels_path, [sha256_to_path[sha256] for sha256 in hashes], size)
        reasons = {hashes[row]: reason for row, reason in unreadable.items()}
        write_text_aside(index_path, json.dumps({"hashes": hashes, "unreadable": reasons}))
        prepared = PreparedImages(PixelFile(pixels_path), _rows(hashes, reasons), reasons)
    if not prepared.sha256_to_row:
        reason = next(iter(prepared.unreadable.values()))
        raise DataError(f"expected images, found none that can be read (files: {len(hashes)}; the first: {reason})")
    return prepared


def _opened(index_path: Path, pixels_path: Path, shape: tuple[int, ...]) -> PreparedImages | None:
    """Open an entry; None where there is none, or a damaged one, which is then made again."""
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        pixels = np.load(pixels_path, mmap_mode="r")
        if pixels.shape != shape or pixels.dtype != np.uint8:
            return None
        return PreparedImages(PixelFile(pixels_path), _rows(index["hashes"], index["unreadable"]), index["unreadable"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _rows(hashes: Sequence[str], unreadable: Mapping[str, str]) -> dict[str, int]:
    return {sha256: row for row, sha256 in enumerate(hashes) if sha256 not in unreadable}


def _key(hashes: Sequence[str], size: int) -> str:
    content = json.dumps({"version": PREPARATION_VERSION, "size": size, "hashes": list(hashes)})
    return f"{size}px-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def _write_pixels(target: Path, paths: Sequence[Path], size: int) -> dict[int, str]:
    """Write the pixels of all paths, zeros where a cell cannot be read; return row to reason for those."""
    with written_aside(target) as aside:
        with output_errors(target):
            pixels = np.lib.format.open_memmap(aside, "w+", np.uint8, (len(paths), size, size, 3))
            _reserve_space(aside)
        reasons = _fill(pixels, paths)
        del pixels  # unmaps the file: Windows does not rename a mapped one
    return {row: reason for row, reason in enumerate(reasons) if reason}


def _reserve_space(file: Path) -> None:
    """Let a full disk be an error now: written through a mapping, it would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _fill(pixels: NDArray[np.uint8], paths: Sequence[Path]) -> list[str]:
    """Prepare each path into its row; return the reason for each, empty where the cell was read."""
    height, width = pixels.shape[1:3]
    spec = ImageSpec(width=width, height=height)

    def prepare(row: int) -> str:
        try:
            pixels[row] = load_cell(paths[row], spec)
        except UnopenableCellError as error:  # not the cell's fault: kept as its reason, it would stay forever
            raise DataError(f"expected a file that can be read at {paths[row]}, it {error}; try again") from error
        except UnreadableCellError as error:
            return str(error)
        return ""

    return in_parallel(prepare, range(len(paths)), total=len(paths), title=f"preparing at {width} px")
