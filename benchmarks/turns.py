"""Times several ways to do the same in turns, so that a busy machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.record import Row, reason_of

Candidate = Callable[[], object]


@dataclass
class Turns:
    """What came of candidates that were run in turns."""

    seconds: dict[str, list[float]] = field(default_factory=dict)  # by candidate and round
    results: dict[str, Any] = field(default_factory=dict)  # of the candidates' first runs
    failures: dict[str, str] = field(default_factory=dict)  # candidate to reason; these have no seconds


def timed_in_turns(candidates: Mapping[str, Candidate], rounds: int) -> dict[str, list[float]]:
    """Run every candidate once to warm up, then once in each round; return seconds by candidate and round."""
    for work in candidates.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, work in candidates.items():
            seconds[name].append(_seconds_of(work))
    return seconds


def tried_in_turns(openers: Mapping[str, Callable[[], Candidate]], rounds: int) -> Turns:
    """Open the candidates and time them in turns; one that fails, at any time, is left out from then on."""
    turns = Turns()
    candidates: dict[str, Candidate] = {}
    for name, open_candidate in openers.items():
        try:
            candidate = open_candidate()
            turns.results[name] = candidate()
        except Exception as error:  # a library may raise anything; what failed is recorded as failed
            turns.failures[name] = reason_of(error)
        else:
            candidates[name] = candidate
            turns.seconds[name] = []
    for _ in range(rounds):
        for name in [*turns.seconds]:
            try:
                turns.seconds[name].append(_seconds_of(candidates[name]))
            except Exception as error:
                turns.failures[name] = reason_of(error)
                del turns.seconds[name]
    return turns


def ratio_columns(samples: list[float], baseline: list[float]) -> Row:
    """Return a candidate's time as a multiple of the baseline's in the same round: median, lowest and highest."""
    ratios = sorted(sample / own for sample, own in zip(samples, baseline, strict=True))
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
    }


def _seconds_of(work: Candidate) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
