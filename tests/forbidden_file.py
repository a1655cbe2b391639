"""A file that may not be read, whoever runs the tests."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest


def forbid(monkeypatch: pytest.MonkeyPatch, forbidden: Path) -> None:
    """Let a file refuse to be opened, as it does to anyone but root without the right to read it."""
    real = Path.open

    def opened(path: Path, *given: Any, **named: Any) -> Any:
        if path == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "open", opened)
