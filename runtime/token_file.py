"""The token that clients bring to a service, from a file or from the environment, never from a command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from runtime.errors import UsageError, reason_of

TOKEN_VARIABLE = "ALLNET_TOKEN"  # noqa: S105  the variable's name


def add_token_argument(parser: argparse.ArgumentParser) -> None:
    """Let a client's command line name the file that holds its token."""
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"holds the token that the server asks for; or {TOKEN_VARIABLE}"
    )


def find_token(file: Path | None) -> str:
    """Return the token in a file, or without a file that of the environment, empty for none.

    Raises UsageError where the file cannot be read, or holds nothing or several lines.
    """
    if not file:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        token = file.read_text(encoding="utf-8-sig").strip()  # Windows editors write a mark before it
    except (OSError, ValueError) as error:
        raise UsageError(f"expected a token in the file {file}, found: {reason_of(error)}") from error
    if not token:
        raise UsageError(f"expected a token in the file {file}, found nothing; write one into it")
    if (lines := len(token.splitlines())) > 1:
        raise UsageError(f"expected a token alone in the file {file}, found {lines} lines; leave one in it")
    return token
