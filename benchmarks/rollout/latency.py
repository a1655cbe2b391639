"""How long cells that come at once take in every case, in the model and from files to rows; a single file's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.latency import measure_parts, works_at_once
from benchmarks.peers import resident_session
from benchmarks.record import OK, Row, failed
from benchmarks.rollout.cases import Case, in_time, opened
from benchmarks.rollout.options import RolloutOptions
from benchmarks.windows import Timing, Work, figures, time_in_turns
from runtime.classifier import Classifier

RESIDENT = "model without transfers"


def latency(options: RolloutOptions, cases: Sequence[Case], paths: Sequence[str]) -> dict[str, Any]:
    """Return the rows of all numbers of cells, with the runs of each window, and the parts of a single file."""
    rows: list[Row] = []
    parts: list[Row] = []
    for case in in_time(cases, options, rows):
        try:
            with opened(options, case) as classifier:
                works = works_at_once(classifier, paths, options.batch_sizes)
                if case.backend == "cuda":
                    works |= resident_works(classifier, options.batch_sizes)
                timings = time_in_turns(works, options.window)
                rows += [row_of(case, size, name, timing) for (name, size), timing in timings.by_work.items()]
                timings.check()
                parts.append(case.columns | measure_parts(classifier, paths, options.part_runs) | {"status": OK})
        except Exception as error:  # a backend may fail in the middle with anything; what was measured stays
            rows.append(case.columns | failed(error))
    return {"rows": rows, "parts": parts}


def resident_works(classifier: Classifier, sizes: Sequence[int]) -> dict[tuple[str, int], Work]:
    """Return the model's work on cells that lie in the card's memory already."""
    run_on = resident_session(classifier.bundle.path(classifier.bundle.variant(classifier.precision)))
    golden = classifier.bundle.golden().cells
    return {(RESIDENT, size): run_on(np.resize(golden, (size, *golden.shape[1:]))) for size in sizes}


def row_of(case: Case, size: int, name: str, timing: Timing) -> Row:
    """Sum up a timing, and keep its windows."""
    return {
        **case.columns,
        "cells": size,
        "measured": name,
        **figures(timing, size),
        "status": OK,
        "windows_ms": _rounded(timing.windows_ms),
        "warm_up_ms": _rounded([timing.warm_up_ms])[0],
    }


def _rounded(windows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(sample, 4) for sample in window] for window in windows]
