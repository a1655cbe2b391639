"""What a rollout must keep to: a file of limits, and the verdict on a record."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.latency import FILE_TO_RESULT
from benchmarks.record import OK, Row
from benchmarks.rollout.record import RATES, Record, case_name, measured_rows
from export.gate import ROUNDING
from runtime.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AT_MOST, AT_LEAST = "at most", "at least"


@dataclass(frozen=True)
class Budget:
    """Limits for the deployed case; None: there is none."""

    p50_ms: float | None = None  # of a single file, from file to result
    p95_ms: float | None = None
    p99_ms: float | None = None
    cells_per_second: float | None = None  # file to result, sustained: all cells by all the time
    slowdown: float | None = None  # share of the rate that is lost from the first third of the run to the last, 0..1
    cold_start_s: float | None = None  # the slowest start
    memory_mb: float | None = None  # peak resident memory
    delta_sensitivity: float | None = None  # change against the reference, either way, 0..1
    delta_specificity: float | None = None
    delta_auc: float | None = None
    flipped: float | None = None  # share of the cells with another label, 0..1
    sensitivity: float | None = None  # of the deployed case itself, 0..1
    specificity: float | None = None
    auc: float | None = None


SENSES = {field.name: AT_LEAST if field.name in ("cells_per_second", *RATES) else AT_MOST for field in fields(Budget)}
SHARES = ("slowdown", "flipped", *RATES, *(f"delta_{name}" for name in RATES))  # 0..1, which no percentage may be


def read_budget(path: Path) -> Budget:
    """Read a TOML or JSON file of limits; raise UsageError where it is none."""
    try:
        raw = _parsed(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"expected a budget in TOML or JSON at {path}, found: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"expected a budget at {path} to be a table of limits, found {type(raw).__name__}")
    unknown = sorted(raw.keys() - SENSES.keys())
    if unknown:
        raise UsageError(f"expected the limits {', '.join(SENSES)} in {path}, found {', '.join(unknown)}; correct it")
    for name, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
            raise UsageError(f"expected {name} in {path} to be a number of 0 or more, found {value!r}")
        if name in SHARES and value > 1:
            raise UsageError(f"expected {name} in {path} to be a share from 0 to 1, found {value:g}")
    if not raw:
        raise UsageError(f"expected at least one limit in {path}, found none; {', '.join(SENSES)} are known")
    return Budget(**raw)


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8-sig")  # Windows editors write a mark before it
    if path.suffix.lower() == ".json":
        return json.loads(text, object_pairs_hook=_each_once)
    return tomllib.loads(text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the limits of a JSON table; raise ValueError where one stands twice, as TOML's parser does."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(f"the limits {', '.join(name for name, _ in pairs)}, of which one is given twice")
    return table


def judge_budget(budget: Budget, record: Record) -> list[Row]:
    """Return a row for each limit; what was not measured keeps no limit."""
    rows = []
    for name, sense in SENSES.items():
        limit = getattr(budget, name)
        if limit is None:
            continue
        found = measured_value(name, record)
        beyond = None if found is None else limit - found if sense == AT_LEAST else found - limit
        rows.append(
            {
                "limit": name,
                "sense": sense,
                "value": float(limit),
                "found": None if found is None else round(found, 6),
                "kept": beyond is not None and beyond <= ROUNDING,
            }
        )
    return rows


def measured_value(name: str, record: Record) -> float | None:
    """Return what a record says of the deployed case about a limit; None where that was not measured."""
    found = _EXTRACTORS[name](record)
    return None if found is None else float(found)


def why_not_measured(name: str, record: Record) -> str:
    """Return why a record says nothing of a limit, and what would change that; nothing where that is not known."""
    section = _SECTIONS.get(name, "parity")
    case = case_name(record["deployed"])
    own = {**record["deployed"], "variant": case}
    for row in record["sections"][section]["rows"]:
        if row["status"] != OK and all(row.get(key, value) == value for key, value in own.items()):
            return str(row["reason"])
    if name == "slowdown":
        return "the sustained run was too short to tell; one of --sustained 10 does"
    if record["sections"][section].get("reference_case") == case:
        return f"{case} is itself what the others are compared with; give the Keras model's run with --run"
    return ""


def deployed_rows(record: Record, section: str) -> list[Row]:
    """Return a section's rows of the deployed case that were measured."""
    return measured_rows(record, section, **record["deployed"])


def single_file_row(record: Record) -> Row | None:
    """Return the latency of a single file, from file to result."""
    rows = measured_rows(record, "latency", **record["deployed"], measured=FILE_TO_RESULT, cells=1)
    return rows[0] if rows else None


def proof_of(record: Record) -> Row | None:
    """Return the gate's proof of the deployed case."""
    proof: Row | None = record["sections"]["parity"].get("proofs", {}).get(case_name(record["deployed"]))
    return proof


def _compared(record: Record) -> Row | None:
    """Return the proof of the deployed case, None where it is what the others are compared with."""
    is_reference = record["sections"]["parity"].get("reference_case") == case_name(record["deployed"])
    return None if is_reference else proof_of(record)


def _latency(key: str) -> Callable[[Record], float | None]:
    return lambda record: row[key] if (row := single_file_row(record)) else None


def _first(section: str, key: str) -> Callable[[Record], float | None]:
    return lambda record: next((row.get(key) for row in deployed_rows(record, section)), None)


def _rate(record: Record) -> float | None:
    rate = _first("sustained", "cells_per_minute")(record)
    return None if rate is None else rate / 60


def _slowdown(record: Record) -> float | None:
    ratio = _first("sustained", "last_to_first")(record)
    return None if ratio is None else max(1 - ratio, 0.0)


def _change(key: str) -> Callable[[Record], float | None]:
    return lambda record: abs(proof["variant"][key] - proof["keras"][key]) if (proof := _compared(record)) else None


def _own(key: str) -> Callable[[Record], float | None]:
    return lambda record: proof["variant"][key] if (proof := proof_of(record)) else None


def _flipped(record: Record) -> float | None:
    proof = _compared(record)
    return proof["flipped"] / proof["cells"] if proof else None


_SECTIONS = {  # the section of the record that measures a limit, where it is not parity
    **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), "latency"),
    **dict.fromkeys(("cells_per_second", "slowdown"), "sustained"),
    **dict.fromkeys(("cold_start_s", "memory_mb"), "cold_start"),
}
_EXTRACTORS: dict[str, Callable[[Record], float | None]] = {
    **{name: _latency(name) for name in ("p50_ms", "p95_ms", "p99_ms")},
    "cells_per_second": _rate,
    "slowdown": _slowdown,
    "cold_start_s": _first("cold_start", "slowest_s"),
    "memory_mb": _first("cold_start", "peak_mb"),
    **{f"delta_{name}": _change(name) for name in RATES},
    "flipped": _flipped,
    **{name: _own(name) for name in RATES},
}
