"""Times a piece of work in windows that are repeated until they agree; what warms up stands apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from benchmarks.record import Row

AGREEING = 3  # windows in a row, as Triton Model Navigator asks for
AGREEMENT = 0.10  # largest distance of their medians, as a share of the smallest
PERCENTILES = (50, 90, 95, 99)

Clock = Callable[[], float]  # seconds, as time.perf_counter gives them


@dataclass(frozen=True)
class WindowPlan:
    """How long a piece of work is timed."""

    seconds: float = 1.0  # of a window, at least
    fewest_runs: int = 7  # in a window
    most_windows: int = 10  # after which the work counts as unsteady
    longest_seconds: float = 60.0  # of all windows; slow work has fewer runs in a window, at least one, to keep to it
    warm_up_seconds: float = 0.5
    warm_up_runs: int = 3


@dataclass(frozen=True)
class Timing:
    """What was timed: milliseconds of each run, by window."""

    warm_up_ms: tuple[float, ...]
    windows_ms: tuple[tuple[float, ...], ...]
    agreed: bool  # the medians of the last AGREEING windows

    @property
    def samples_ms(self) -> list[float]:
        """The runs of the last AGREEING windows, from which figures are taken."""
        return [*chain.from_iterable(self.windows_ms[-AGREEING:])]


def time_in_windows(work: Callable[[], object], plan: WindowPlan, clock: Clock = time.perf_counter) -> Timing:
    """Warm up, then time windows until AGREEING in a row agree, or the plan's patience ends.

    `work` returns when its result is in the caller's memory: on a GPU, after it was waited for.
    """
    most_seconds = plan.longest_seconds / AGREEING
    warm_up = _window(work, plan.warm_up_seconds, plan.warm_up_runs, most_seconds, clock)
    windows: list[tuple[float, ...]] = []
    began = clock()
    while not have_agreed(windows):
        is_late = len(windows) >= AGREEING and clock() - began >= plan.longest_seconds
        if is_late or len(windows) >= plan.most_windows:
            return Timing(warm_up, tuple(windows), agreed=False)
        windows.append(_window(work, plan.seconds, plan.fewest_runs, most_seconds, clock))
    return Timing(warm_up, tuple(windows), agreed=True)


def have_agreed(windows: list[tuple[float, ...]]) -> bool:
    """Say whether the last AGREEING windows have nearly the same median."""
    medians = [float(np.median(window)) for window in windows[-AGREEING:]]
    return len(medians) == AGREEING and max(medians) - min(medians) <= AGREEMENT * min(medians)


def figures(timing: Timing, cells: int) -> Row:
    """Sum up runs of `cells` cells each; milliseconds a run."""
    samples = timing.samples_ms
    percentiles = np.percentile(samples, PERCENTILES)
    return {
        "runs": len(samples),
        "windows": len(timing.windows_ms),
        "agreed": timing.agreed,
        "first_ms": round(timing.warm_up_ms[0], 3),
        **{f"p{name}_ms": round(float(value), 3) for name, value in zip(PERCENTILES, percentiles, strict=True)},
        "max_ms": round(max(samples), 3),
        "cells_per_second": round(cells * len(samples) / sum(samples) * 1e3, 1),
    }


def _window(
    work: Callable[[], object], seconds: float, fewest_runs: int, most_seconds: float, clock: Clock
) -> tuple[float, ...]:
    samples: list[float] = []
    began = clock()
    while not samples or (clock() - began < most_seconds and (len(samples) < fewest_runs or clock() - began < seconds)):
        started = clock()
        work()
        samples.append((clock() - started) * 1e3)
    return tuple(samples)
