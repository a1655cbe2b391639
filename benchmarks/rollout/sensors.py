"""What the machine reports of itself while it works: load, memory, temperature, clocks, power and throttling.

A source that is not there gives nothing; one that fails is left out from then on, and the record says why. psutil tells
of any system, sysfs (Linux) of clocks and temperatures, NVML of NVIDIA cards, tegrastats of a Jetson.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.environment import output_of
from benchmarks.record import reason_of
from runtime.errors import MeasurementError

Reading = dict[str, float]
MIB = 2**20
SYSFS = Path("/sys")
JETSON_GPU = re.compile(r"gpu|gv11b|gp10b|ga10b|gb10b")  # in the names of devfreq devices
TEGRASTATS_MS = 500
# NVML's reasons for lower clocks that are not throttling: idle, and clocks that the user set (nvml.h).
NO_THROTTLING = 0x1 | 0x2


class Source(Protocol):
    """Something that reports on the machine."""

    def read(self) -> Reading:
        """Return what it reads now, by name with the unit at its end."""

    def facts(self) -> dict[str, str]:
        """Return what does not change while it is read."""

    def close(self) -> None:
        """Stop it."""


class ProcessSource:
    """psutil: CPUs and memory of the machine and of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def read(self) -> Reading:
        """Return percentages since the last reading, and memory now."""
        return {
            "cpu_percent": psutil.cpu_percent(),
            "process_cpu_percent": self._process.cpu_percent() / (psutil.cpu_count() or 1),
            "memory_mb": round(self._process.memory_info().rss / MIB, 1),
            "machine_memory_percent": psutil.virtual_memory().percent,
        }

    def facts(self) -> dict[str, str]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class SysfsSource:
    """Linux: the hottest thermal zone, mean clocks, throttling events, a Jetson's GPU."""

    def __init__(self, root: Path = SYSFS) -> None:
        cpus = root / "devices/system/cpu"
        self._zones = sorted(root.glob("class/thermal/thermal_zone*/temp"))
        self._clocks = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._governors = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"))
        self._throttles = sorted(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
        self._profile = root / "firmware/acpi/platform_profile"
        self._gpus = [path for path in sorted(root.glob("class/devfreq/*")) if JETSON_GPU.search(path.name)]
        self._throttled_before = self._throttled()

    def read(self) -> Reading:
        """Return what of it the machine has."""
        readings = {
            "temperature_c": max(_numbers(self._zones, 1e-3), default=None),
            "cpu_mhz": _mean(_numbers(self._clocks, 1e-3)),
            "gpu_mhz": _mean(_numbers([gpu / "cur_freq" for gpu in self._gpus], 1e-6)),
            "gpu_percent": _mean(_numbers([gpu / "device/load" for gpu in self._gpus], 0.1)),
            "cpu_throttle_events": self._throttled() - self._throttled_before if self._throttles else None,
        }
        return {name: round(value, 1) for name, value in readings.items() if value is not None}

    def facts(self) -> dict[str, str]:
        """Return the power settings."""
        governors = sorted({text for path in self._governors if (text := _text(path))})
        facts = {"CPU governor": ", ".join(governors), "platform profile": _text(self._profile)}
        return {name: value for name, value in facts.items() if value}

    def close(self) -> None:
        """Do nothing."""

    def _throttled(self) -> float:
        return sum(_numbers(self._throttles, 1))


class NvmlSource:
    """NVML: the NVIDIA card that CUDA takes, the first of those that CUDA_VISIBLE_DEVICES shows it."""

    def __init__(self, library: Any) -> None:
        """Take pynvml, or what answers like it; raises its error where it finds no card or not that one."""
        self._nvml = library
        library.nvmlInit()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        # NVML counts by PCI bus: of cards that differ CUDA does so too only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
        self._card = (
            library.nvmlDeviceGetHandleByIndex(int(first))
            if first.isdecimal()
            else library.nvmlDeviceGetHandleByUUID(first)
        )

    def read(self) -> Reading:
        """Return what of it the card tells."""
        nvml, card = self._nvml, self._card
        calls: dict[str, Callable[[], float]] = {
            "gpu_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(card).gpu,
            "gpu_memory_mb": lambda: nvml.nvmlDeviceGetMemoryInfo(card).used / MIB,
            "gpu_temperature_c": lambda: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU),
            "gpu_mhz": lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM),
            "gpu_power_w": lambda: nvml.nvmlDeviceGetPowerUsage(card) / 1000,
            "gpu_throttled": lambda: bool(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(card) & ~NO_THROTTLING),
        }
        reading = {}
        for name, call in calls.items():
            with suppress(nvml.NVMLError):  # not every card tells everything
                reading[name] = round(float(call()), 1)
        return reading

    def facts(self) -> dict[str, str]:
        """Return the power limit and the performance mode."""
        facts = {}
        with suppress(self._nvml.NVMLError):
            facts["GPU power limit"] = f"{self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._card) / 1000:g} W"
        with suppress(self._nvml.NVMLError):
            facts["GPU persistence mode"] = "on" if self._nvml.nvmlDeviceGetPersistenceMode(self._card) else "off"
        return facts

    def close(self) -> None:
        """Let go of the library."""
        self._nvml.nvmlShutdown()


