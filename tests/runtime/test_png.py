"""That missing rows of a PNG file show, and that no sound file is taken for one that lacks some."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import pytest

from runtime.errors import UnreadableCellError
from runtime.formats.png import FILLING
from runtime.preprocessing import decode_picture

KINDS = {  # bits and color type
    "1 bit": (1, 0),
    "2-bit grey": (2, 0),
    "4-bit grey": (4, 0),
    "grey": (8, 0),
    "RGB": (8, 2),
    "1-bit palette": (1, 3),
    "2-bit palette": (2, 3),
    "4-bit palette": (4, 3),
    "palette": (8, 3),
    "grey with alpha": (8, 4),
    "RGBA": (8, 6),
}
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
SIZES = [(1, 1), (5, 1), (1, 7), (4, 4), (9, 8), (13, 11)]


def row_lengths(width: int, height: int, pixel_bits: int, *, is_interlaced: bool) -> Iterator[int]:
    """Yield the bytes of each row in the order in which they are stored, pixel by pixel as the standard draws them."""
    passes = ["1.......", "....1...", "1...1...", "..1...1.", "1.1.1.1.", ".1.1.1.1", "11111111"]
    rows = ["1.......", "1.......", "....1...", "1...1...", "..1...1.", "1.1.1.1.", ".1.1.1.1"]
    for columns, lines in zip(passes, rows, strict=True) if is_interlaced else [("1" * 8, "1" * 8)]:
        pixels = sum(columns[x % 8] == "1" for x in range(width))
        for y in range(height):
            if pixels and lines[y % 8] == "1":
                yield 1 + (pixels * pixel_bits + 7) // 8


def png(
    width: int,
    height: int,
    kind: tuple[int, int],
    value: int,
    *,
    is_interlaced: bool,
    missing: int = 0,
    pieces: int = 1,
) -> bytes:
    """Return a PNG file with sound checksums whose pixels are bytes of one value, the last ones missing."""
    bits, color_type = kind
    lengths = row_lengths(width, height, bits * SAMPLES[color_type], is_interlaced=is_interlaced)
    rows = b"".join(b"\0" + bytes([value]) * (length - 1) for length in lengths)
    stream = zlib.compress(rows[: len(rows) - missing])
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, is_interlaced)
    chunks = [(b"IHDR", header), (b"PLTE", bytes(range(256)) * 3)] if color_type == 3 else [(b"IHDR", header)]
    step = -(-len(stream) // pieces)
    chunks += [(b"IDAT", stream[start : start + step]) for start in range(0, len(stream), step)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )


@pytest.mark.parametrize("is_interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_sound_file_is_sound_even_of_the_color_that_stands_for_missing_rows(
    kind: tuple[int, int], is_interlaced: bool
) -> None:
    for width, height in SIZES:
        for value in (0, FILLING, 255):
            for pieces in (1, 3):
                data = png(width, height, kind, value, is_interlaced=is_interlaced, pieces=pieces)
                assert decode_picture(data).size == (width, height)


@pytest.mark.parametrize("is_interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_file_that_lacks_its_last_row_is_refused(kind: tuple[int, int], is_interlaced: bool) -> None:
    for width, height in ((4, 4), (9, 8), (13, 11)):
        *_, missing = row_lengths(width, height, kind[0] * SAMPLES[kind[1]], is_interlaced=is_interlaced)
        for value in (0, FILLING, 255):
            data = png(width, height, kind, value, is_interlaced=is_interlaced, missing=missing)
            with pytest.raises(UnreadableCellError, match=r"it holds \d+ bytes of pixels where its header states"):
                decode_picture(data)


def test_a_file_without_most_of_its_rows_is_refused() -> None:
    data = png(450, 450, KINDS["RGB"], 200, is_interlaced=False, missing=300 * 1351)
    with pytest.raises(UnreadableCellError, match="it holds 202650 bytes of pixels where its header states 607950"):
        decode_picture(data)
