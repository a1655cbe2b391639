"""python -m benchmarks.decoding: what reading a plain BMP by its rows saves, beside Pillow's ordinary way.

All candidates take the same files, already in memory, one after the other in each round. What counts is the ratio of
their shortest times: whatever else runs on the machine only adds to a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.cells import given_or_drawn
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.turns import timed_in_turns
from runtime.command_line import DONE, ArgumentParser, positive_int, print_table, run_command
from runtime.errors import DataError
from runtime.formats.bmp import read_plain_bmp
from runtime.preprocessing import decode_cell, read_bytes
from runtime.schema import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODE, DECODE_RESIZE = "decode", "decode and resize"
PILLOW, BY_ROWS, BY_ROWS_THREADED = "Pillow", "by rows", "by rows, 2 threads"
MOST_FILES = 16  # some 10 MB, so that a round is short enough to fall between other work


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.decoding",
        description="Decoding and resizing of plain 24-bit BMP files, beside Pillow's ordinary way.",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="BMP files; default: drawn cells of 450x450 pixels")
    parser.add_argument("--image-size", type=positive_int, default=128, metavar="PIXELS", help="default 128")
    parser.add_argument("--rounds", type=positive_int, default=100, help="default 100")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where decoding.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    with given_or_drawn(options.data, MOST_FILES) as paths:
        files = [plain_file(path) for path in paths]
    spec = ImageSpec(options.image_size, options.image_size)
    check_pixels(files, spec)
    seconds = measure(files, spec, options.rounds)
    rows = [row_of(step, name, own, len(files)) for step, own in seconds.items() for name in own]
    print_table(rows)
    print(f"{len(files)} files a round, {options.rounds} rounds in turns, to {spec.width}x{spec.height} pixels")
    print("times_as_fast: Pillow's shortest time as a multiple of the candidate's")
    write_record(options.out, "decoding", None, {"rows": rows, "seconds": seconds})
    return DONE


def plain_file(path: str) -> bytes:
    """Read a file; raise DataError where it is not one that is read by its rows."""
    data = read_bytes(path)
    if read_plain_bmp(data) is None:
        raise DataError(f"expected plain 24-bit BMP files in --data, found {path}; take it out")
    return data


def decode_by_pillow(data: bytes) -> Image.Image:
    """Decode as one would without this toolkit."""
    image = Image.open(io.BytesIO(data), formats=("BMP",))
    image.load()
    return image


def decode_and_resize_by_pillow(data: bytes, spec: ImageSpec) -> NDArray[np.uint8]:
    """Decode and resize a square picture as one would without this toolkit."""
    return np.asarray(decode_by_pillow(data).resize((spec.width, spec.height), Image.Resampling.BILINEAR))


def decode_by_rows(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels as a view of the file's bytes."""
    plain = read_plain_bmp(data)
    if plain is None:
        raise TypeError("expected a plain file, as plain_file reads it")
    return plain.pixels


def check_pixels(files: list[bytes], spec: ImageSpec) -> None:
    """Raise DataError where the ways that are compared give other pixels, as for a picture that is not square."""
    for data in files:
        same = np.array_equal(decode_by_rows(data), np.asarray(decode_by_pillow(data)))
        if not same or not np.array_equal(decode_cell(data, spec), decode_and_resize_by_pillow(data, spec)):
            raise DataError("expected square pictures that both ways read alike, found another; take it out of --data")


def measure(files: list[bytes], spec: ImageSpec, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds a round by step and candidate."""

    def each(work: Callable[[bytes], object], data: Sequence[bytes] = files) -> Callable[[], None]:
        def run() -> None:
            for item in data:
                work(item)  # and let the result go: memory that is used again is not mapped anew

        return run

    to_cell, to_cell_by_pillow = (partial(work, spec=spec) for work in (decode_cell, decode_and_resize_by_pillow))
    halves = [each(to_cell, files[::2]), each(to_cell, files[1::2])]
    with ThreadPoolExecutor(len(halves)) as pool:
        return {
            DECODE: timed_in_turns({PILLOW: each(decode_by_pillow), BY_ROWS: each(decode_by_rows)}, rounds),
            DECODE_RESIZE: timed_in_turns(
                {
                    PILLOW: each(to_cell_by_pillow),
                    BY_ROWS: each(to_cell),
                    BY_ROWS_THREADED: lambda: list(pool.map(lambda half: half(), halves)),
                },
                rounds,
            ),
        }


def row_of(step: str, name: str, seconds: dict[str, list[float]], files: int) -> Row:
    """Sum up a candidate by its shortest time."""
    return {
        "step": step,
        "candidate": name,
        "ms_a_cell": round(1000 * min(seconds[name]) / files, 4),
        "times_as_fast": round(min(seconds[PILLOW]) / min(seconds[name]), 2),
    }


if __name__ == "__main__":
    run_command(main)
