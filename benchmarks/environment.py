"""What a measurement was taken on, for its record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import runtime
from runtime.backends.onnxruntime import available_cpus
from runtime.files import sha256_of_file
from runtime.schema import MANIFEST_NAME

LIBRARIES = ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "keras", "tensorflow")


@dataclass(frozen=True)
class Environment:
    """Machine, versions, bundle and time of a measurement."""

    time: str  # UTC, ISO 8601
    system: str
    cpu: str
    cpus: int  # that the process may use
    memory_gb: float
    python: str
    code_version: str
    library_versions: dict[str, str]
    bundle_sha256: str  # of bundle.json, which holds the hashes of all other files; empty without a bundle


def environment(bundle: Path | None) -> Environment:
    """Describe this machine and the bundle that is measured, if one is."""
    return Environment(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        system=platform.platform(terse=True),
        cpu=_cpu_name(),
        cpus=available_cpus(),
        memory_gb=round(_memory_bytes() / 2**30, 1),
        python=platform.python_version(),
        code_version=runtime.__version__,
        library_versions={name: version for name in LIBRARIES if (version := _version(name))},
        bundle_sha256=sha256_of_file(bundle / MANIFEST_NAME) if bundle else "",
    )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
