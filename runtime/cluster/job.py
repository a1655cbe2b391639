"""The output folder of a job: who works on it, what its rows are made with, and which blocks are done.

OUTPUT/block-0000000.parquet …   the rows; what reads a folder of Parquet files takes these alone
OUTPUT/_job.json                 the terms that all rows share, written when the listing is complete
OUTPUT/_listing/                 which files are in which block
OUTPUT/_job.lock                 locked while a job runs; the system lets it go with the process, however that ends
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

from runtime.cluster.result_block import Counts, block_path, read_counts
from runtime.errors import OutputError, UsageError
from runtime.files import output_errors, write_text_aside
from runtime.folders import refuse_foreign_folder
from runtime.locks import is_locked, try_lock

TERMS = "_job.json"
LOCK = "_job.lock"
LISTING = "_listing"
OURS = (TERMS, LOCK, f"{LISTING}/*.parquet", f"{LISTING}/.*", "block-*.parquet", ".*")
READERS = 16  # threads that look at the blocks that are done
LOOKED_AT_A_TIME = 4096  # blocks


@dataclass(frozen=True)
class Terms:
    """What decides what a job's rows say, and which there are."""

    inputs: tuple[str, ...]
    include: tuple[str, ...]
    block_size: int  # files
    files: int
    left_out: int  # files of the folders
    bundle: str  # SHA-256, as in the rows
    model: str  # for people
    precision: str
    threshold: float

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.files // self.block_size)


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for; None: what the job has, or for a new one what is usual."""

    inputs: tuple[str, ...]
    include: tuple[str, ...]
    block_size: int | None
    bundle: str
    precision: str | None
    threshold: float


@contextmanager
def locked_output(output: Path) -> Iterator[None]:
    """Make the folder and lock it for this process; raise OutputError where it is another job's or something else."""
    refuse_foreign_folder(output, LOCK, OURS)
    lock, is_new = output / LOCK, not output.exists()
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w", encoding="utf-8")
    with stream:
        # Where the file system keeps no locks, nothing is known to be locked.
        is_anothers = not try_lock(stream) and is_locked(lock)
        if is_anothers or not _is_at(lock, stream):
            raise OutputError(
                f"expected {output} for this job alone, found that another one writes to it; wait for it, or stop it"
            )
        try:
            yield
        finally:
            if not (output / TERMS).exists():
                _clear_unbegun(output, is_new=is_new)


def _is_at(path: Path, stream: TextIO) -> bool:
    """Say whether an open file still is the one under its name: a job that was refused removes its own."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _clear_unbegun(output: Path, *, is_new: bool) -> None:
    """Leave nothing of a job that was refused before it had terms."""
    shutil.rmtree(output / LISTING, ignore_errors=True)
    with suppress(OSError):
        (output / LOCK).unlink()
        if is_new:
            output.rmdir()


def read_terms(output: Path) -> Terms | None:
    """Return the terms of the job that was begun in the folder, None where none was; raise OutputError for others."""
    path = output / TERMS
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Terms(**{**raw, "inputs": tuple(raw["inputs"]), "include": tuple(raw["include"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"expected the terms of a job in {path}, found: {error}; choose another --out") from error


def write_terms(output: Path, terms: Terms) -> None:
    """Record the terms: from then on the listing counts as complete."""
    write_text_aside(output / TERMS, json.dumps(asdict(terms), indent=2) + "\n")


def refuse_other_terms(output: Path, begun: Terms, wanted: Wanted) -> None:
    """Raise UsageError where the rows to come would not fit those that are there."""
    for field in fields(Wanted):
        asked, found = getattr(wanted, field.name), getattr(begun, field.name)
        if asked is not None and asked != found:
            raise UsageError(
                f"expected the {field.name.replace('_', ' ')} of the job that was begun in {output}, {_text(found)}, "
                f"received {_text(asked)}; give the same options as then, or another --out"
            )


def _text(value: object) -> str:
    return " ".join(map(str, value)) or "(none)" if isinstance(value, tuple) else str(value)


def clear_abandoned(output: Path) -> None:
    """Remove what writers that were killed left beside the blocks."""
    for aside in output.glob(".block-*.parquet"):
        aside.unlink(missing_ok=True)


def done_blocks(output: Path, blocks: int) -> Iterator[tuple[int, Counts]]:
    """Yield the blocks that have their file, in order, and what they hold."""

    def look(block: int) -> Counts | None:
        path = block_path(output, block)
        return read_counts(path) if path.exists() else None

    with ThreadPoolExecutor(READERS, thread_name_prefix="done") as pool:
        for first in range(0, blocks, LOOKED_AT_A_TIME):
            numbers = range(first, min(first + LOOKED_AT_A_TIME, blocks))
            for block, counts in zip(numbers, pool.map(look, numbers), strict=True):
                if counts is not None:
                    yield block, counts
