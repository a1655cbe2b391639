"""Cells a second by the number of CPUs that the process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.latency import FILE_TO_RESULT, MODEL, file_to_result_work, model_work
from benchmarks.record import OK, Row, failed, skipped
from benchmarks.rollout.cases import Case, opened
from benchmarks.rollout.options import RolloutOptions
from benchmarks.windows import Timing, figures, time_in_turns
from runtime.cpus import available_cpus


def scaling(options: RolloutOptions, case: Case, paths: Sequence[str]) -> dict[str, Any]:
    """Return a row for each number of CPUs and each way, model alone and file to result."""
    if not hasattr(os, "sched_setaffinity"):
        return {"rows": [case.columns | skipped("this system gives a process no chosen CPUs")]}
    rows: list[Row] = []
    for cpus in cpu_counts(available_cpus()):
        try:
            with limited_to_cpus(cpus):
                _measure(options, case, cpus, paths, rows)
        except Exception as error:  # as for latency
            rows.append({**case.columns, "cpus": cpus, **failed(error)})
    return {"rows": rows}


def cpu_counts(available: int) -> list[int]:
    """Return 1, 2, 4 and so on, and all of them."""
    powers = [2**power for power in range(available.bit_length()) if 2**power < available]
    return [*powers, available]


@contextmanager
def limited_to_cpus(count: int) -> Iterator[None]:
    """Let this thread, and those that it starts meanwhile, run on `count` of its CPUs."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _measure(options: RolloutOptions, case: Case, cpus: int, paths: Sequence[str], rows: list[Row]) -> None:
    batch = min(options.batch_size, max(options.batch_sizes))
    files = options.scaling_batches * batch * cpus  # each CPU has a worker
    with opened(options, case) as classifier:
        works = {
            (MODEL, batch): model_work(classifier, paths, batch),
            (FILE_TO_RESULT, files): file_to_result_work(classifier, paths, files),
        }
        timings = time_in_turns(works, options.window)
    rows += [_row(case, cpus, name, size, timing) for (name, size), timing in timings.by_work.items()]
    timings.check()


def _row(case: Case, cpus: int, name: str, size: int, timing: Timing) -> Row:
    medians = [float(np.median(window)) for window in timing.windows_ms]
    return {
        **case.columns,
        "cpus": cpus,
        "measured": name,
        "cells": size,
        **figures(timing, size),
        "status": OK,
        "windows_cells_per_second": [round(1000 * size / median, 1) for median in medians],
    }
