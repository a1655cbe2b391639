"""Who may ask: with the right token, by a name of this service, and not from another site's page."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from runtime.service.problems import RequestError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
LEAST_TOKEN = 16  # characters
# Probes, and the page, which is the same for all and asks for the token itself.
PAGE = "/"
OPEN_PATHS = frozenset({PAGE, "/healthz", "/readiness", "/v2/health/live", "/v2/health/ready"})
OPEN_FOLDER = "/static/"
# What browsers call the sender where another site's page embeds or links to us; they then send no Origin.
OTHER_SITES = ("cross-site", "same-site")
NO_PART_OF_A_HOST = frozenset("@/?#\\*")
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Access:
    """What a request must bring.

    On a loopback address any program of this machine may ask, but no page of another site: neither by its own name for
    this address (DNS rebinding), nor in a visitor's browser from there.
    """

    token: str = ""  # none: no token is asked for
    names: frozenset[str] = LOOPBACK_NAMES  # by which the service may be addressed; none: by any
    allowed_names: frozenset[str] = frozenset()  # that a user added

    def check(self, path: str, headers: Headers) -> None:
        """Raise RequestError where a request with this head must not be answered."""
        host = _only(headers, b"host")
        if self.names and _name_of(host) not in self.names | self.allowed_names:
            raise RequestError(
                403,
                f"expected the service to be addressed as {' or '.join(sorted(self.names | self.allowed_names))}, "
                f"found {host[:100]!r}; start it with --allow-host NAME for another name",
            )
        if origin := _only(headers, b"origin"):
            self._refuse_foreign_origin(origin, host)
        elif path != PAGE and (site := _only(headers, b"sec-fetch-site")) in OTHER_SITES:
            raise RequestError(
                403, f"expected a request from a page of this service, found a {site} one; open {PAGE} itself"
            )
        if self.token and not is_open(path):
            self._refuse_wrong_token(_only(headers, b"authorization"))

    def _refuse_foreign_origin(self, origin: str, host: str) -> None:
        """Raise RequestError where a browser says that another site's page asks."""
        found = origin.partition("://")[2]
        if found.lower() != host.lower() and _name_of(found) not in self.allowed_names:
            raise RequestError(
                403,
                f"expected a request from a page of this service, found one from {origin[:100]!r}; "
                "start it with --allow-host NAME behind a server of that name",
            )

    def _refuse_wrong_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        is_right = hmac.compare_digest(token.strip().encode(), self.token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise RequestError(
                401,
                f"expected the header Authorization: Bearer TOKEN with this service's token, found "
                f"{'another one' if authorization else 'none'}; ask whoever runs the service for it",
                {"WWW-Authenticate": "Bearer"},
            )


def is_open(path: str) -> bool:
    """Say whether a path is answered without a token: the page's, or a probe's."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def is_host_name(text: str) -> bool:
    """Say whether a text is a host's name or address alone, as --allow-host takes it."""
    return bool(text) and text.lower() in (_name_of(text), _name_of(f"[{text}]"))


def _only(headers: Headers, name: bytes) -> str:
    """Return a header's value, empty where there is none; raise RequestError where there are several."""
    values = [value for key, value in headers if key == name]
    if len(values) > 1:
        raise RequestError(400, f"expected one header {name.decode()}, found {len(values)}; send it once")
    return values[0].decode("latin-1") if values else ""


def _name_of(host: str) -> str:
    """Return the name in a host header, without the port and in lower case; empty where it is not one."""
    if set(host) & NO_PART_OF_A_HOST:
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:  # brackets that hold no address
        return ""
