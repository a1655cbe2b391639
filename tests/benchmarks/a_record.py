"""A record of a rollout, small, with figures that tests change."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from benchmarks.rollout.record import MEASUREMENT, SCHEMA_VERSION
from benchmarks.rollout.verdict import verdict_of
from export.gate import judge
from runtime.schema import Tolerance
from train.metrics import measure

CASE = {"backend": "cpu", "precision": "fp32"}
LABELS = np.arange(60) % 2 == 0
GOOD = np.where(LABELS, 0.9, 0.1).astype(np.float32) + np.linspace(-0.05, 0.05, 60, dtype=np.float32)


def a_record(**changes: Any) -> dict[str, Any]:
    """Return a record.

    `windows`, `rates`, `starts`, `memory`, `p_all`, `peer`, `cpu`, `busy`, `others` and `budget` may be given.
    """
    windows = changes.get("windows", [[10.0, 10.2], [10.1, 10.3], [9.9, 10.4]])
    rates = changes.get("rates", [600.0, 610.0, 590.0])
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "measurement": MEASUREMENT,
        "environment": {"cpu": changes.get("cpu", "A"), "cpus": 2, "gpus": [], "time": "2026-01-01T00:00:00+00:00"},
        "bundle": {
            "content_sha256": "0" * 64,
            "folder": "bundle",
            "model": "compact",
            "variants": [{"precision": "fp32", "proved": True}],
        },
        "options": {"quick": False, "batch_size": 16, "sustained_minutes": 10.0},
        "data": {"source": "cells", "timed_files": 60, "left_out": {}},
        "deployed": CASE,
        "load": {
            "busy": changes.get("busy", False),
            "others": changes.get("others", {"before": 0.5}),
            "processes_before": [],
        },
        "sections": {
            "latency": {"rows": [latency_row(windows, name) for name in ("model", "file to result")]},
            "sustained": {
                "cells_per_minute": rates,
                "rows": [{**CASE, "cells_per_minute": float(np.mean(rates)), "last_to_first": 0.95, "status": "ok"}],
            },
            "cold_start": {
                "rows": [
                    {
                        **CASE,
                        "starts_s": changes.get("starts", [0.5, 0.6]),
                        "slowest_s": max(changes.get("starts", [0.5, 0.6])),
                        "peak_mb": changes.get("memory", 150.0),
                        "peaks_mb": [changes.get("memory", 150.0)] * len(changes.get("starts", [0.5, 0.6])),
                        "status": "ok",
                    }
                ]
            },
            "scaling": {"rows": []},
            "peers": {
                "rows": [
                    {"peer": "classify", "ratio": 1.0, "lowest": 1.0, "highest": 1.0, "status": "ok"},
                    {
                        "peer": "other",
                        **changes.get("peer", {"ratio": 2.0, "lowest": 1.9, "highest": 2.1}),
                        "status": "ok",
                    },
                ]
            },
            "parity": parity(changes.get("p_all", GOOD), changes.get("tolerance", Tolerance(flipped=0.5))),
        },
    }
    record["budget"] = changes.get("budget", [])
    record["verdict"] = verdict_of(record)
    return record


def latency_row(windows: list[list[float]], name: str) -> dict[str, Any]:
    samples = np.concatenate(windows)
    p50, p95, p99 = (float(value) for value in np.percentile(samples, [50, 95, 99]))
    row = {**CASE, "cells": 1, "measured": name, "windows_ms": windows, "status": "ok"}
    return row | {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def parity(p_all: Any, tolerance: Tolerance) -> dict[str, Any]:
    verdict = judge("cpu fp32", {8: p_all}, GOOD, LABELS, threshold=0.5, tolerance=tolerance, data="drawn")
    answers = {"keras": GOOD, "cpu fp32": p_all}
    return {
        "rows": [{"variant": "cpu fp32", "status": "ok"}],
        "threshold": 0.5,
        "doubts": [],
        "proofs": {"cpu fp32": asdict(verdict.proof)},
        "metrics": {name: metrics_of(own.tobytes()) for name, own in answers.items()},
        "cells": [
            {"path": f"{number}.bmp", "sha256": f"{number}", "subject": "", "label": int(label)}
            for number, label in enumerate(LABELS)
        ],
        "answers": {name: [float(p) for p in own] for name, own in answers.items()},
    }


@cache
def metrics_of(answers: bytes) -> dict[str, Any]:
    """Return the metrics of float32 answers; their intervals take the longest of a record."""
    return asdict(measure(LABELS, np.frombuffer(answers, np.float32), 0.5))
