"""Start-up time and peak memory of every case, each in processes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.footprint import command, memory_row, seconds_to_first_row
from benchmarks.peak_memory import refuse_system_without_peak
from benchmarks.record import Row, tried
from benchmarks.rollout.cases import Case, in_time
from benchmarks.rollout.options import RolloutOptions


def cold_start(options: RolloutOptions, cases: Sequence[Case], paths: Sequence[str]) -> dict[str, Any]:
    """Return a row for each case: the seconds to the first result of several starts, and the peak memory of as many."""
    rows: list[Row] = []
    for case in in_time(cases, options, rows):
        rows.append(tried(case.columns, partial(_figures, options, case, paths)))
    return {"rows": rows}


def _figures(options: RolloutOptions, case: Case, paths: Sequence[str]) -> Row:
    settings = ("--precision", case.precision, "--batch-size", str(options.batch_size), "--unproved")
    classify = command(options.bundle, *settings, backend=case.backend)
    refuse_system_without_peak()
    starts, peaks = [], []
    for _ in range(options.starts):  # in turns, so that the starts do not all fall into the same good or bad moment
        starts.append(round(seconds_to_first_row(classify, paths[0]), 4))
        peaks.append(memory_row(classify, paths, options.start_cells)["peak_mb"])
    return {
        "starts": len(starts),
        "median_s": round(float(np.median(starts)), 3),
        "slowest_s": max(starts),
        "files": options.start_cells,
        "peak_mb": max(peaks),
        "starts_s": starts,
        "peaks_mb": peaks,
    }
