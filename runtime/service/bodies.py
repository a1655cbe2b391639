"""Takes the body of a request as it comes: not too much, not too slowly, and not while the service is stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from starlette.requests import ClientDisconnect, Request

from runtime.service.desk import Desk, Hold
from runtime.service.limits import PROGRESS_BYTES
from runtime.service.problems import BusyError, RequestError

BODY = "body"  # the key of a request's state under which its connection puts it
MOST_EARLY_BYTES = 512 * 1024  # that a connection keeps until the application asks for the body
Take = Callable[[bytes], None]


class Body:
    """A request's body, from its connection to its reader: no task is woken for each piece, and none is copied.

    Args:
        begin: Called when the application asks for the body.
        pause: Called when too much comes before that.
    """

    def __init__(self, begin: Callable[[], None], pause: Callable[[], None]) -> None:
        self._begin = begin
        self._pause = pause
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._take: Take | None = None
        self._has_ended = asyncio.Event()
        self._error: Exception | None = None

    def feed(self, piece: bytes) -> None:
        """Hand over a piece; what comes after one that was refused is dropped."""
        if self._take:
            self._hand_over(self._take, piece)
            return
        self._early.append(piece)
        self._early_bytes += len(piece)
        if self._early_bytes > MOST_EARLY_BYTES:
            self._pause()

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing more comes, and where the body is incomplete, why."""
        if not self._has_ended.is_set():
            self._error = error
            self._has_ended.set()

    async def read(self, take: Take) -> None:
        """Call `take` with each piece until the body is complete; raise what `take` raises, or what ended the body."""
        for piece in self._early:
            take(piece)
        self._early.clear()
        self._take = take
        self._begin()
        try:
            await self._has_ended.wait()
        finally:
            self._take = _drop  # of a body that was given up, more may come before the answer has gone out
        if self._error:
            raise self._error

    def _hand_over(self, take: Take, piece: bytes) -> None:
        if self._error is None:
            try:
                take(piece)
            except Exception as error:  # it must not end the connection's parser
                self.end(error)


def _drop(_: bytes) -> None:
    """Take a piece that nobody wants any more."""


async def read_body(request: Request, desk: Desk, hold: Hold) -> bytes:
    """Return the body of a request; raises what `take_body` raises."""
    pieces: list[bytes] = []
    await take_body(request, desk, hold, pieces.append)
    return b"".join(pieces)


async def take_body(request: Request, desk: Desk, hold: Hold, take: Take) -> None:
    """Call `take` with a body as it comes; raise RequestError where it is too large, too slow, or the service stops."""
    limits = desk.limits
    check_head(request, limits.request_bytes)
    started = anyio.current_time()
    received = progress = 0

    def count(piece: bytes) -> None:
        nonlocal received, progress
        received += len(piece)
        if received > limits.request_bytes:
            raise too_large(limits.request_bytes, received)
        if desk.is_stopping:
            raise BusyError("expected a service that runs, found it stopping; try again later")
        hold.add(len(piece))
        take(piece)
        if received - progress >= PROGRESS_BYTES:
            progress = received
            scope.deadline = min(anyio.current_time() + limits.stall_s, started + limits.body_s)

    with anyio.CancelScope(deadline=started + limits.stall_s) as scope:
        await _receive(request, count)
    if scope.cancelled_caught:
        raise RequestError(
            408,
            f"expected {PROGRESS_BYTES} bytes of the body every {limits.stall_s:g} s, all of it in {limits.body_s:g} "
            f"s, found {received} bytes; send less at a time, or over a faster connection",
        )


async def _receive(request: Request, take: Take) -> None:
    body: Body | None = request.scope.get("state", {}).get(BODY)
    if body:
        await body.read(take)
        return
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        take(message.get("body", b""))
        if not message.get("more_body"):
            return


def check_head(request: Request, most: int) -> None:
    """Raise RequestError where the head of a request tells that its body cannot be taken."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large(most, int(length[:20]))
    if encoding := request.headers.get("content-encoding"):
        raise RequestError(415, f"expected a plain body, found one encoded as {encoding!r}; send it without encoding")


def too_large(most: int, found: int) -> RequestError:
    """Return the error of a body that is too large."""
    return RequestError(413, f"expected a request of at most {most} bytes, found {found}; send fewer files at a time")
