from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.watching.systemd import Notifier, unit_text
from tests.runtime.fake_clock import FakeClock

needs_unix_sockets = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield receiver


@needs_unix_sockets
def test_ready_and_stopping_reach_the_socket(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")) as receiver:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        notifier.ready()
        notifier.stopping()
        assert [receiver.recv(99), receiver.recv(99)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract names are Linux's own")
def test_an_abstract_name_is_spoken_to() -> None:
    with listening(f"\0allnet-{os.getpid()}") as receiver:
        Notifier({"NOTIFY_SOCKET": f"@allnet-{os.getpid()}"}).ready()
        assert receiver.recv(99) == b"READY=1"


@needs_unix_sockets
def test_pings_come_at_half_the_watchdogs_time_and_only_where_there_is_progress(tmp_path: Path) -> None:
    clock = FakeClock()
    with listening(str(tmp_path / "notify")) as receiver:
        receiver.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"}, clock)
        assert (notifier.ping_pause_s, notifier.seconds_to_ping()) == (5, 0)
        for _ in range(21):
            notifier.progress()
            clock.pass_by(0.5)
        assert [receiver.recv(99) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        clock.pass_by(60)
        with pytest.raises(BlockingIOError):
            receiver.recv(99)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/no/such/socket"},
    ],
)
def test_without_systemd_nothing_is_sent_and_nothing_fails(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready()
    notifier.progress()
    notifier.stopping()
    assert (notifier.ping_pause_s, notifier.seconds_to_ping()) == (0, float("inf"))


def test_arguments_are_quoted_for_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "100 % work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = unit_text(["/usr/bin/python", 'a "b" c', "50%", "$HOME", "back\\slash", os.fsdecode(b"\xff\n")], "of\n50 %")
    lines = text.splitlines()
    assert r'ExecStart="/usr/bin/python" "a \"b\" c" "50%%" "$$HOME" "back\\slash" "\xff\x0a"' in lines
    assert f"WorkingDirectory={tmp_path}/100 %% work" in lines
    assert "Description=of 50 %%" in lines
    for setting in ("Type=notify", "Restart=on-failure", "WatchdogSec=120", "WantedBy=multi-user.target"):
        assert setting in lines


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_itself_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "allnet-watch.service"
    unit.write_text(unit_text([sys.executable, "-m", "runtime.watch", '/data/50 % "cells"'], "ALLNet Edge"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)  # noqa: S607
    assert "allnet-watch.service" not in done.stderr, done.stderr
