"""Bounds what a connection may cost: how many there are, and how long one may take to ask and to take its answer.

uvicorn itself waits for ever for the rest of a request's head, and for a client that does not read.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from runtime.service.bodies import BODY, Body
from runtime.service.limits import Limits

MOST_HEAD_BYTES = 64 * 1024
NO_HTTP = 400, "expected an HTTP request, found something else; check the address and the client"
TOO_MANY = 503, "expected fewer open connections, found as many as are allowed; try again later"
TOO_LONG = 431, f"expected a head of at most {MOST_HEAD_BYTES} bytes, found more; send shorter headers"


class BoundedConnection(HttpToolsProtocol):
    """A connection to the service; a subclass has the limits."""

    limits: Limits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._body: Body | None = None  # of the request being received
        self._is_head = True  # what came last
        self._head_bytes = 0
        self._begun = 0  # requests
        self._answered: RequestResponseCycle | None = None  # the one being answered
        self._seen: tuple[int, str] = (0, "")
        self._since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or end at once where there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(TOO_MANY)

    def data_received(self, data: bytes) -> None:
        """Take what came; end the connection where a head never ends."""
        self._is_head = True
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(NO_HTTP)
        self._head_bytes = self._head_bytes + len(data) if self._is_head else 0
        if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(TOO_LONG)

    def _parse(self, data: bytes) -> None:
        """Read HTTP/1.1, also of a client that offers another protocol beside it, as Java's do.

        The parser takes such a request for one without a body: its head is read again without the offer.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = self._head_without_offer() + data[offer.args[0] :] if self._is_offer() else b""
                self.parser = httptools.HttpRequestParser(self)  # the other reads no more where the head says close

    def _is_offer(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        first = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        others = (b"%s: %s" % header for header in self.headers if header[0] != b"upgrade")
        return b"\r\n".join([first, *others, b"", b""])

    def on_message_begin(self) -> None:
        """Count the requests."""
        self._begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Give the request its body; that of one sent before the last was answered is left to uvicorn."""
        self._is_head = False
        if self._is_offer():
            return
        state = self.scope["state"]
        super().on_headers_complete()
        self._body = None if self.pipeline else Body(partial(self._begin_body, self.cycle), self.flow.pause_reading)
        state[BODY] = self._body

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of a body; what comes after the answer is dropped."""
        self._is_head = False
        if self._body is None:
            super().on_body(body)
        elif not self.cycle.response_complete:
            self._body.feed(body)

    def on_message_complete(self) -> None:
        """End the body."""
        if self._is_offer():
            return
        if self._body:
            self._body.end()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the body that will not arrive, and the answer that nobody takes."""
        if self._answered:
            self._answered.disconnected = True  # uvicorn tells only the last of those that were sent in a row
        super().connection_lost(exc)
        if self._body:
            self._body.end(ClientDisconnect())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _begin_body(self, cycle: RequestResponseCycle) -> None:
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self.flow.resume_reading()

    def _refuse(self, reason: tuple[int, str]) -> None:
        """Answer before there is a request to answer, and end the connection."""
        code, detail = reason
        content = json.dumps({"detail": detail}).encode()
        head = (
            f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def close_if_stalled(self, now: float) -> None:
        """End the connection where it has been too long in the same state; to be called every second or so."""
        state = self._state()
        if (self._begun, state) != self._seen:
            self._seen, self._since = (self._begun, state), now
            return
        limit = {"asking": self.limits.head_s, "taking": self.limits.answer_s}.get(state)
        if limit is not None and now - self._since > limit:
            self.transport.abort()

    def _state(self) -> str:
        """Say what the connection waits for: the client's request, ours to answer, or the client to take the answer."""
        if self.transport.get_write_buffer_size():
            return "taking"
        if self.cycle is None or self.cycle.response_complete:
            return "asking"
        return "taking" if self.cycle.response_started else "answering"


def connections_with(limits: Limits) -> type[BoundedConnection]:
    """Return the class of connections with these limits."""
    return type("Connection", (BoundedConnection,), {"limits": limits})
