"""A service of the runtime, started for a measurement."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from runtime.closing import Closing
from runtime.errors import MeasurementError


class StartedService(Closing):
    """A service on the CPU in a process of its own; a context manager that stops it in any case."""

    def __init__(self, command: Sequence[str], bundle: Path, batch_size: int, sign: str) -> None:
        """Start the module that `command` begins with; raise MeasurementError where its first line has no `sign`."""
        options = ["--bundle", str(bundle), "--batch-size", str(batch_size), "--backend", "cpu"]
        self._process = subprocess.Popen([sys.executable, "-m", *command, *options], stderr=subprocess.PIPE, text=True)
        self.first_line = self._process.stderr.readline().strip() if self._process.stderr else ""
        if sign not in self.first_line:
            self._process.communicate(timeout=60)
            raise MeasurementError(f"{command[0]} did not start: {self.first_line}")
        # What it says later is read and dropped: a full pipe would stop it.
        self._rest = Thread(target=self._process.communicate, daemon=True)
        self._rest.start()

    def close(self) -> None:
        """End the process as systemd does."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        self._rest.join()
