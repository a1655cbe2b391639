"""What every request passes: who may ask, what browsers are told, what is counted, and one shape for all errors."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from runtime.service.access import OPEN_FOLDER, PAGE, Access, is_open
from runtime.service.desk import Desk
from runtime.service.problems import RequestError, client_gone, fault, problem

Endpoint = Callable[[Request], Awaitable[Response]]
SHORTCUT = "allnet.shortcut"  # the key of a scope that names the path of one
OTHER_ROUTE = "other"  # paths that are not routes: a label for each would fill the memory of whoever counts them
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
    """An ASGI application around another.

    Args:
        app: The application.
        desk: Its counters are kept here.
        access: Who may ask.
        shortcuts: Endpoints for POST by path, beside those of `app`: its layers cost as much as a form takes to read.
    """

    def __init__(self, app: FastAPI, desk: Desk, access: Access, shortcuts: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._shortcuts = shortcuts
        self._desk = desk
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if scope["method"] == "HEAD" and is_open(path):
            scope = {**scope, "method": "GET"}  # probes ask so; the server, which has its own scope, sends no body
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                is_page = path == PAGE or path.startswith(OPEN_FOLDER)
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
            await problem(path, fault())(scope, receive, send_on)
        finally:
            metrics.in_flight.dec()
            metrics.observe_request(route_of(scope), status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._access.check(scope["path"], scope["headers"])
            endpoint = self._shortcuts.get(scope["path"]) if scope["method"] == "POST" else None
            if endpoint is None:
                await self._app(scope, receive, send)
                return
            scope["app"] = self._app
            scope[SHORTCUT] = scope["path"]
            response = await endpoint(Request(scope, receive))
        except RequestError as error:
            response = problem(scope["path"], error)
        except ClientDisconnect as error:
            response = client_gone(error)
        await response(scope, receive, send)


def route_of(scope: Scope) -> str:
    """Return the route that answered."""
    return str(scope.get(SHORTCUT) or getattr(scope.get("route"), "path", OTHER_ROUTE))
