"""Tells the C library to keep freed memory: on Linux, handing it back and forth costs much of a training step."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3) of glibc
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
KEEP_UP_TO_BYTES = 2**31 - 1  # the largest int


def keep_freed_memory() -> None:
    """Keep freed blocks in the process; does nothing where the C library is not glibc.

    Activations of some 30 MB are allocated and freed in every step. By default glibc maps and unmaps each of them,
    and the kernel zeroes every page again.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEEP_UP_TO_BYTES)
