"""What a service tells systemd (sd_notify(3)), and the unit file that starts it."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

WATCHDOG_S = 120  # systemd starts a service again that shows no progress for so long; a batch takes far less
START_TIMEOUT_S = 600  # a large model on a small device

UNIT = """\
[Unit]
Description={description}
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
WorkingDirectory={folder}
User={user}
Restart=on-failure
RestartSec=10
WatchdogSec={watchdog}
TimeoutStartSec={start_timeout}

[Install]
WantedBy=multi-user.target
"""


class Notifier:
    """Sends a service's state to systemd; does nothing where systemd did not start the process."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        microseconds = int(environment.get("WATCHDOG_USEC", "0") or 0)
        meant_for = environment.get("WATCHDOG_PID") or str(os.getpid())
        self.ping_pause_s = microseconds / 2e6 if meant_for == str(os.getpid()) else 0.0  # 0: no pings are expected
        self._clock = clock
        self._next_ping = clock()

    def ready(self) -> None:
        """Say that the service works."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that the service ends."""
        self._send("STOPPING=1")

    def seconds_to_ping(self) -> float:
        """Return in how many seconds `progress` must be called, infinite where no pings are expected."""
        return max(self._next_ping - self._clock(), 0.0) if self.ping_pause_s else float("inf")

    def progress(self) -> None:
        """Say that work continues, at most every `ping_pause_s` seconds; to be called where it really does."""
        now = self._clock()
        if self.ping_pause_s and now >= self._next_ping:
            self._next_ping = now + self.ping_pause_s
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # "@" stands for the null byte of an abstract name.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)  # a systemd that is gone must not stop the work


def unit_text(command: Sequence[str], description: str) -> str:
    """Return a unit file that runs `command` in the current folder as the current user."""
    return UNIT.format(
        description=_one_line(description),
        command=" ".join(map(_quoted, command)),
        folder=_one_line(os.getcwd()),  # noqa: PTH109
        user=getpass.getuser(),
        watchdog=WATCHDOG_S,
        start_timeout=START_TIMEOUT_S,
    )


def _quoted(argument: str) -> str:
    """Quote one argument as systemd.service(5) and systemd.syntax(7) say; bytes that are not plain text as \\xNN."""
    special = {'"': '\\"', "\\": "\\\\", "%": "%%", "$": "$$"}
    data = os.fsencode(argument)
    return '"' + "".join(special.get(chr(b), chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in data) + '"'


def _one_line(text: str) -> str:
    """Return text for a setting that knows no quotes, where % alone is special."""
    return " ".join(text.split()).replace("%", "%%")
