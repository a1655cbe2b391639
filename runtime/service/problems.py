"""Requests that cannot be answered: a status code and one line that says what was expected, found and can be done."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

KSERVE_PREFIX = "/v2"  # its errors stand under another key
CLIENT_GONE = 499  # the code that is counted where nobody takes the answer


class RequestError(Exception):
    """Ends a request with a status code and a sentence."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class BusyError(RequestError):
    """The service has as much to do as it can hold."""

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(503, detail, {"Retry-After": str(max(1, round(retry_after_s)))})


def fault() -> RequestError:
    """Return the answer where the service itself is at fault."""
    return RequestError(500, "found a fault in the service; its log says more")


def problem(path: str, error: RequestError) -> Response:
    """Return the answer to a request to `path` that ended with `error`."""
    let_go(error)
    return JsonAnswer({problem_key(path): error.detail}, error.status, error.headers)


def problem_key(path: str) -> str:
    """Return the key under which errors of a path stand."""
    return "error" if path == KSERVE_PREFIX or path.startswith(f"{KSERVE_PREFIX}/") else "detail"


def client_gone(error: Exception) -> Response:
    """Return the answer that nobody takes to a request that ended with `error`."""
    let_go(error)
    return Response(status_code=CLIENT_GONE)


def let_go(error: Exception) -> None:
    """Forget where an error was raised: these frames hold the request's files, and some of them hold the error.

    All of that would wait for the garbage collector, which runs by the number of objects, not by their size.
    """
    error.__traceback__ = None


class JsonAnswer(Response):
    """A JSON answer; names that are not text are escaped, so that every client can read it."""

    media_type = "application/json"

    def __init__(self, content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(json.dumps(content, allow_nan=False).encode(), status_code, headers)