class TegrastatsSource:
    """A Jetson's tegrastats, which prints a line twice a second."""

    def __init__(self, program: str) -> None:
        self._line = ""
        self._process = subprocess.Popen(
            [program, "--interval", str(TEGRASTATS_MS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def _follow(self) -> None:
        for line in self._process.stdout or ():
            self._line = line

    def read(self) -> Reading:
        """Return what the newest line tells; raise MeasurementError where no newer one will come."""
        if self._process.poll() is not None:
            raise MeasurementError(f"tegrastats ended with exit code {self._process.returncode}: {self._line.strip()}")
        return parse_tegrastats(self._line)

    def facts(self) -> dict[str, str]:
        """Return the power mode as nvpmodel names it."""
        found = re.search(r"NV Power Mode:\s*(\S+)", output_of("nvpmodel", "-q"))
        return {"power mode": found[1]} if found else {}

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        self._follower.join()
        with self._process:  # closes its output and waits for it
            pass


def parse_tegrastats(line: str) -> Reading:
    """Read a line of tegrastats (NVIDIA Jetson Linux Developer Guide, "Tegrastats Utility")."""
    reading: Reading = {}
    if found := re.search(r"GR3D_FREQ (\d+)%(?:@\[?(\d+))?", line):
        reading["gpu_percent"] = float(found[1])
        if found[2]:
            reading["gpu_mhz"] = float(found[2])
    temperatures = {name.lower(): float(value) for name, value in re.findall(r"(\w+)@(-?[\d.]+)C", line)}
    on = {name: value for name, value in temperatures.items() if value > 0}  # a part that is off reports -256
    if on:
        reading["temperature_c"] = max(on.values())
    if "gpu" in on:
        reading["gpu_temperature_c"] = on["gpu"]
    if found := re.search(r"(?:VDD_IN|POM_5V_IN) (\d+)(?:mW)?/", line):
        reading["board_power_w"] = float(found[1]) / 1000
    if clocks := [
        float(mhz) for mhz in re.findall(r"\d+%@(\d+)[,\]]", line.partition("CPU [")[2].partition("]")[0] + "]")
    ]:
        reading["cpu_mhz"] = round(sum(clocks) / len(clocks), 1)
    return reading


class Sensors:
    """All sources of this machine; a context manager."""

    def __init__(self, sources: Sequence[Source] | None = None) -> None:
        self.left_out: dict[str, str] = {}  # source to reason
        self._sources: list[Source] = [*sources] if sources is not None else self._found()

    def facts(self) -> dict[str, str]:
        """Return power mode, governor and the like."""
        return {name: value for source in self._sources for name, value in source.facts().items()}

    def read(self) -> Reading:
        """Return what all of them tell now."""
        reading: Reading = {}
        for source in [*self._sources]:
            try:
                reading |= source.read()
            except Exception as error:  # a driver may raise anything; the others are read on
                self._leave_out(source, error)
        return reading

    def __enter__(self) -> Sensors:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self._sources:
            with suppress(Exception):  # what was measured counts more
                source.close()

    def _leave_out(self, source: Source, error: Exception) -> None:
        self.left_out[type(source).__name__] = reason_of(error)
        self._sources.remove(source)
        with suppress(Exception):
            source.close()

    def _found(self) -> list[Source]:
        sources: list[Source] = [ProcessSource(), SysfsSource()]
        if program := shutil.which("tegrastats"):
            sources.append(TegrastatsSource(program))
        if find_spec("pynvml"):
            import pynvml

            try:
                sources.append(NvmlSource(pynvml))
            except pynvml.NVMLError as error:
                self.left_out["NvmlSource"] = reason_of(error)
        return sources


class Timeline:
    """Reads sensors in a thread of its own at even distances; a context manager."""

    def __init__(self, sensors: Sensors, seconds: float) -> None:
        self.readings: list[Reading] = []  # each with the key "second"
        self._sensors = sensors
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Timeline:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        self._sensors.read()  # psutil's first percentage in a thread has nothing to compare with
        while not self._ended.wait(self._seconds):
            second = round(time.perf_counter() - self._began, 2)
            self.readings.append({"second": second, **self._sensors.read()})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # some zones exist and cannot be read
        return ""


def _numbers(paths: Sequence[Path], scale: float) -> list[float]:
    texts = (_text(path) for path in paths)
    return [float(text) * scale for text in texts if re.fullmatch(r"-?\d+", text)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
