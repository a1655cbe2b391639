"""The version of the NVIDIA driver, which the CUDA runtime does not give: its own number is that of a CUDA version."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

MANAGEMENT_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
# "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build ..."
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
VERSION = re.compile(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", re.MULTILINE)
VERSION_BYTES = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


def driver_version() -> str | None:
    """Return the driver's version, such as "580.65.06"; None where neither NVML nor the kernel module tells it."""
    return _of_management_library() or _of_kernel_module()


def _of_management_library() -> str | None:
    try:
        library = ctypes.CDLL(MANAGEMENT_LIBRARY)
        library.nvmlInit_v2.argtypes = library.nvmlShutdown.argtypes = ()
        library.nvmlSystemGetDriverVersion.argtypes = (ctypes.c_char_p, ctypes.c_uint)
    except (OSError, AttributeError):  # a Jetson's library has only some of the functions
        return None
    if library.nvmlInit_v2():
        return None
    version = ctypes.create_string_buffer(VERSION_BYTES)
    error = library.nvmlSystemGetDriverVersion(version, VERSION_BYTES)
    library.nvmlShutdown()
    return None if error else version.value.decode()


def _of_kernel_module() -> str | None:
    try:
        found = VERSION.search(KERNEL_MODULE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.group(1) if found else None
