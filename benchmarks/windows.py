"""Times work in windows, several pieces of it in turns, until the windows agree; what warms up stands apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Generic, TypeVar

import numpy as np

from benchmarks.record import Row

AGREEING = 3  # windows in a row, as Triton Model Navigator asks for
AGREEMENT = 0.10  # largest distance of their medians, as a share of the smallest
PERCENTILES = (50, 90, 95, 99)

Clock = Callable[[], float]  # seconds, as time.perf_counter gives them
Work = Callable[[], object]  # returns when its result is in the caller's memory: on a GPU, after it was waited for
Key = TypeVar("Key")


@dataclass(frozen=True)
class WindowPlan:
    """How long a piece of work is timed."""

    seconds: float = 0.5  # of a window, at least
    fewest_runs: int = 4  # in a window
    # Of work that is timed twice, n windows each, the ranges lie apart by chance alone 2 times in (2n)! / (n! n!): once
    # in 10 with three windows, once in 462 with six.
    fewest_windows: int = 6
    most_windows: int = 12  # after which the work counts as unsteady
    longest_seconds: float = 60.0  # of all windows; slow work has fewer runs in a window, at least one, to keep to it
    warm_up_seconds: float = 0.5
    warm_up_runs: int = 3


@dataclass(frozen=True)
class Timing:
    """What was timed: milliseconds of each run, by window."""

    warm_up_ms: tuple[float, ...]
    windows_ms: tuple[tuple[float, ...], ...]

    @property
    def samples_ms(self) -> list[float]:
        """The runs of all windows, from which figures are taken."""
        return [*chain.from_iterable(self.windows_ms)]

    @property
    def agreed(self) -> bool:
        """Whether the last AGREEING windows have nearly the same median."""
        medians = [float(np.median(window)) for window in self.windows_ms[-AGREEING:]]
        return len(medians) == AGREEING and max(medians) - min(medians) <= AGREEMENT * min(medians)


@dataclass(frozen=True)
class Timings(Generic[Key]):
    """What came of pieces of work that were timed in turns; each has a timing or an error."""

    by_work: dict[Key, Timing]
    errors: dict[Key, Exception]

    def check(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors.values():
            raise error


def time_in_windows(work: Work, plan: WindowPlan, clock: Clock = time.perf_counter) -> Timing:
    """Warm up, then time windows until the last ones agree, or the plan's patience ends."""
    windows = _Windows(work, plan, clock)
    while not windows.are_enough:
        windows.add()
    return windows.timing


def time_in_turns(works: Mapping[Key, Work], plan: WindowPlan, clock: Clock = time.perf_counter) -> Timings[Key]:
    """Time pieces of work as `time_in_windows` does, but a window of each before the next window of any.

    A process that computes without a pause may stay for seconds on the better or the worse of a machine's processors,
    or of its clock rates: windows without a pause agree with each other, and not with those of another minute. What
    fails, at any time, is left out from then on.
    """
    running: dict[Key, _Windows] = {}
    errors: dict[Key, Exception] = {}
    for key, work in works.items():
        try:
            running[key] = _Windows(work, plan, clock)
        except Exception as error:  # a backend may raise anything, such as when the card's memory is full
            errors[key] = error
    while waiting := [key for key, windows in running.items() if not windows.are_enough]:
        for key in waiting:
            try:
                running[key].add()
            except Exception as error:
                errors[key] = error
                del running[key]
    return Timings({key: windows.timing for key, windows in running.items()}, errors)


class _Windows:
    """The windows of one piece of work, which is warmed up first."""

    def __init__(self, work: Work, plan: WindowPlan, clock: Clock) -> None:
        self._work = work
        self._plan = plan
        self._clock = clock
        self.timing = Timing(self._window(plan.warm_up_seconds, plan.warm_up_runs), ())

    def add(self) -> None:
        """Time another one."""
        window = self._window(self._plan.seconds, self._plan.fewest_runs)
        self.timing = replace(self.timing, windows_ms=(*self.timing.windows_ms, window))

    @property
    def are_enough(self) -> bool:
        """Whether they agree, or the plan's patience ended."""
        count = len(self.timing.windows_ms)
        is_late = count >= AGREEING and sum(self.timing.samples_ms) >= 1e3 * self._plan.longest_seconds
        has_agreed = count >= self._plan.fewest_windows and self.timing.agreed
        return has_agreed or is_late or count >= self._plan.most_windows

    def _window(self, seconds: float, fewest_runs: int) -> tuple[float, ...]:
        most_seconds = self._plan.longest_seconds / self._plan.fewest_windows
        samples: list[float] = []
        began = self._clock()
        while not samples or (
            self._clock() - began < most_seconds and (len(samples) < fewest_runs or self._clock() - began < seconds)
        ):
            started = self._clock()
            self._work()
            samples.append((self._clock() - started) * 1e3)
        return tuple(samples)


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
