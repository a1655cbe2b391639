"""A measurement as data: rows printed as a table and kept as JSON beside their environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmarks.environment import environment
from runtime.files import output_errors, write_text_aside

Row = dict[str, Any]


def print_table(rows: Sequence[Row]) -> None:
    """Print rows that share their keys as a table; numbers to the right, text to the left."""
    table = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    is_number = [isinstance(value, int | float) for value in rows[0].values()]
    for line in table:
        cells = [
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, is_number, strict=True)
        ]
        print("  ".join(cells).rstrip())


def check_record_folder(out: Path | None) -> None:
    """Make the folder for the record; raise OutputError where nothing can be written there, before any measuring."""
    if out:
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=out):
                pass


def write_record(out: Path, name: str, bundle: Path | None, content: dict[str, Any]) -> None:
    """Write out/<name>.json: what was measured, and on what."""
    record = {"measurement": name, "environment": asdict(environment(bundle)), **content}
    write_text_aside(out / f"{name}.json", json.dumps(record, indent=2) + "\n")
    print(f"Record: {out / name}.json")


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
