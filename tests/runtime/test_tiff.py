"""That an uncompressed TIFF file with a damaged tag gives an error or its own pixels, never another picture."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runtime.errors import UnreadableCellError
from runtime.preprocessing import decode_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT, WIDTH = 50, 60
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
NAME_TO_TAG = {
    "width": 256,
    "height": 257,
    "bits": 258,
    "compression": 259,
    "color": 262,
    "offsets": 273,
    "samples": 277,
    "strip rows": 278,
    "bytes": 279,
    "planes": 284,
    "tile width": 322,
    "tile height": 323,
    "tile offsets": 324,
    "tile bytes": 325,
}
RGB, SEPARATE = 2, 2


@dataclass
class Tiff:
    """Pieces of pixels, strips or tiles, and tags; damage goes into the tags."""

    pieces: list[bytes]
    tags: dict[str, list[int]] = field(default_factory=dict)

    def content(self) -> bytes:
        """Lay out header, pieces and tags, with values of 32 bits."""
        count = len(self.tags)
        behind_tags = 8 + 2 + 12 * count + 4
        values, entries = b"", b""
        for name, tag_values in sorted(self.tags.items(), key=lambda item: NAME_TO_TAG[item[0]]):
            packed = struct.pack(f"<{len(tag_values)}I", *tag_values)
            place = packed if len(packed) == 4 else struct.pack("<I", behind_tags + len(values))
            values += b"" if len(packed) == 4 else packed
            entries += struct.pack("<HHI", NAME_TO_TAG[name], 4, len(tag_values)) + place
        head = b"II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", 0) + values
        return head.ljust(self.start, b"\0") + b"".join(self.pieces)

    start = 4096  # of the pixels

    def place(self, offsets: str, sizes: str) -> Tiff:
        """Say in the tags where the pieces lie and how many bytes they have."""
        lengths = [len(piece) for piece in self.pieces]
        self.tags[offsets] = [self.start + sum(lengths[:index]) for index in range(len(lengths))]
        self.tags[sizes] = lengths
        return self


def tags_of(**more: int) -> dict[str, list[int]]:
    usual = {"width": [WIDTH], "height": [HEIGHT], "bits": [8, 8, 8], "compression": [1], "color": [RGB]}
    return usual | {"samples": [3]} | {name.replace("_", " "): [value] for name, value in more.items()}


def in_strips(rows: int, *, padded: bool = False) -> Tiff:
    pieces = [PIXELS[top : top + rows].tobytes() for top in range(0, HEIGHT, rows)]
    if padded:
        pieces[-1] = pieces[-1].ljust(len(pieces[0]), b"\0")
    return Tiff(pieces, tags_of(strip_rows=rows)).place("offsets", "bytes")


def in_planes(rows: int) -> Tiff:
    pieces = [PIXELS[top : top + rows, :, band].tobytes() for band in range(3) for top in range(0, HEIGHT, rows)]
    return Tiff(pieces, tags_of(strip_rows=rows, planes=SEPARATE)).place("offsets", "bytes")


def in_tiles(width: int, height: int) -> Tiff:
    larger = np.pad(PIXELS, ((0, height), (0, width), (0, 0)))
    pieces = [
        larger[top : top + height, left : left + width].tobytes()
        for top in range(0, HEIGHT, height)
        for left in range(0, WIDTH, width)
    ]
    return Tiff(pieces, tags_of(tile_width=width, tile_height=height)).place("tile offsets", "tile bytes")


def with_endless_strip() -> Tiff:
    tiff = in_strips(HEIGHT)
    tiff.tags["strip rows"] = [2**32 - 1]
    return tiff


def without(name: str) -> Tiff:
    tiff = in_strips(HEIGHT)
    del tiff.tags[name]
    return tiff


def with_bytes_behind() -> Tiff:
    return Tiff([PIXELS.tobytes() + b"\0\0"], tags_of(strip_rows=HEIGHT)).place("offsets", "bytes")


SOUND: dict[str, Callable[[], Tiff]] = {
    "one strip": lambda: in_strips(HEIGHT),
    "strips": lambda: in_strips(8),
    "strips of a row": lambda: in_strips(1),
    "a last strip that is filled up": lambda: in_strips(8, padded=True),
    "a strip of any number of rows": with_endless_strip,
    "no rows stated": lambda: without("strip rows"),
    "no bytes stated": lambda: without("bytes"),
    "two bytes more": with_bytes_behind,
    "planes": lambda: in_planes(HEIGHT),
    "planes in strips": lambda: in_planes(16),
    "tiles": lambda: in_tiles(16, 32),
    "one tile": lambda: in_tiles(64, 64),
}


def pixels_of(tiff: Tiff) -> NDArray[np.uint8]:
    return np.array(decode_picture(tiff.content()).crop((0, 0, WIDTH, HEIGHT)))


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND.keys())
def test_a_sound_file_gives_its_pixels(make: Callable[[], Tiff]) -> None:
    assert decode_picture(make().content()).size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(pixels_of(make()), PIXELS)


SIZES = ("width", "height", "strip rows", "samples")
# Width and height may shrink and grow inside the last tile, and the picture with them: nothing contradicts that.
TILE_SIZES = ("samples", "tile width", "tile height")
DAMAGED = [
    *((kind, name) for kind in ("one strip", "strips", "strips of a row", "planes in strips") for name in SIZES),
    *((kind, name) for kind in ("tiles", "one tile") for name in TILE_SIZES),
]


@pytest.mark.parametrize("change", [-32, -16, -7, -1, 1, 7, 16, 32])
@pytest.mark.parametrize(("kind", "name"), DAMAGED)
def test_a_damaged_size_gives_no_other_picture(kind: str, name: str, change: int) -> None:
    tiff = SOUND[kind]()
    tiff.tags[name] = [(tiff.tags[name][0] + change) % 2**32]
    try:
        picture = decode_picture(tiff.content())
    except UnreadableCellError:
        return
    assert picture.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(pixels_of(tiff), PIXELS)


def test_the_reason_names_both_sizes() -> None:
    tiff = in_strips(8)
    tiff.tags["width"] = [WIDTH - 1]
    with pytest.raises(
        UnreadableCellError,
        match=r"^damaged image: its tags state 9000 bytes of pixels in 7 pieces, which do not make up 59x50 pixels$",
    ):
        decode_picture(tiff.content())


@pytest.mark.parametrize("bytes_of_strip", [0, 1, WIDTH * 3 * 8 - 1, WIDTH * 3 * 8 + 9, 2**31])
def test_damaged_bytes_of_a_strip_are_noticed(bytes_of_strip: int) -> None:
    tiff = in_strips(8)
    tiff.tags["bytes"][2] = bytes_of_strip
    with pytest.raises(UnreadableCellError, match="do not make up 60x50 pixels"):
        decode_picture(tiff.content())
