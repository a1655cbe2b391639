"""What a rollout keeps of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import FAILED, OK, Row
from runtime.errors import DataError
from runtime.files import write_text_aside

Record = dict[str, Any]
SCHEMA_VERSION = 5
MEASUREMENT = "rollout"
NAME = "record.json"
INTERRUPTED = "interrupted"  # why what Ctrl-C cut off failed
KEYS = (
    "schema_version",
    "measurement",
    "environment",
    "bundle",
    "data",
    "options",
    "deployed",
    "sections",
    "load",
    "budget",
    "verdict",
)


def measured_rows(record: Record, section: str, **equal: object) -> list[Row]:
    """Return the rows of a section that hold figures, or of those the ones whose columns are `equal`."""
    return [
        row
        for row in record["sections"][section]["rows"]
        if row["status"] == OK and all(row.get(key) == value for key, value in equal.items())
    ]


def case_name(row: Row) -> str:
    """Return how tables call the case of a row, such as "cpu int8"."""
    return f"{row['backend']} {row['precision']}"


def failures_of(record: Record) -> Iterator[tuple[str, Row]]:
    """Yield each row that failed, with the name of its section."""
    for name, section in record["sections"].items():
        for row in section["rows"]:
            if row["status"] == FAILED:
                yield name, row


def write(record: Record, out: Path) -> Path:
    """Write the record; raise OutputError where it cannot be written."""
    write_text_aside(out / NAME, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return out / NAME


def read(path: Path) -> Record:
    """Read a record, or the one in a folder; raise DataError where it is not one of this version."""
    path = path / NAME if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a record of benchmarks.rollout at {path}, found: {error}") from error
    if not isinstance(record, dict) or record.get("measurement") != MEASUREMENT:
        raise DataError(f"expected a record of benchmarks.rollout at {path}, found another file")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"expected a record of schema version {SCHEMA_VERSION} at {path}, found {record.get('schema_version')}; "
            "measure again with this version"
        )
    missing = [key for key in KEYS if key not in record]
    if missing:
        raise DataError(f"expected the keys {', '.join(KEYS)} in {path}, missing {', '.join(missing)}; measure again")
    return record
