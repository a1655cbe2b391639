"""That compressed strips unpack to as many bytes as they hold, and that damage does not."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from runtime.formats.tiff_compression import DAMAGED, DEFLATE, LZW, PACKBITS, unpacked_length
from tests.runtime.odd_images import CELL, encoded, strips_of

NAMES = {LZW: "tiff_lzw", DEFLATE: "tiff_adobe_deflate", PACKBITS: "packbits"}
NOISE = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
PICTURES = {
    "cell": CELL,
    "noise": Image.fromarray(NOISE),
    "black": Image.new("RGB", (450, 450)),
    "one pixel": Image.new("RGB", (1, 1), (1, 2, 3)),
    "four levels": Image.fromarray(NOISE // 64),
}
CLEAR, END = 256, 257


def strip_of(picture: Image.Image, compression: int) -> bytes:
    """Return the picture as one strip, as libtiff writes it."""
    data = encoded(picture, "TIFF", compression=NAMES[compression], strip_size=2**30)
    ((start, count),) = strips_of(data)
    return data[start : start + count]


def length_of(strip: bytes, compression: int, picture: Image.Image) -> int:
    row_bytes = picture.width * 3
    return unpacked_length(strip, compression, row_bytes, row_bytes * picture.height)


def lzw_of(*codes: int) -> bytes:
    """Pack codes of 9 bits."""
    bits = "".join(f"{code:09b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize("compression", NAMES)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_a_sound_strip_unpacks_to_its_pixels(picture: Image.Image, compression: int) -> None:
    assert length_of(strip_of(picture, compression), compression, picture) == len(picture.tobytes())


@pytest.mark.parametrize("compression", NAMES)
@pytest.mark.parametrize("filler", [b"\0", b"\xff", NOISE.tobytes()], ids=["zeros", "ones", "noise"])
def test_an_overwritten_strip_does_not(compression: int, filler: bytes) -> None:
    strip = strip_of(CELL, compression)
    filling = filler * len(strip)
    for start in np.linspace(0, len(strip) * 0.9, 40).astype(int):
        for count in (len(strip) // 3, len(strip) - start):
            damaged = (strip[:start] + filling[:count] + strip[start + count :])[: len(strip)]
            assert length_of(damaged, compression, CELL) != len(CELL.tobytes()), f"{count} bytes at {start}"


@pytest.mark.parametrize("compression", NAMES)
def test_a_cut_strip_does_not(compression: int) -> None:
    strip = strip_of(CELL, compression)
    for end in [*range(0, len(strip) - 3, 97), len(strip) - 3]:
        assert length_of(strip[:end], compression, CELL) != len(CELL.tobytes()), f"{end} of {len(strip)} bytes"


def test_any_changed_byte_of_deflate_shows() -> None:
    strip = strip_of(CELL, DEFLATE)
    for place in range(2, len(strip), 13):
        changed = strip[:place] + bytes([strip[place] ^ 1]) + strip[place + 1 :]
        assert length_of(changed, DEFLATE, CELL) == DAMAGED, f"byte {place}"


def test_deflate_stops_behind_the_bytes_that_are_wanted() -> None:
    assert unpacked_length(zlib.compress(bytes(2**24)), DEFLATE, 1000, 1000) == DAMAGED


def test_no_run_of_packbits_goes_on_in_the_next_row() -> None:
    four, six = bytes([3]) + b"abcd", bytes([256 - 5]) + b"x"
    assert unpacked_length(four + six, PACKBITS, 10, 20) == 10
    assert unpacked_length(six + four + bytes([128]) + four + six, PACKBITS, 10, 20) == 20
    assert unpacked_length(six + six + four + four, PACKBITS, 10, 20) == DAMAGED
    assert unpacked_length(six + four[:-1], PACKBITS, 10, 20) == DAMAGED


def test_lzw_ends_with_its_code_or_its_bytes() -> None:
    assert unpacked_length(lzw_of(CLEAR, 1, 2, 258, 260, END), LZW, 8, 8) == 7  # 260 is the string that it completes
    assert unpacked_length(lzw_of(CLEAR, 1, 2, 258), LZW, 4, 4) == 4
    assert unpacked_length(lzw_of(CLEAR, 1, 2, END) + bytes(3), LZW, 2, 2) == 2
    assert unpacked_length(lzw_of(CLEAR, 1, 2, END) + bytes(4), LZW, 2, 2) == DAMAGED


@pytest.mark.parametrize("codes", [(CLEAR, 258), (CLEAR, 1, 259), (CLEAR, 1, 2, 300, END)])
def test_lzw_has_no_code_before_its_string(codes: tuple[int, ...]) -> None:
    assert unpacked_length(lzw_of(*codes), LZW, 100, 100) == DAMAGED


@pytest.mark.parametrize("codes", [(CLEAR,), (CLEAR, 0)], ids=["nothing", "a byte each"])
def test_tables_that_are_emptied_without_end_end_at_once(codes: tuple[int, ...]) -> None:
    flood = lzw_of(*(codes * 80)) * 1000
    assert unpacked_length(flood, LZW, 2**26, 2**26) == DAMAGED
