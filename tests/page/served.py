"""A service in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

import httpx

PATIENCE_S = 30


@dataclass(frozen=True)
class Served:
    """Where a service answers."""

    url: str

    def classify(self, paths: list[Path]) -> list[dict[str, Any]]:
        """Return the rows that a program gets."""
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        rows: list[dict[str, Any]] = httpx.post(f"{self.url}/classify", files=files).json()["results"]
        return rows


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[Served]:
    """Run a service until the end."""
    import os

    command = [sys.executable, "-m", "runtime.serve", "--port", "0", "--backend", "cpu", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        assert process.stderr
        said = []
        for line in process.stderr:  # up to its end, where the service does not start
            said.append(line)
            if found := re.match(r"(http://\S+) answers", line):
                break
        else:
            pytest.fail("".join(said))
        yield Served(found[1])
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
