"""That sensors read what is there, from folders and libraries made for the test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.rollout.sensors import (
    NvmlSource,
    ProcessSource,
    Sensors,
    SysfsSource,
    TegrastatsSource,
    Timeline,
    parse_tegrastats,
)

# A line as the Jetson Linux Developer Guide prints it for an Orin.
ORIN = (
    "02-22-2023 12:26:13 RAM 3386/30536MB (lfb 5972x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [2%@2201,0%@2201,off,off] GR3D_FREQ 37%@[305,0] cpu@51.5C tboard@38C soc2@47.2C gpu@48.1C cv0@-256C "
    "VDD_GPU_SOC 3205mW/3205mW VDD_IN 9030mW/9014mW"
)
OLDER = "RAM 1903/3964MB CPU [12%@1479,10%@1479] GR3D_FREQ 99% PLL@36C thermal@36.5C POM_5V_IN 2318/2318"


def write(root: Path, name: str, content: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def test_sysfs_tells_the_hottest_zone_mean_clocks_and_new_throttling(tmp_path: Path) -> None:
    for zone, temperature in enumerate((41000, 58500, "none")):
        write(tmp_path, f"class/thermal/thermal_zone{zone}/temp", temperature)
    for cpu, clock in enumerate((1000000, 2000000)):
        write(tmp_path, f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", clock)
        write(tmp_path, f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "powersave")
        write(tmp_path, f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", 5)
    write(tmp_path, "class/devfreq/17000000.ga10b/cur_freq", 306000000)
    write(tmp_path, "class/devfreq/17000000.ga10b/device/load", 450)
    write(tmp_path, "class/devfreq/memory/cur_freq", 1)
    source = SysfsSource(tmp_path)
    write(tmp_path, "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 8)
    assert source.read() == {
        "temperature_c": 58.5,
        "cpu_mhz": 1500,
        "gpu_mhz": 306,
        "gpu_percent": 45,
        "cpu_throttle_events": 3,
    }
    assert source.facts() == {"CPU governor": "powersave"}


def test_a_machine_that_tells_nothing_gives_nothing(tmp_path: Path) -> None:
    source = SysfsSource(tmp_path)
    assert (source.read(), source.facts()) == ({}, {})


def test_lines_of_tegrastats_are_read() -> None:
    assert parse_tegrastats(ORIN) == {
        "gpu_percent": 37,
        "gpu_mhz": 305,
        "temperature_c": 51.5,
        "gpu_temperature_c": 48.1,
        "board_power_w": 9.03,
        "cpu_mhz": 2201,
    }
    assert parse_tegrastats(OLDER) == {
        "gpu_percent": 99,
        "temperature_c": 36.5,
        "board_power_w": 2.318,
        "cpu_mhz": 1479,
    }
    assert parse_tegrastats("") == {}
    assert parse_tegrastats("gpu@-256C cv0@-256C") == {}, "parts that are off have no temperature"


@pytest.mark.skipif(sys.platform == "win32", reason="the program in its place is a shell script")
def test_tegrastats_is_followed_and_ended(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho '{ORIN}'\nexec sleep 60\n")
    program.chmod(0o755)
    source = TegrastatsSource(str(program))
    while not (reading := source.read()):
        pass
    assert reading["gpu_percent"] == 37
    source.close()
    assert source._process.returncode is not None


@pytest.mark.skipif(sys.platform == "win32", reason="the program in its place is a shell script")
def test_a_tegrastats_that_ended_is_left_out_since_its_last_line_tells_of_no_later_moment(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho '{ORIN}'\nexit 1\n")
    program.chmod(0o755)
    source = TegrastatsSource(str(program))
    source._process.wait()
    source._follower.join()
    with Sensors([source]) as sensors:
        assert sensors.read() == {}
    assert sensors.left_out["TegrastatsSource"].startswith("tegrastats ended with exit code 1: ")


@pytest.fixture(autouse=True)
def all_cards_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


class NVMLError(Exception):
    """What pynvml raises."""


def nvml(**changes: Any) -> Any:
    def unsupported(*_: object) -> None:
        raise NVMLError("Not Supported")

    return SimpleNamespace(
        **{
            "NVMLError": NVMLError,
            "NVML_TEMPERATURE_GPU": 0,
            "NVML_CLOCK_SM": 1,
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetHandleByUUID": lambda name: name if name.startswith("GPU-") else unsupported(),
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=80),
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=512 * 2**20),
            "nvmlDeviceGetTemperature": lambda *_: 71,
            "nvmlDeviceGetClockInfo": lambda *_: 1410,
            "nvmlDeviceGetPowerUsage": lambda _: 250500,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 300000,
            "nvmlDeviceGetPersistenceMode": unsupported,
            **changes,
        }
    )


def test_nvml_tells_of_the_card_and_leaves_out_what_it_does_not_support() -> None:
    def unsupported(*_: object) -> None:
        raise NVMLError("Not Supported")

    source = NvmlSource(nvml(nvmlDeviceGetTemperature=unsupported))
    assert source.read() == {
        "gpu_percent": 80,
        "gpu_memory_mb": 512,
        "gpu_mhz": 1410,
        "gpu_power_w": 250.5,
        "gpu_throttled": 0,
    }
    assert source.facts() == {"GPU power limit": "300 W"}


@pytest.mark.parametrize(
    ("shown", "card"), [(None, 0), ("0", 0), ("3", 3), (" 2, 0", 2), ("GPU-8932f937,GPU-1", "GPU-8932f937")]
)
def test_nvml_tells_of_the_card_that_cuda_takes(
    shown: str | None, card: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    asked: list[object] = []

    def power_of(handle: object) -> float:
        asked.append(handle)
        return 1000.0

    assert NvmlSource(nvml(nvmlDeviceGetPowerUsage=power_of)).read()["gpu_power_w"] == 1
    assert asked == [card]


@pytest.mark.parametrize("shown", ["", "-1", "NoDevFiles"])
def test_nvml_tells_of_no_card_that_is_hidden_from_cuda(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(NVMLError, match="Not Supported"):
        NvmlSource(nvml())


@pytest.mark.parametrize(("reasons", "throttled"), [(0x1, 0), (0x2, 0), (0x20, 1), (0x41, 1)])
def test_an_idle_card_is_not_throttled_and_a_hot_one_is(reasons: int, throttled: float) -> None:
    source = NvmlSource(nvml(nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: reasons))
    assert source.read()["gpu_throttled"] == throttled


def test_a_source_that_fails_is_left_out_and_the_others_are_read_on() -> None:
    asked: list[object] = []

    def lost(card: object) -> None:
        asked.append(card)
        raise RuntimeError("GPU is lost")

    left = NvmlSource(nvml(nvmlShutdown=lambda: lost(None)))  # which fails when it is closed, at the end
    with Sensors([ProcessSource(), NvmlSource(nvml(nvmlDeviceGetUtilizationRates=lost)), left]) as sensors:
        assert sensors.read()["memory_mb"] > 0
        assert sensors.read()["memory_mb"] > 0
    assert sensors.left_out == {"NvmlSource": "RuntimeError: GPU is lost"}
    assert len(asked) == 2


def test_a_timeline_has_a_reading_for_each_slot_and_ends_with_its_block() -> None:
    with Sensors([ProcessSource()]) as sensors, Timeline(sensors, 0.001) as timeline:
        while len(timeline.readings) < 3:
            pass
    seconds = [reading["second"] for reading in timeline.readings]
    assert seconds == sorted(seconds)
    assert not timeline._thread.is_alive()
