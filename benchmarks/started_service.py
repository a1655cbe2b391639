"""A service of the runtime, started for a measurement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from runtime.closing import Closing
from runtime.errors import MeasurementError

LONGEST_END_S = 60.0  # that a service may take to end when it is told to


class StartedService(Closing):
    """A service on the CPU in a process of its own; a context manager that stops it in any case."""

    def __init__(self, command: Sequence[str], bundle: Path, batch_size: int, sign: str) -> None:
        """Start the module that `command` begins with; raise MeasurementError where its first line has no `sign`."""
        options = ["--bundle", str(bundle), "--batch-size", str(batch_size), "--backend", "cpu"]
        self._name = command[0]
        self._process = subprocess.Popen([sys.executable, "-m", *command, *options], stderr=subprocess.PIPE, text=True)
        try:
            self.first_line = self._process.stderr.readline().strip() if self._process.stderr else ""
            if sign not in self.first_line:
                raise MeasurementError(f"{self._name} did not start: {self.first_line}")
        except BaseException:
            self._process.terminate()
            self._process.communicate()
            raise
        # What it says later is read and dropped: a full pipe would stop it.
        self._rest = Thread(target=self._process.communicate, daemon=True)
        self._rest.start()

    def close(self) -> None:
        """End the process as systemd does."""
        self._process.terminate()
        try:
            self._process.wait(LONGEST_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._rest.join()

    def __exit__(self, *raised: object) -> None:
        """End the process; raise MeasurementError where it is why the measurement failed, since it has ended itself."""
        code, error = self._process.poll(), raised[1]
        self.close()
        if isinstance(error, Exception) and code is not None:
            raise MeasurementError(f"{self._name} ended with exit code {code} while it was measured") from error
