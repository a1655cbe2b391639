"""Sends requests of many clients at once over plain sockets: lean, so that it leaves the machine to the server."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from runtime.errors import MeasurementError

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"
RECEIVE_BYTES = 256 * 1024
GIVE_UP_S = 60.0  # after the end, for the last answers


@dataclass(frozen=True)
class Exchange:
    """One request and its answer."""

    request: int  # its place among the requests
    seconds: float  # from its first byte to the answer's last
    code: int
    body: bytes


@dataclass
class _Client:
    """A connection that sends one request after the other."""

    connection: socket.socket
    turns: Iterator[int]
    request: int = 0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    started: float = 0.0


def multipart_request(path: str, host: str, files: Sequence[tuple[str, bytes]], token: str = "") -> bytes:
    """Return a POST request with these files in the field `files`."""
    boundary = b"allnet-edge-load-d3b07384d113edec"
    parts = [
        b"".join(
            [
                b"--" + boundary + b'\r\nContent-Disposition: form-data; name="files"; filename="',
                name.encode() + b'"\r\nContent-Type: application/octet-stream\r\n\r\n',
                data + b"\r\n",
            ]
        )
        for name, data in files
    ]
    body = b"".join([*parts, b"--" + boundary + b"--\r\n"])
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: multipart/form-data; boundary={boundary.decode()}",
        f"Content-Length: {len(body)}",
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    return "\r\n".join(head).encode() + HEAD_END + body


def exchange(address: tuple[str, int], requests: Sequence[bytes], clients: int, seconds: float) -> list[Exchange]:
    """Let each client send one request after the other, each client its own turn of them, until `seconds` are over.

    Returns all exchanges, the last answers included. Raises OSError where the server cannot be reached, and
    MeasurementError where it ends a connection.
    """
    done: list[Exchange] = []
    end = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        for number in range(clients):
            _begin(selector, address, requests, number * len(requests) // clients)
        while selector.get_map() and time.perf_counter() < end + GIVE_UP_S:
            for key, events in selector.select(1.0):
                client: _Client = key.data
                if events & selectors.EVENT_WRITE:
                    _send(selector, client)
                elif finished := _receive(client):
                    done.append(finished)
                    if time.perf_counter() < end:
                        _next(selector, client, requests)
                    else:
                        selector.unregister(client.connection)
                        client.connection.close()
        for key in list(selector.get_map().values()):
            done.append(Exchange(key.data.request, GIVE_UP_S, 0, b"no answer"))
            key.data.connection.close()
    return done


def _begin(selector: selectors.BaseSelector, address: tuple[str, int], requests: Sequence[bytes], first: int) -> None:
    connection = socket.create_connection(address)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = _Client(connection, islice(cycle(range(len(requests))), first, None))
    selector.register(connection, selectors.EVENT_READ, client)
    _next(selector, client, requests)


def _next(selector: selectors.BaseSelector, client: _Client, requests: Sequence[bytes]) -> None:
    client.request = next(client.turns)
    client.unsent = memoryview(requests[client.request])
    client.received.clear()
    client.started = time.perf_counter()
    selector.modify(client.connection, selectors.EVENT_WRITE, client)
    _send(selector, client)


def _send(selector: selectors.BaseSelector, client: _Client) -> None:
    try:
        sent = client.connection.send(client.unsent)
    except BlockingIOError:
        return
    client.unsent = client.unsent[sent:]
    if not client.unsent:
        selector.modify(client.connection, selectors.EVENT_READ, client)


def _receive(client: _Client) -> Exchange | None:
    """Take what came; return the exchange when it is complete."""
    data = client.connection.recv(RECEIVE_BYTES)
    if not data:
        raise MeasurementError(f"the server ended a connection: {bytes(client.received[:200])!r}")
    client.received += data
    head, found, body = bytes(client.received).partition(HEAD_END)
    if not found:
        return None
    length = int(head.lower().split(LENGTH, 1)[1].split(b"\r\n", 1)[0])
    if len(body) < length:
        return None
    return Exchange(client.request, time.perf_counter() - client.started, int(head[9:12]), body)
