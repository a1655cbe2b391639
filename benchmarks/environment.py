"""The machine, versions and bundle of a measurement, for its record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import runtime
from runtime.cpus import available_cpus
from runtime.files import sha256_of_file
from runtime.schema import MANIFEST_NAME

LIBRARIES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "keras",
    "tensorflow",
    "jax",
    "torch",
)
LONGEST_WAIT_S = 20.0  # for a program that describes the machine
CPUINFO = Path("/proc/cpuinfo")
CPU_NAMES = ("model name", "Model", "Hardware")  # of x86-64, then of ARM boards
CPU_FLAGS = ("flags", "Features")
GPU_COLUMNS = ("name", "driver_version", "memory.total", "compute_cap", "power.limit")  # of nvidia-smi


@dataclass(frozen=True)
class Environment:
    """Machine, versions, bundle and time of a measurement."""

    time: str  # UTC, ISO 8601
    system: str
    cpu: str
    cpu_flags: tuple[str, ...]  # instruction sets, as the system names them
    cpus: int  # that the process may use
    gpus: tuple[dict[str, str], ...]  # the columns GPU_COLUMNS of each NVIDIA card
    memory_gb: float
    python: str
    code_version: str
    code_commit: str  # with "+" where files differ from it; empty where the code lies in no git checkout
    library_versions: dict[str, str]
    bundle_sha256: str  # of bundle.json, which holds the hashes of all other files; empty without a bundle


def environment(bundle: Path | None) -> Environment:
    """Describe this machine and the bundle that is measured, if one is."""
    return Environment(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        system=platform.platform(terse=True),
        cpu=_of_cpuinfo(CPU_NAMES) or platform.processor() or platform.machine(),
        cpu_flags=tuple(sorted(_of_cpuinfo(CPU_FLAGS).split())),
        cpus=available_cpus(),
        gpus=nvidia_gpus(),
        memory_gb=round(_memory_bytes() / 2**30, 1),
        python=platform.python_version(),
        code_version=runtime.__version__,
        code_commit=_commit(),
        library_versions={name: version for name in LIBRARIES if (version := _version(name))},
        bundle_sha256=sha256_of_file(bundle / MANIFEST_NAME) if bundle else "",
    )


def nvidia_gpus() -> tuple[dict[str, str], ...]:
    """Return what nvidia-smi says of each card; nothing where there is none, as on a Jetson."""
    text = output_of("nvidia-smi", f"--query-gpu={','.join(GPU_COLUMNS)}", "--format=csv,noheader")
    lines = [[value.strip() for value in line.split(",")] for line in text.splitlines()]
    return tuple(dict(zip(GPU_COLUMNS, line, strict=True)) for line in lines if len(line) == len(GPU_COLUMNS))


def _of_cpuinfo(names: tuple[str, ...]) -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in names:
                return value.strip()
    return ""


def _commit() -> str:
    folder = str(Path(__file__).parent)
    commit = output_of("git", "-C", folder, "rev-parse", "--short=12", "HEAD").strip()
    changed = commit and output_of("git", "-C", folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if changed else "")


def output_of(program: str, *arguments: str) -> str:
    """Return what a program prints; nothing where it is not installed, fails or does not end."""
    found = shutil.which(program)
    if found is None:
        return ""
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False, timeout=LONGEST_WAIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf
        return 0


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
