"""File to result for minutes: how many cells a minute, and whether the machine slows down when it is warm."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.cells import repeated_for
from benchmarks.latency import refuse_without_answer
from benchmarks.record import OK, Row
from benchmarks.rollout.cases import Case, opened
from benchmarks.rollout.options import RolloutOptions
from benchmarks.rollout.sensors import Sensors, Timeline
from runtime.classifier import Classifier
from runtime.results import ResultsFile

SLOW_SHARE = 0.9  # of the first third's rate, below which the last third counts as slower
THIRDS = 3
FEWEST_SLOTS = 3  # that a run must fill for its last third to be compared with its first
SHORTEST_S = 60.0  # of a run whose thirds are compared; in a shorter one they differ by a few batches, which is chance
SLOTS_OF_A_SHORT_RUN = 10
BATCHES_IN_A_SLOT = 4
THROTTLE_SIGNS = ("gpu_throttled", "cpu_throttle_events")


def sustained(options: RolloutOptions, case: Case, paths: Sequence[str], sensors: Sensors) -> dict[str, Any]:
    """Classify the files over and over, into a results file; return the rates and what the sensors read."""
    with opened(options, case) as classifier, TemporaryDirectory() as folder:
        warm_up = paths[: min(2 * options.batch_size, options.start_cells)]
        began = time.perf_counter()
        list(classifier.classify(warm_up))
        slot = slot_seconds(options, (time.perf_counter() - began) / len(warm_up))
        with Timeline(sensors, slot) as timeline:
            moments, milliseconds = classify_for(
                classifier, paths, 60 * options.sustained_minutes, Path(folder) / "results.csv"
            )
    rates = slot_rates(moments, slot)
    row = {
        **case.columns,
        "cells": len(moments),
        "cells_per_minute": round(60 * len(moments) / moments[-1], 1),  # all of the time, what slowed it too
        **summary(rates, moments[-1]),
        **cell_figures(milliseconds),
    }
    return {
        "rows": [row | extremes(timeline.readings) | {"status": OK}],
        "slot_seconds": slot,
        "cells_per_minute": [round(rate, 1) for rate in rates],
        "readings": timeline.readings,
        "facts": sensors.facts(),
        "left_out": sensors.left_out,
    }


def slot_seconds(options: RolloutOptions, cell_seconds: float) -> float:
    """Return a slot's length: of a short run a share, but so long that a slow network ends BATCHES_IN_A_SLOT in it.

    Rows come a batch at a time, so that in shorter ones the rate would say how many batches happen to end there.
    """
    wanted = min(options.slot_seconds, 60 * options.sustained_minutes / SLOTS_OF_A_SHORT_RUN)
    needed = BATCHES_IN_A_SLOT * options.batch_size * cell_seconds
    return max(wanted, math.ceil(10 * needed) / 10)


def classify_for(
    classifier: Classifier,
    paths: Sequence[str],
    seconds: float,
    results: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[array[float], array[float]]:
    """Classify until the time is over; return when each row was written, and each cell's own milliseconds.

    Raises DataError where a file cannot be read any more.
    """
    began = clock()
    # Few bytes a row: the memory that is measured meanwhile holds these too, and would seem to have a leak.
    moments, milliseconds = array("d"), array("d")
    with ResultsFile(results) as file:
        for prediction in classifier.classify(repeated_for(seconds, paths, clock)):
            refuse_without_answer(prediction)
            file.write(prediction)
            moments.append(clock() - began)
            milliseconds.append(1000 * prediction.seconds)
    return moments, milliseconds


def slot_rates(moments: Sequence[float], slot_seconds: float) -> list[float]:
    """Return the cells a minute of each whole slot; of a run that fills none, those of the time that passed."""
    seconds = min(slot_seconds, moments[-1])
    return [60 * cells / seconds for cells in cells_by_slot(moments, slot_seconds)]


def cells_by_slot(moments: Sequence[float], slot_seconds: float) -> list[int]:
    """Count rows by slot of time; the last slot, which is not whole, is left out where there are others."""
    slots = np.bincount((np.asarray(moments) / slot_seconds).astype(int))
    whole = slots[:-1] if len(slots) > 1 else slots
    return [int(count) for count in whole]


def summary(rates: Sequence[float], seconds: float) -> Row:
    """Return the slots' median and extremes, and how the last third of the time lies to the first.

    The thirds of a run of fewer `seconds` than SHORTEST_S are not compared.
    """
    ratio = last_to_first(rates) if seconds >= SHORTEST_S else None
    return {
        "median_slot": round(float(np.median(rates)), 1),
        "slowest": round(min(rates), 1),
        "fastest": round(max(rates), 1),
        "last_to_first": None if ratio is None else round(ratio, 3),
        "slowed_down": None if ratio is None else ratio < SLOW_SHARE,
    }


def last_to_first(rates: Sequence[float]) -> float | None:
    """Return the last third's rate as a share of the first's; None of less than FEWEST_SLOTS, or of nothing first."""
    if len(rates) < FEWEST_SLOTS:
        return None
    third = len(rates) // THIRDS
    first, last = float(np.mean(rates[:third])), float(np.mean(rates[-third:]))
    return last / first if first else None


def cell_figures(milliseconds: Sequence[float]) -> Row:
    """Sum up the cells' own times, reading and a share of the batch's inference."""
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3), "p99_ms": round(float(p99), 3)}


def extremes(readings: Sequence[Row]) -> Row:
    """Return the largest memory and temperature, and whether the machine said that it throttled."""
    told = {name for reading in readings for name in reading}
    largest = {
        f"most_{name}": max(reading[name] for reading in readings if name in reading)
        for name in ("memory_mb", "temperature_c", "gpu_temperature_c", "gpu_memory_mb")
        if name in told
    }
    signs = [name for name in THROTTLE_SIGNS if name in told]
    throttled = any(reading.get(name) for reading in readings for name in signs)
    return {**largest, "throttled": throttled if signs else None}
