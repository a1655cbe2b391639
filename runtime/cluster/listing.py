"""The files of a job in the order they were found, on disk in blocks: the driver holds one at a time.

Written once, so that a resumed job has the same blocks. `_listing/0000000.parquet` holds BLOCKS_IN_A_FILE blocks, each
a row group.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.cluster.storage import StoredFile, is_url, stored_files
from runtime.errors import ClusterError, reason_of
from runtime.files import output_errors, written_aside
from runtime.inputs import files_of_name, nothing_found

BLOCKS_IN_A_FILE = 256
# A name may hold bytes that are not text.
SCHEMA = pa.schema([("path", pa.binary()), ("size", pa.int64())])


@dataclass(frozen=True)
class Listed:
    """What a listing holds."""

    files: int
    left_out: int  # hidden, companion or not of the wanted names


def write_listing(
    folder: Path, names: Sequence[str], include: Sequence[str], block_size: int, timeout_s: float
) -> Listed:
    """Find the files of the names and write them to `folder`, replacing what is there.

    Raises UsageError for a name that does not exist, for a store that takes longer than `timeout_s` to list a folder,
    and where nothing is found at all.
    """
    with output_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    left_out = 0

    def wanted() -> Iterator[StoredFile]:
        nonlocal left_out
        for file, is_wanted in _each(names, include, timeout_s):
            left_out += not is_wanted
            if is_wanted:
                yield file

    files = 0
    found = wanted()
    part = 0
    while first := _block(found, block_size):
        files += _write_part(folder / f"{part:07}.parquet", first, found, block_size)
        part += 1
    if not files:
        raise nothing_found(names, include)
    return Listed(files, left_out)


def _each(names: Sequence[str], include: Sequence[str], timeout_s: float) -> Iterator[tuple[StoredFile, bool]]:
    for name in names:
        if is_url(name):
            yield from stored_files(name, include, timeout_s)
        else:
            for path, is_wanted in files_of_name(name, include):
                yield StoredFile(os.path.abspath(path), None), is_wanted  # noqa: PTH100  of a million files


def _write_part(path: Path, first: Any, found: Iterator[StoredFile], block_size: int) -> int:
    """Write a file of the listing, which begins with the block `first`; return how many paths it holds."""
    files = len(first)
    with written_aside(path) as aside, output_errors(path), pq.ParquetWriter(aside, SCHEMA) as writer:
        writer.write_table(first)
        for _ in range(BLOCKS_IN_A_FILE - 1):
            block = _block(found, block_size)
            if not block:
                break
            writer.write_table(block)
            files += len(block)
    return files


def _block(found: Iterable[StoredFile], block_size: int) -> Any:
    """Return the next files as a table, None where there are none."""
    files = [*islice(found, block_size)]
    if not files:
        return None
    columns = [[os.fsencode(file.path) for file in files], [file.size for file in files]]
    return pa.table(columns, schema=SCHEMA)


def read_block(folder: Path, block: int) -> list[StoredFile]:
    """Return the files of a block; raise ClusterError where this machine does not see the listing."""
    path = folder / f"{block // BLOCKS_IN_A_FILE:07}.parquet"
    try:
        with pq.ParquetFile(path) as listing:
            table = listing.read_row_group(block % BLOCKS_IN_A_FILE)
    except OSError as error:
        raise ClusterError(
            f"expected the job's listing at {path} on every machine, found: {reason_of(error)}; "
            "put the output into a folder that all machines of the cluster share"
        ) from error
    paths, sizes = (table[name].to_pylist() for name in SCHEMA.names)
    return [StoredFile(os.fsdecode(name), size) for name, size in zip(paths, sizes, strict=True)]
