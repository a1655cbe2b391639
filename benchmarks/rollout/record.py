"""What a rollout keeps of itself."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from benchmarks.record import FAILED, OK, Row
from runtime.errors import DataError
from runtime.files import write_text_aside
from runtime.outcomes import nouns

Record = dict[str, Any]
SCHEMA_VERSION = 6
MEASUREMENT = "rollout"
NAME = "record.json"
INTERRUPTED = "interrupted"  # why what Ctrl-C cut off failed

# What is read of a record again, as shapes: a type; (shape,) for a list of one or more, [shape] also for none; {key:
# shape} for an object with these keys and perhaps others, {str: shape} for one with any keys.
NUMBER = int | float
CASE = {"backend": str, "precision": str}
INTERVAL = {"value": NUMBER, "low": NUMBER, "high": NUMBER}
RATES = ("sensitivity", "specificity", "auc")
SHAPE = {
    "environment": {"cpu": str, "cpus": int, "gpus": [{"name": str}]},
    "bundle": {"content_sha256": str},
    "data": {"source": str, "timed_files": int},
    "options": {"quick": bool, "batch_size": int, "sustained_minutes": NUMBER},
    "deployed": CASE,
    "load": {"busy": bool, "others": {str: NUMBER}},
    "sections": {
        section: {"rows": [{"status": str}]}
        for section in ("cold_start", "latency", "scaling", "sustained", "parity", "peers")
    },
}
MEASURED_ROW: dict[str, dict[str, Any]] = {
    "cold_start": {**CASE, "starts_s": (NUMBER,), "peaks_mb": (NUMBER,), "slowest_s": NUMBER, "peak_mb": NUMBER},
    "latency": {
        **CASE,
        "cells": int,
        "measured": str,
        "windows_ms": ((NUMBER,),),
        **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), NUMBER),
    },
    "scaling": {**CASE, "cpus": int, "measured": str, "windows_cells_per_second": (NUMBER,)},
    "sustained": {**CASE, "cells_per_minute": NUMBER, "last_to_first": NUMBER | None},
    "peers": {"peer": str},
}
RATIO = {"ratio": NUMBER, "lowest": NUMBER, "highest": NUMBER}
JUDGED = {"threshold": NUMBER, "cells": ({"sha256": str, "label": int},)}
PROOF = {
    "failures": [str],
    "flipped": int,
    "cells": int,
    **dict.fromkeys(("keras", "variant"), dict.fromkeys(RATES, NUMBER)),
}


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


def lasted(record: Record) -> str:
    """Return how long the sustained run was to last, such as "10 minutes" or "5 seconds"."""
    minutes = record["options"]["sustained_minutes"]
    if minutes >= 1:
        return f"{minutes:g} {nouns(minutes, 'minute')}"
    seconds = f"{60 * minutes:.0f}"
    return f"{seconds} {nouns(float(seconds), 'second')}"


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
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"expected a record of benchmarks.rollout at {path}, found: {error}; check the path") from error
    if not isinstance(record, dict) or record.get("measurement") != MEASUREMENT:
        raise DataError(f"expected a record of benchmarks.rollout at {path}, found another file; check the path")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"expected a record of schema version {SCHEMA_VERSION} at {path}, found {record.get('schema_version')}; "
            "measure again with this version"
        )
    for misfit in _misfits_of(record):
        raise DataError(f"expected a record as benchmarks.rollout writes it at {path}, found {misfit}; measure again")
    return record


def _misfits_of(record: Record) -> Iterator[str]:
    """Yield in which ways a record differs from the shapes; what is yielded first makes later checks meaningless."""
    yield from _misfits(record, SHAPE, "the record")
    if record["load"]["busy"] and not record["load"]["others"]:
        yield "load: busy, and none of the others"
    for section, shape in MEASURED_ROW.items():
        for row in measured_rows(record, section):
            yield from _misfits(row, shape | (RATIO if "ratio" in row else {}), f"a row of {section}")
    if measured_rows(record, "sustained"):
        yield from _misfits(record["sections"]["sustained"], {"cells_per_minute": (NUMBER,)}, "sustained")
    parity = record["sections"]["parity"]
    if "proofs" in parity:
        yield from _misfits(parity, {**JUDGED, "proofs": {str: PROOF}}, "parity")
        of_each = {"metrics": dict.fromkeys(RATES, INTERVAL), "answers": [NUMBER]}
        named = {key: dict.fromkeys(parity["proofs"], shape) for key, shape in of_each.items()}
        yield from _misfits(parity, named, "parity")
        for name in parity["proofs"]:
            if len(parity["answers"][name]) != len(parity["cells"]):
                yield f"parity: another number of answers of {name} than of cells"


def _misfits(value: Any, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, dict) and isinstance(value, dict):
        expected = dict.fromkeys(value, shape[str]) if str in shape else shape
        if missing := [key for key in expected if key not in value]:
            yield f"{where} missing {', '.join(missing)}"
        for key, inner in expected.items():
            yield from _misfits(value[key], inner, f"{where}: {key}")
    elif isinstance(shape, list | tuple) and isinstance(value, list):
        if isinstance(shape, tuple) and not value:
            yield f"{where} empty"
        for item in value:
            yield from _misfits(item, shape[0], where)
    elif isinstance(shape, dict | list | tuple) or not _is_a(value, shape):
        yield f"{where} {reprlib.repr(value)}"


def _is_a(value: object, kind: type | UnionType) -> bool:
    if isinstance(value, bool):
        return kind is bool
    is_finite = not isinstance(value, int | float) or abs(value) <= sys.float_info.max  # JSON's reader takes NaN too
    return isinstance(value, kind) and is_finite
