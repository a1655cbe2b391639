"""What every request passes: who may ask, what browsers are told, what is counted, and one shape for all errors."""

from __future__ import annotations

import sys
import time
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.service.access import OPEN_FOLDER, Access
from runtime.service.desk import Desk
from runtime.service.problems import RequestError, problem

OTHER_ROUTE = "other"  # paths that are no route: a label for each would fill the memory of who counts them
SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]
KEEP_NOTHING = (b"cache-control", b"no-store")
ASK_AGAIN = (b"cache-control", b"no-cache")


class FrontDoor:
    """An ASGI application round another."""

    def __init__(self, app: ASGIApp, desk: Desk, access: Access) -> None:
        self._app = app
        self._desk = desk
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                is_page = path == "/" or path.startswith(OPEN_FOLDER)
                message["headers"] = [
                    *message.get("headers", []),
                    *SECURITY_HEADERS,
                    ASK_AGAIN if is_page else KEEP_NOTHING,
                ]
            await send(message)

        started = time.perf_counter()
        metrics = self._desk.metrics
        metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, send_on)
        except Exception as error:
            traceback.print_exception(error, file=sys.stderr)
            if status:
                raise
            await problem(path, RequestError(500, "found a fault in the service; its log says more"))(
                scope, receive, send_on
            )
        finally:
            metrics.in_flight.dec()
            metrics.observe_request(route_of(scope), status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._access.check(scope["path"], scope["headers"])
        except RequestError as error:
            await problem(scope["path"], error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def route_of(scope: Scope) -> str:
    """Return the route that answered."""
    return getattr(scope.get("route"), "path", OTHER_ROUTE)
