"""That windows are repeated until they agree, on a clock that the work itself moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, repeat

import pytest

from benchmarks.turns import ratio_columns, tried_in_turns
from benchmarks.windows import AGREEING, Timing, WindowPlan, figures, time_in_turns, time_in_windows
from runtime.errors import BackendError

PLAN = WindowPlan(
    seconds=0.0,
    fewest_runs=2,
    fewest_windows=AGREEING,
    most_windows=6,
    longest_seconds=100,
    warm_up_seconds=0.0,
    warm_up_runs=1,
)


class Work:
    """Takes, run after run, so many milliseconds of a clock of its own."""

    def __init__(self, milliseconds: Iterator[float]) -> None:
        self.now = 0.0
        self._milliseconds = milliseconds

    def __call__(self) -> None:
        self.now += next(self._milliseconds) / 1e3

    def clock(self) -> float:
        return self.now


def timing_of(*milliseconds: float, then: float = 10.0, plan: WindowPlan = PLAN) -> Timing:
    work = Work(chain(milliseconds, repeat(then)))
    return time_in_windows(work, plan, work.clock)


def test_the_warm_up_stands_apart_and_three_like_windows_are_enough() -> None:
    timing = timing_of(500)
    assert timing.warm_up_ms == pytest.approx((500,))
    assert (len(timing.windows_ms), timing.agreed) == (AGREEING, True)
    assert timing.samples_ms == pytest.approx([10] * 6)


def test_windows_are_repeated_until_the_last_three_agree_and_figures_come_from_all() -> None:
    timing = timing_of(500, 30, 30, 20, 20)
    assert (len(timing.windows_ms), timing.agreed) == (5, True)
    row = figures(timing, cells=4)
    assert (row["runs"], row["windows"], row["agreed"], row["p50_ms"], row["max_ms"]) == (10, 5, True, 10, 30)
    assert row["cells_per_second"] == pytest.approx(4 * 10 / 0.16)
    assert row["first_ms"] == 500


def test_windows_that_agree_at_once_are_repeated_all_the_same_until_there_are_enough() -> None:
    assert len(timing_of(1, plan=replace(PLAN, fewest_windows=5)).windows_ms) == 5


def test_pieces_of_work_take_turns_window_by_window() -> None:
    done: list[str] = []
    works = {name: partial(done.append, name) for name in "ab"}
    timings = time_in_turns(works, replace(PLAN, fewest_windows=4, most_windows=4), lambda: 0.0)
    assert "".join(done) == "ab" + 4 * "aabb"
    assert {name: len(timing.windows_ms) for name, timing in timings.by_work.items()} == {"a": 4, "b": 4}
    timings.check()


def test_a_machine_that_turns_slow_slows_a_window_of_each_and_not_one_work_alone() -> None:
    work = Work(chain(repeat(10.0, 10), repeat(20.0)))  # two to warm up, and two rounds of two windows
    timings = time_in_turns({"a": work, "b": work}, replace(PLAN, most_windows=4), work.clock)
    for timing in timings.by_work.values():
        assert timing.samples_ms == pytest.approx([10] * 4 + [20] * 4)


def test_work_that_fails_is_left_out_with_its_error_and_the_others_are_timed() -> None:
    def fails_at_once() -> None:
        raise BackendError("the card is full")

    later = iter(range(4))
    works = {"good": lambda: None, "later": lambda: next(later), "never": fails_at_once}
    timings = time_in_turns(works, PLAN, lambda: 0.0)
    assert list(timings.by_work) == ["good"]
    assert {name: type(error) for name, error in timings.errors.items()} == {
        "never": BackendError,
        "later": StopIteration,
    }
    with pytest.raises(BackendError, match="the card is full"):
        timings.check()


@pytest.mark.parametrize(("last", "agreed"), [(10.9, True), (11.2, False)])
def test_agreement_is_ten_percent_of_the_smallest_median(last: float, agreed: bool) -> None:
    plan = replace(PLAN, fewest_runs=1, most_windows=3)
    assert timing_of(1, 10, 10, last, plan=plan).agreed is agreed


def test_work_that_never_settles_ends_and_says_so() -> None:
    timing = timing_of(*[1, *chain.from_iterable((10.0, 10.0, 20.0, 20.0) for _ in range(9))])
    assert (len(timing.windows_ms), timing.agreed) == (PLAN.most_windows, False)


def test_slow_work_ends_after_three_windows_once_its_time_is_over() -> None:
    plan = replace(PLAN, fewest_runs=1, most_windows=50, longest_seconds=0.05)
    timing = timing_of(1, 10, 40, 10, 40, plan=plan)
    assert (len(timing.windows_ms), timing.agreed) == (AGREEING, False)


def test_slow_work_has_fewer_runs_in_a_window_and_at_least_one() -> None:
    plan = replace(PLAN, fewest_runs=5, most_windows=3, longest_seconds=0.75, warm_up_runs=5)
    timing = timing_of(then=125.0, plan=plan)
    assert [len(window) for window in (timing.warm_up_ms, *timing.windows_ms)] == [2, 2, 2, 2]
    timing = timing_of(then=4000.0, plan=plan)
    assert [len(window) for window in (timing.warm_up_ms, *timing.windows_ms)] == [1, 1, 1, 1]


def test_a_window_lasts_as_long_as_asked_for() -> None:
    plan = replace(PLAN, seconds=0.125, most_windows=3)
    sixty_fourth = 1000 / 64  # which binary numbers add up without rounding
    timing = timing_of(sixty_fourth, then=sixty_fourth, plan=plan)
    assert [len(window) for window in timing.windows_ms] == [8, 8, 8]


def test_percentiles_are_those_of_the_samples() -> None:
    timing = Timing((1.0,), (tuple(float(ms) for ms in range(1, 101)),))
    row = figures(timing, 1)
    assert (row["p50_ms"], row["p90_ms"], row["p99_ms"], row["max_ms"]) == (50.5, 90.1, 99.01, 100)


def test_a_candidate_that_fails_at_any_time_is_left_out_and_the_others_go_on() -> None:
    calls = iter([1, 2])

    def fails_later() -> int:
        return next(calls)

    def cannot_be_opened() -> object:
        raise BackendError("no such card")

    turns = tried_in_turns(
        {"good": lambda: lambda: 7, "later": lambda: fails_later, "never": cannot_be_opened},  # type: ignore[dict-item]
        rounds=3,
    )
    assert {name: len(own) for name, own in turns.seconds.items()} == {"good": 3}
    assert turns.results["good"] == 7
    assert turns.failures == {"never": "no such card", "later": "StopIteration"}


def test_a_ratio_has_its_spread() -> None:
    assert ratio_columns([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == {"ratio": 3, "lowest": 2, "highest": 4}
