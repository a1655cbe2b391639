"""A disk that fills up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a disk that fills up."""
    resource = pytest.importorskip("resource", reason="this system limits no files")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
