"""Runs a command as a process of its own and tells its peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import AnyStr

from runtime.errors import MeasurementError

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
SECONDS_TO_END = 5.0  # by the Ctrl-C that a terminal gives to all of its processes
POLL_S = 0.05  # between two looks at a process that has others below it

# A process inherits the peak of the one that starts it, so it is started by one that is small, which ends after it.
LAUNCHER = """
import resource, signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: None)
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
code = process.wait()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@dataclass(frozen=True)
class Finished:
    """What a process took."""

    seconds: float
    peak_mb: float  # resident memory, with the pages of mapped files that it touched; 2^20 bytes


@contextmanager
def waited_for(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Wait for a process to end; end it where SIGTERM, or a lone SIGINT, ends this one, which alone receives it."""
    with process:
        try:
            yield process
        except SystemExit:
            process.terminate()
            raise
        except KeyboardInterrupt:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            process.terminate()
            process.wait()
            raise


def refuse_system_without_peak() -> None:
    """Raise MeasurementError where the system does not tell a process's peak memory."""
    if os.name == "nt":
        raise MeasurementError("expected a system that tells a process's peak memory (Linux, macOS), found another")


def run_measured(command: Sequence[str], *, quiet: bool = False) -> Finished:
    """Run `command` to its end, without its standard output; raise MeasurementError where its exit code is not 0.

    What it says on standard error is shown, or with `quiet` held back and its last line given as the reason.
    """
    started = time.perf_counter()
    launched, stderr = [sys.executable, "-S", "-c", LAUNCHER, *command], subprocess.PIPE if quiet else None
    with waited_for(subprocess.Popen(launched, stdout=subprocess.PIPE, stderr=stderr, text=True)) as process:
        peak, said = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        reason = last_line(said) if quiet else "its message stands above"
        raise MeasurementError(f"{' '.join(command[1:3])} failed with exit code {process.returncode}; {reason}")
    return Finished(seconds, round(int(peak) * RSS_UNIT / 2**20, 1))


def run_alone_measured(command: Sequence[str]) -> Finished:
    """Run `command` as `run_measured` does, quietly; its peak is its own, without the processes that it starts.

    Raises MeasurementError too where the system does not tell (only Linux does).
    """
    started, peak = time.perf_counter(), 0
    with TemporaryFile("w+") as said:
        with waited_for(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)) as process:
            while process.poll() is None:
                peak = max(peak, status_bytes(process.pid, "VmHWM") or 0)
                time.sleep(POLL_S)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise MeasurementError(
                f"{' '.join(command[1:3])} failed with exit code {process.returncode}; {last_line(said.read())}"
            )
    if not peak:
        raise MeasurementError(
            "expected a system that tells the peak memory of one process alone (Linux), found another"
        )
    return Finished(seconds, round(peak / 2**20, 1))


def status_bytes(process: int, name: str) -> int | None:
    """Return an amount of memory that Linux tells of a process, such as "VmHWM", its peak, or "VmRSS".

    None where Linux tells nothing, as of a process that has just ended.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def last_line(text: str) -> str:
    """Return what a process said last, where its reason stands."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
