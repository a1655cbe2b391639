"""The processes that train one network together: who is there, whether all mean the same, whether all are alive.

The frameworks compute together; who is away they notice late, if at all, and end with a trace of C++. So each process
has a line, a TCP connection, to the first: a line that breaks off ends all processes at once, with one sentence.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from runtime.command_line import REFUSED
from runtime.errors import AllnetError, RunError, UsageError

# Keras' own names (keras.distribution.initialize).
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
NUMBER = "KERAS_DISTRIBUTION_PROCESS_ID"
JOIN_SECONDS = 120.0  # until all are there
RETRY_SECONDS = 0.2
REASON_SECONDS = 3.0  # that a broken line may come after the framework's own error
KEEPALIVE_SECONDS = 10  # of silence, then three questions as far apart: a host without power is noticed too
LONGEST_LINE = 4096
DONE, FAILED, SAID = "done", "failed", "said"
GO_ON = "start all of them again, with --resume where an epoch was finished"


@dataclass(frozen=True)
class Place:
    """A process among those that train together."""

    host: str  # of the first process
    port: int
    count: int
    number: int  # from 0


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Return which process this is, None where one trains alone.

    Raises UsageError where the variables that Keras names do not fit together.
    """
    given = {name: environment.get(name, "") for name in (ADDRESSES, COUNT, NUMBER)}
    if not any(given.values()):
        return None
    host, _, port = given[ADDRESSES].split(",")[0].strip().rpartition(":")
    numbers = (port, given[COUNT], given[NUMBER])
    if host and all(text.isascii() and text.isdigit() for text in numbers):
        at_port, count, number = map(int, numbers)
        if number < count and 0 < at_port < 1 << 16:
            return Place(host.strip("[]"), at_port, count, number) if count > 1 else None
    raise UsageError(
        f"expected {ADDRESSES} with the first process' HOST:PORT, {COUNT} and {NUMBER} from 0 to below it, found "
        f"{', '.join(repr(text) for text in given.values())}; set all three in each process, or none"
    )


