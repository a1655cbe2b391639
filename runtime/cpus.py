"""How many CPUs this process may use; standard library only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")  # a line for each hierarchy: number:controllers:path
CGROUPS = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Return how many CPUs this process may use: those it may run on, at most what its container or service grants."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the processor time a second that Linux grants the control groups that this process is in.

    With more threads than that, all of them stop for a part of each period (kernel documentation, "CFS Bandwidth
    Control"): in version 2 cpu.max holds "quota period", in version 1 each has its file; microseconds.
    """
    for line in _text(MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = CGROUPS / "cpu" if controllers else CGROUPS
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if controllers:
                limit = f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
            else:
                limit = _text(folder / "cpu.max")
            match limit.split():
                case [quota, period] if quota.isdigit():  # else "max" or "-1"
                    yield int(quota) / int(period)


def _text(file: Path) -> str:
    """Return what a file of the kernel says; nothing where there is no such file."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
