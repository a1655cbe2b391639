"""The Parquet file of a block: a row for each of its files, and in its metadata what was counted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import OutputError, one_line
from runtime.files import output_errors, written_aside
from runtime.outcomes import Outcomes
from runtime.results import row_of
from runtime.schema import Prediction
from runtime.shift import Appearances

COUNTS = b"allnet"  # the key in the file's metadata
# The columns of `runtime.classify --audit`. In a name, bytes that are not text appear as \xNN.
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "label")),
        ("p_all", pa.float64()),
        *((name, pa.string()) for name in ("status", "reason")),
        ("seconds", pa.float64()),
        *((name, pa.string()) for name in ("sha256", "time")),
        ("threshold", pa.float64()),
        *((name, pa.string()) for name in ("bundle", "precision", "backend", "version")),
    ]
)


@dataclass(frozen=True)
class Counts:
    """What a block holds."""

    outcomes: Outcomes
    appearances: Appearances
    unopened: int  # errors of files that could not be opened: the same command tries them again

    def to_json(self) -> str:
        """Return the counts as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Counts:
        """Return what `to_json` wrote; raise ValueError, KeyError or TypeError where it did not."""
        counts = json.loads(text)
        return cls(Outcomes(**counts["outcomes"]), Appearances(**counts["appearances"]), counts["unopened"])


def counts_of(predictions: Sequence[Prediction]) -> Counts:
    """Count the rows of a block."""
    outcomes, appearances = Outcomes(), Appearances()
    for each in predictions:
        outcomes.add(each)
        appearances.add(each)
    return Counts(outcomes, appearances, sum(each.is_unopened for each in predictions))


def block_path(output: Path, block: int) -> Path:
    """Return where the file of a block stands."""
    return output / f"block-{block:07}.parquet"


def table_of(predictions: Sequence[Prediction]) -> Any:
    """Return the rows of a block."""
    rows = [row_of(each) for each in predictions]
    for row in rows:
        row["path"] = os.fsencode(row["path"]).decode(errors="backslashreplace")
    return pa.Table.from_pylist(rows, SCHEMA)


def write_block(output: Path, block: int, table: Any, counts: str) -> None:
    """Write the file of a block and its counts, whole or not at all; raise OutputError where it cannot be."""
    path = block_path(output, block)
    try:
        with written_aside(path) as aside, output_errors(path):
            pq.write_table(table.replace_schema_metadata({COUNTS: counts}), aside)
    except OutputError as error:
        raise OutputError(f"{error}; the blocks so far are kept: then run the same command to continue") from error


def read_counts(path: Path) -> Counts:
    """Return what the file of a block holds; raise OutputError where it is not one."""
    try:
        return Counts.from_json(pq.read_metadata(path).metadata[COUNTS])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"expected a block of this job at {path}, found something else: {one_line(error)}; delete the "
            "file, then the same command makes it again"
        ) from error