class Crew:
    """The processes that train together, as one of them sees it; alone it is a crew of one."""

    def __init__(self, place: Place | None, lines: Mapping[int, _Line]) -> None:
        self.count = place.count if place else 1
        self.number = place.number if place else 0
        self.host = place.host if place else ""
        self._lines = lines

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.number == 0

    def told_by_first(self, text: str) -> str:
        """Return the first process' text to all of them; raise RunError where one is lost."""
        if self.is_first:
            self._say_to_all(text)
            return text
        return self._lines[0].heard()

    def agree(self, meant: Mapping[str, str]) -> None:
        """Wait until all are here; raise UsageError unless each means the same by each of the names in `meant`."""
        own = json.dumps(meant)
        if not self.is_first:
            self._lines[0].say(SAID, own)
            self._compare(meant, self._lines[0].heard(), 0)
            return
        others = {number: line.heard() for number, line in self._lines.items()}
        self._say_to_all(own)
        for number, text in others.items():
            self._compare(meant, text, number)

    def say_done(self) -> None:
        """Tell the others that this process needs them no more."""
        for line in self._lines.values():
            line.say(DONE)

    def say_failed(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        reason = str(error) if isinstance(error, AllnetError) else f"{type(error).__name__} {error}".strip()
        for line in self._lines.values():
            line.is_watched = False
            line.say(FAILED, " ".join(reason.split())[: LONGEST_LINE // 2])

    def _say_to_all(self, text: str) -> None:
        for line in self._lines.values():
            line.say(SAID, text)

    def _compare(self, own: Mapping[str, str], text: str, number: int) -> None:
        other = json.loads(text)
        differing = [name for name, value in own.items() if other.get(name) != value]
        if differing:
            raise UsageError(
                f"expected the same {' and '.join(differing)} in all {self.count} processes, found others in process "
                f"{number} than in process {self.number}; give all of them the same command, cells and code"
            )


class _Line:
    """A connection to another process, on which a thread listens."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.number = number
        self.is_watched = True
        self._connection = connection
        self._heard: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def say(self, kind: str, text: str = "") -> None:
        """Send a message; that the other has gone is noticed by who listens."""
        with suppress(OSError):
            self._connection.sendall(json.dumps([kind, text]).encode() + b"\n")

    def heard(self) -> str:
        """Wait for the next message: its end, if it never comes, ends this process."""
        return self._heard.get()

    def _listen(self) -> None:
        with suppress(OSError, ValueError, TypeError), self._connection.makefile("rb") as stream:
            while raw := stream.readline(LONGEST_LINE):
                kind, text = json.loads(raw)
                if kind == DONE:
                    return
                if kind == FAILED:
                    self._end(f": {text}")
                self._heard.put(text)
        self._end("")

    def _end(self, reason: str) -> None:
        """End this process, whatever it waits for in a framework; say why, once, unless it ends by itself."""
        if self.is_watched:
            end_with(f"process {self.number} has ended{reason}; {GO_ON}")


_ending = threading.Lock()  # held by who says why


def end_with(sentence: str) -> NoReturn:
    """Print one line and end the process at once."""
    with _ending:
        with suppress(OSError, ValueError):
            print(f"error: {sentence}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(REFUSED)


@contextmanager
def assembled(place: Place | None) -> Iterator[Crew]:
    """Yield the crew once all are there; whoever leaves by an error ends the others.

    Raises RunError where they are not there in time.
    """
    crew = Crew(place, _lines_of(place) if place else {})
    try:
        yield crew
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, AllnetError) and crew.count > 1:
            time.sleep(REASON_SECONDS)  # a framework's error is mostly another process' end
        crew.say_failed(error)
        raise
    crew.say_done()


def _lines_of(place: Place) -> dict[int, _Line]:
    end = time.monotonic() + JOIN_SECONDS
    connections = _accepted(place, end) if place.number == 0 else {0: _connected(place, end)}
    for connection in connections.values():
        connection.settimeout(None)
        _keep_alive(connection)
    return {number: _Line(connection, number) for number, connection in connections.items()}


def _accepted(place: Place, end: float) -> dict[int, socket.socket]:
    """Return the connections of all others to this first process, by their numbers."""
    found: dict[int, socket.socket] = {}
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server(("", place.port), family=family) as listener:
            while len(found) < place.count - 1:
                listener.settimeout(max(end - time.monotonic(), 0.01))
                connection, _ = listener.accept()
                if (number := _introduced(connection, place)) is not None:
                    if number in found:
                        raise RunError(f"expected one process {number}, found two; give each its own {NUMBER}")
                    found[number] = connection
    except TimeoutError as error:
        missing = [str(number) for number in range(1, place.count) if number not in found]
        raise RunError(
            f"expected {place.count} processes within {JOIN_SECONDS:g} s, process {' and '.join(missing)} did not come "
            f"to {place.host}:{place.port}; {GO_ON}"
        ) from error
    except OSError as error:
        raise RunError(
            f"expected a free address at {place.host}:{place.port}, found: {error.strerror or error}; name another in "
            f"{ADDRESSES}"
        ) from error
    for connection in found.values():
        connection.sendall(b"all are here\n")
    return found


def _introduced(connection: socket.socket, place: Place) -> int | None:
    """Return the number of who has come, None where it is none of ours."""
    connection.settimeout(RETRY_SECONDS * 25)
    with suppress(OSError, ValueError, TypeError), connection.makefile("rb") as stream:
        count, number = json.loads(stream.readline(LONGEST_LINE))
        if count == place.count and number in range(1, count):
            return int(number)
    connection.close()
    return None


def _connected(place: Place, end: float) -> socket.socket:
    """Return the connection to the first process, which may come later than this one."""
    reason: object = "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((place.host, place.port), timeout=left)
            connection.sendall(json.dumps([place.count, place.number]).encode() + b"\n")
            if connection.makefile("rb", buffering=0).readline():  # when all are there
                return connection
            reason = f"it takes no process {place.number} of {place.count}"
        except OSError as error:
            reason = error.strerror or error
        time.sleep(RETRY_SECONDS)
    raise RunError(
        f"expected the first process at {place.host}:{place.port} within {JOIN_SECONDS:g} s, found: {reason}; "
        f"check {ADDRESSES} and {COUNT}, then {GO_ON}"
    )


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_SECONDS),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def free_port() -> int:
    """Return a port of this host that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
