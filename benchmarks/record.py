"""A measurement as data: rows printed as a table and kept as JSON beside their environment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmarks.environment import environment
from runtime.errors import AllnetError, one_line
from runtime.files import output_errors, write_text_aside

Row = dict[str, Any]

OK, FAILED, SKIPPED = "ok", "failed", "skipped"  # the status of a row
LONGEST_REASON = 300  # characters; a framework's message may fill pages


def check_record_folder(out: Path | None) -> None:
    """Make the folder for the record; raise OutputError where nothing can be written there, before any measuring."""
    if out:
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=out):
                pass


def reason_of(error: BaseException) -> str:
    """Return an error as one line that is not too long; only those that are meant for the user go without a name."""
    text = one_line(error)
    if not isinstance(error, AllnetError) and str(error):
        text = f"{type(error).__name__}: {text}"
    return text[:LONGEST_REASON]


def failed(error: BaseException) -> Row:
    """Return the columns of a row whose measurement failed."""
    return {"status": FAILED, "reason": reason_of(error)}


def skipped(reason: str) -> Row:
    """Return the columns of a row that was not measured, by intent."""
    return {"status": SKIPPED, "reason": reason}


def tried(row: Row, work: Callable[[], Row]) -> Row:
    """Return the row with what `work` measures, or with the reason why it failed."""
    try:
        return row | work() | {"status": OK}
    except Exception as error:  # a framework may raise anything, such as when the card's memory is full
        return row | failed(error)


def write_record(out: Path | None, name: str, bundle: Path | None, content: dict[str, Any]) -> None:
    """Write out/<name>.json, if `out` is given: what was measured, and on what; a number that is not finite is null."""
    if not out:
        return
    record = {"measurement": name, "environment": asdict(environment(bundle)), **content}
    write_text_aside(out / f"{name}.json", json.dumps(finite(record), indent=2, allow_nan=False) + "\n")
    print(f"Record: {out / name}.json")


def finite(value: Any) -> Any:
    """Return a value that JSON can hold, with null for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
