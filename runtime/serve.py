"""python -m runtime.serve: classifies over HTTP what programs and the page in a browser send."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.command_line import import_quietly

    import_quietly()

import argparse
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.classifier_arguments import add_classifier_arguments, classifier_options
from runtime.command_line import DONE, ArgumentParser, parsed_number, positive_int, run_command, tell
from runtime.errors import UsageError, reason_of
from runtime.service.limits import MIB, Limits
from runtime.token_file import TOKEN_VARIABLE, find_token

if TYPE_CHECKING:
    from runtime.service.access import Access
    from runtime.service.watch_feed import WatchFeed

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
LARGEST_PORT = 65535
BACKLOG = 512  # connections that the system holds until they are looked at


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.serve",
        description="Answer over HTTP which cells are leukemic, with a page for people. For research, not a diagnosis.",
        epilog="Exit codes: 0 stopped by SIGTERM or Ctrl-C, all that was taken is answered; 1 refused.",
    )
    add_classifier_arguments(parser)
    parser.add_argument("--host", default=DEFAULT_HOST, help=f"default {DEFAULT_HOST}; any other needs a token")
    parser.add_argument("--port", type=port, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0: a free one")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"holds the token that clients must bring; or {TOKEN_VARIABLE}"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name of this service; repeatable"
    )
    for option, limited, usual in (
        ("--max-files", "images in a request", Limits.request_files),
        ("--max-mb", "megabytes of a request", Limits.request_bytes // MIB),
        ("--max-waiting", "cells in the queue", Limits.waiting_cells),
    ):
        parser.add_argument(option, type=positive_int, metavar="N", help=f"{limited}; default {usual}")
    parser.add_argument("--watch-db", type=Path, metavar="FILE", help="the page follows this database of runtime.watch")
    parser.add_argument("--watch-folder", type=Path, metavar="DIR", help="the watched folder, for the cells' pictures")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    options = build_parser().parse_args(arguments)
    # Behind the parser, so that --help needs no web library.
    from runtime.service.desk import Desk
    from runtime.service.server import Server

    access = access_of(options)
    feed = feed_of(options)
    with listening(options.host, options.port) as listener, Desk(limits_of(options), feed) as desk:
        address = address_of(listener)
        server = Server(desk, access, classifier_options(options, audit=False))
        server.run_until_stopped(
            listener,
            lambda: tell(f"{address} answers: {desk.classifier.description}. For research, not a diagnosis."),
        )
        tell("stopped: all that was taken is answered")
    return DONE


def access_of(options: argparse.Namespace) -> Access:
    """Return who may ask; raise UsageError where an address that others reach has no token."""
    from runtime.service.access import LEAST_TOKEN, LOOPBACK_NAMES, Access, is_host_name

    token = find_token(options.token_file)
    is_local = options.host in LOOPBACK_NAMES
    if not is_local and not token:
        raise UsageError(
            f"expected a token for the address {options.host}, which others can reach, found none; write one of "
            f"{LEAST_TOKEN} characters or more into a file and name it with --token-file, or set {TOKEN_VARIABLE}"
        )
    is_plain = token.isascii() and token.isprintable() and " " not in token
    if token and (len(token) < LEAST_TOKEN or not is_plain):
        raise UsageError(
            f"expected a token of {LEAST_TOKEN} or more ASCII characters without spaces, found {len(token)}"
            f"{'' if is_plain else ', some of them others'}; "
            'make one with `python -c "import secrets; print(secrets.token_urlsafe())"`'
        )
    for name in options.allow_host:
        if not is_host_name(name):  # no request would ever be found to be addressed so
            raise UsageError(
                f"expected a name such as lab.example at --allow-host, without http://, port or *, received {name!r}"
            )
    allowed = frozenset(name.lower() for name in options.allow_host)
    # With a token, a page that reaches the service under a name of its own has none to show.
    return Access(token, LOOPBACK_NAMES if is_local else frozenset(), allowed)


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits, with those that the command line names."""
    limits = Limits()
    return replace(
        limits,
        request_files=options.max_files or limits.request_files,
        request_bytes=options.max_mb * MIB if options.max_mb else limits.request_bytes,
        bytes_at_a_time=max(limits.bytes_at_a_time, 2 * (options.max_mb or 0) * MIB),
        waiting_cells=options.max_waiting or limits.waiting_cells,
    )


def feed_of(options: argparse.Namespace) -> WatchFeed | None:
    """Return what follows the database of a watched folder; raise AllnetError where it is not one."""
    from runtime.service.watch_feed import WatchFeed

    if options.watch_folder and not options.watch_folder.is_dir():
        raise UsageError(f"expected the watched folder at {options.watch_folder}, found none; check the path")
    if not options.watch_db:
        if options.watch_folder:
            raise UsageError("expected --watch-db beside --watch-folder, received none; name the folder's database")
        return None
    feed = WatchFeed(options.watch_db, options.watch_folder)
    if options.watch_db.exists():
        feed.news(after=0, limit=1)
    else:
        tell(f"{options.watch_db} does not exist yet: the page shows it as soon as runtime.watch has made it")
    return feed


@contextmanager
def listening(host: str, at_port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens there; raise UsageError where that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, at_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _not_there(host, at_port, error) from error
    with listener:
        try:
            if os.name == "posix":  # on Windows it would let a second service take the same port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise _not_there(host, at_port, error) from error
        yield listener


def _not_there(host: str, at_port: int, error: Exception) -> UsageError:
    return UsageError(
        f"expected a free address at {host}, port {at_port}, found: {reason_of(error)}; choose another --port or --host"
    )


def address_of(listener: socket.socket) -> str:
    """Return where a browser finds the page."""
    host, at_port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{at_port}"


def port(text: str) -> int:
    """Parse a port's number, 0 for any that is free."""
    return parsed_number(text, int, lambda number: 0 <= number <= LARGEST_PORT, f"a port from 0 to {LARGEST_PORT}")


if __name__ == "__main__":
    run_command(main)
