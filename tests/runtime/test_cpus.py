from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import cpus
from runtime.cpus import available_cpus

V2 = "0::/lab.slice/watch.service\n"
V1 = "9:name=systemd:/docker/a\n2:cpuset:/\n1:cpu,cpuacct:/docker/a\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with eight CPUs whose control groups lie in this folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, 8),
        (V2, {"lab.slice/watch.service/cpu.max": "max 100000\n"}, 8),
        (V2, {"lab.slice/watch.service/cpu.max": "200000 100000\n"}, 2),
        (V2, {"lab.slice/watch.service/cpu.max": "250000 100000\n"}, 3),
        (V2, {"lab.slice/watch.service/cpu.max": "1000 100000\n"}, 1),
        (V2, {"lab.slice/watch.service/cpu.max": "max 100000\n", "lab.slice/cpu.max": "400000 100000\n"}, 4),
        (V2, {"cpu.max": "300000 100000\n"}, 3),
        (V2, {"lab.slice/watch.service/cpu.max": "9900000 100000\n"}, 8),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "-1\n", "cpu/docker/a/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "100000\n", "cpu/docker/a/cpu.cfs_period_us": "50000\n"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
    ids=[
        "no groups",
        "no limit",
        "limit",
        "part of a CPU more",
        "part of a CPU alone",
        "limit of the group above",
        "limit of the container",
        "more than there are",
        "version 1, no limit",
        "version 1, limit",
        "version 1, limit of the container",
    ],
)
def test_no_more_cpus_are_used_than_the_process_is_granted(
    kernel: Path, membership: str, files: dict[str, str], expected: int
) -> None:
    write(kernel, {"membership": membership, **files})
    assert available_cpus() == expected
