"""Notices other work on the machine: it takes time from whatever is measured beside it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from benchmarks.record import Row

BUSY_SHARE = 0.10  # of all CPUs, taken by others: from here on it is reported
MOST_NAMED = 3  # processes
SHARE_NAMED = 0.01  # of the machine, from which a process is named
IDLE_FIELDS = ("idle", "iowait")  # of psutil's times
GUEST_FIELDS = ("guest", "guest_nice")  # which are counted under user as well


@dataclass(frozen=True)
class CpuSeconds:
    """Processor seconds since the start of the machine."""

    machine: float  # of all CPUs, idle ones too
    idle: float
    own: float  # of this process and of its children that ended


def cpu_seconds() -> CpuSeconds:
    """Read them off the system."""
    times = psutil.cpu_times()._asdict()
    guests = sum(times.get(name, 0.0) for name in GUEST_FIELDS)
    idle = sum(times.get(name, 0.0) for name in IDLE_FIELDS)
    return CpuSeconds(sum(times.values()) - guests, idle, sum(os.times()[:4]))


def others_share(before: CpuSeconds, after: CpuSeconds) -> float:
    """Return which share of all processor time between two readings other processes took, 0..1."""
    machine = after.machine - before.machine
    if machine <= 0:
        return 0.0
    busy = machine - (after.idle - before.idle)
    return min(max((busy - (after.own - before.own)) / machine, 0.0), 1.0)


class LoadWatch:
    """Notes for each part of a rollout how much of the machine others took meanwhile."""

    def __init__(self, read: Callable[[], CpuSeconds] = cpu_seconds) -> None:
        self.shares: dict[str, float] = {}  # by part, 0..1
        self._read = read
        self._before = read()

    def note(self, part: str) -> None:
        """Note what others took since the last note."""
        now = self._read()
        self.shares[part] = round(others_share(self._before, now), 3)
        self._before = now

    @property
    def is_busy(self) -> bool:
        """Whether others took so much of any part that it must be said."""
        return any(share >= BUSY_SHARE for share in self.shares.values())


def busiest_processes(seconds: float) -> list[Row]:
    """Watch the machine for `seconds`; return the other processes that took most of it, each with its share of it."""
    began = time.perf_counter()
    before = _seconds_by_process()
    time.sleep(seconds)
    now = _seconds_by_process()
    wall = (time.perf_counter() - began) * (psutil.cpu_count() or 1)  # with the readings: no share beyond all CPUs
    taken: defaultdict[str, float] = defaultdict(float)
    for (pid, name), after in now.items():
        if pid != os.getpid():
            taken[name] += (after - before.get((pid, name), after)) / wall
    most = sorted(taken.items(), key=lambda item: -item[1])[:MOST_NAMED]
    return [{"process": name, "share": round(share, 3)} for name, share in most if share >= SHARE_NAMED]


def _seconds_by_process() -> dict[tuple[int, str], float]:
    found = {}
    for process in psutil.process_iter(["pid", "name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times:
            found[process.info["pid"], process.info["name"]] = times.user + times.system
    return found
