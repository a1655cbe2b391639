"""The command line of classify_cluster."""

from __future__ import annotations

import argparse
import os
from itertools import pairwise
from pathlib import Path

from runtime.classifier_arguments import add_classifier_arguments
from runtime.cluster.connection import AUTO, LOCAL
from runtime.cluster.storage import is_url
from runtime.command_line import ArgumentParser, parsed_number, positive_float, positive_int
from runtime.errors import UsageError

DEFAULT_BLOCK_SIZE = 256
STORE_TIMEOUT_S = 60.0


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m runtime.classify_cluster",
        description="Classify an archive of images of single white blood cells on a Ray cluster. The same command "
        "again continues where it was cut off. For research, not a diagnosis.",
        epilog="Exit codes: 0 all files read; 1 not finished; 2 finished, but some files could not be read: the same "
        "command again tries those that could not be opened.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, folder with its sub-folders, or pattern, under the same path on every machine; or a URL of an "
        "object store that fsspec knows",
    )
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="of folders take these names, such as '*.bmp'"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for Parquet files, shared by all machines"
    )
    parser.add_argument(
        "--address",
        default=LOCAL,
        metavar="WHERE",
        help=f"{LOCAL} (default) starts Ray here, {AUTO} takes the cluster that runs here, HOST:PORT another",
    )
    add_classifier_arguments(parser)
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="that infer; default: one for two CPUs, or all the GPUs hold"
    )
    parser.add_argument("--gpus", type=share_of_gpus, default=0.0, metavar="SHARE", help="of each worker; default 0")
    parser.add_argument(
        "--block-size", type=positive_int, metavar="N", help=f"files in a Parquet file; default {DEFAULT_BLOCK_SIZE}"
    )
    parser.add_argument(
        "--timeout",
        type=positive_float,
        default=STORE_TIMEOUT_S,
        metavar="S",
        help="seconds for a file of an object store, which is tried three times; ten times as long "
        f"to list a folder; default {STORE_TIMEOUT_S:g}",
    )
    return parser


def check_places(options: argparse.Namespace) -> None:
    """Raise UsageError where the output cannot be a folder of this kind, or an input holds another one.

    Its files would have two rows: an archive has too many to remember which have been.
    """
    if is_url(str(options.out)) or ":/" in str(options.out):
        raise UsageError(f"expected a folder that all machines share for --out, received the address {options.out}")
    places = sorted((Path(name if is_url(name) else os.path.realpath(name)).parts, name) for name in options.inputs)
    for (place, name), (following, other) in pairwise(places):
        if following[: len(place)] == place:
            raise UsageError(f"expected inputs that hold different files, received {other} in {name}; name one of them")


def share_of_gpus(text: str) -> float:
    """Parse 0, a share of a GPU, or a whole number of them."""
    return parsed_number(
        text,
        float,
        lambda number: 0 <= number <= 1 or (number > 1 and number.is_integer()),
        "0, a share from 0 to 1 or a whole number",
    )
