"""Locks a file or folder until it is closed or this process ends, however it ends: other processes see it in use.

Windows has no such locks, and some network shares keep none: there nothing is locked, and nothing counts as abandoned.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

if sys.platform != "win32":
    import fcntl


def try_lock(file: int | TextIO, *, wait: bool = False) -> bool:
    """Lock an open file or folder; with `wait`, once nobody else holds it. Return whether that worked."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
    return False


@contextmanager
def locked_folder(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a folder until the end; yield whether that worked."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield try_lock(folder, wait=wait)
    finally:
        os.close(folder)


def is_locked(path: Path) -> bool:
    """Say whether another process is known to have locked a file."""
    if sys.platform != "win32":
        with path.open("rb") as stream, suppress(OSError):
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
