"""That a TIFF file with a damaged tag gives an error or its own pixels, never another picture."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UnreadableCellError
from runtime.formats.tiff import can_show_damage, pixel_damage
from runtime.preprocessing import decode_picture
from tests.runtime.odd_images import CELL, encoded, strips_of

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
    "fill order": 266,
    "offsets": 273,
    "samples": 277,
    "strip rows": 278,
    "bytes": 279,
    "planes": 284,
    "tile width": 322,
    "tile height": 323,
    "tile offsets": 324,
    "tile bytes": 325,
    "sample format": 339,
}
RGB, SEPARATE = 2, 2
COMPRESSIONS = {"tiff_lzw": 5, "tiff_adobe_deflate": 8, "tiff_deflate": 32946, "packbits": 32773}
LAYOUTS = [("<", False), (">", False), ("<", True)]  # Pillow reads no BigTIFF whose highest byte comes first


@dataclass
class Tiff:
    """Pieces of pixels, strips or tiles, and tags; damage goes into the tags."""

    pieces: list[bytes]
    tags: dict[str, list[int]] = field(default_factory=dict)

    def content(self, order: str = "<", *, is_big: bool = False) -> bytes:
        """Lay out header, tags and pieces, with values of 32 bits."""
        word = order + ("Q" if is_big else "I")  # of 64 bits in a BigTIFF
        size = struct.calcsize(word)
        head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if is_big else 42)
        head += struct.pack(f"{order}HHQ", 8, 0, 16) if is_big else struct.pack(f"{order}I", 8)
        head += struct.pack(word if is_big else f"{order}H", len(self.tags))
        behind_tags = len(head) + len(self.tags) * (4 + 2 * size) + size
        values = b""
        for name, tag_values in sorted(self.tags.items(), key=lambda item: NAME_TO_TAG[item[0]]):
            packed = struct.pack(f"{order}{len(tag_values)}I", *tag_values)
            head += struct.pack(f"{order}HH", NAME_TO_TAG[name], 4) + struct.pack(word, len(tag_values))
            if len(packed) <= size:
                head += packed.ljust(size, b"\0")
            else:
                head += struct.pack(word, behind_tags + len(values))
                values += packed
        return (head + bytes(size) + values).ljust(self.start, b"\0") + b"".join(self.pieces)

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


@functools.cache
def compressed(kind: str, name: str) -> Tiff:
    """Compress each piece of a sound file, as libtiff does it; for all tests, which change the tags of copies."""
    tiff = SOUND[kind]()
    row_bytes = tiff.tags.get("tile width", [WIDTH])[0] * (1 if "planes" in tiff.tags else 3)
    pieces = []
    for piece in tiff.pieces:
        picture = Image.frombytes("L", (row_bytes, len(piece) // row_bytes), piece)
        data = encoded(picture, "TIFF", compression=name, strip_size=2**30)
        ((start, count),) = strips_of(data)
        pieces.append(data[start : start + count])
    packed = replace(tiff, pieces=pieces, tags=tiff.tags | {"compression": [COMPRESSIONS[name]]})
    is_tiled = "tile width" in tiff.tags
    return packed.place("tile offsets", "tile bytes") if is_tiled else packed.place("offsets", "bytes")


def with_tags(tiff: Tiff, changed: dict[str, list[int]]) -> Tiff:
    """Return a copy with other tags; one without values is left out."""
    return replace(tiff, tags={name: values for name, values in (tiff.tags | changed).items() if values})


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


def damage_of(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        tags: Any = getattr(image, "tag_v2", {})
        assert can_show_damage(tags)
        return pixel_damage(data, tags)


COMPRESSIBLE = sorted(SOUND.keys() - {"no bytes stated", "two bytes more"})


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    return np.array(decode_picture(content).crop((0, 0, WIDTH, HEIGHT)))


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND.keys())
def test_a_sound_file_gives_its_pixels(make: Callable[[], Tiff]) -> None:
    assert decode_picture(make().content()).size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(pixels_of(make().content()), PIXELS)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", COMPRESSIBLE)
def test_a_sound_compressed_file_gives_its_pixels(kind: str, compression: str) -> None:
    tiff = compressed(kind, compression)
    for order, is_big in LAYOUTS:
        content = tiff.content(order, is_big=is_big)
        assert decode_picture(content).size == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(pixels_of(content), PIXELS)


def in_planes_of_16_bits() -> Tiff:
    pieces = [PIXELS[..., band].astype("<u2").tobytes() for band in range(3)]
    return Tiff(pieces, tags_of(planes=SEPARATE) | {"bits": [16] * 3}).place("offsets", "bytes")


def with_a_sign() -> Tiff:
    tags = tags_of(samples=1, color=1, sample_format=2) | {"bits": [8]}
    return Tiff([PIXELS[..., 0].tobytes()], tags).place("offsets", "bytes")


ODD_SAMPLES = {
    "samples of 16 bits": in_planes_of_16_bits(),
    "samples with a sign": with_a_sign(),
    "planes whose lowest bits come first": with_tags(in_planes(HEIGHT), {"fill order": [2]}),
}


@pytest.mark.parametrize(("found", "tiff"), ODD_SAMPLES.items(), ids=ODD_SAMPLES)
def test_samples_that_pillow_takes_for_others_are_refused(found: str, tiff: Tiff) -> None:
    with pytest.raises(UnreadableCellError, match=f"^expected 8 bits per channel, without a sign, found {found}$"):
        decode_picture(tiff.content())


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F")
LOWEST_BIT_FIRST, PREDICTOR = {266: 2}, {317: 2}


def written_by_pillow(mode: str, compression: str) -> Iterator[bytes]:
    picture = CELL.convert("L").convert(mode) if mode in {"LA", "PA"} or mode[0] in "IF" else CELL.convert(mode)
    yield encoded(picture, "TIFF", compression=compression)
    yield encoded(picture, "TIFF", compression=compression, strip_size=1000)
    if mode in {"1", "L", "P", "RGB"}:  # the others Pillow would not read
        yield encoded(picture, "TIFF", compression=compression, tiffinfo=LOWEST_BIT_FIRST)
    if mode not in {"1", "F"}:
        yield encoded(picture, "TIFF", compression=compression, tiffinfo=PREDICTOR)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", MODES)
def test_no_file_that_pillow_writes_is_taken_for_a_damaged_one(mode: str, compression: str) -> None:
    for data in written_by_pillow(mode, compression):
        assert damage_of(data) == ""


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
    for sound in (SOUND[kind](), *(compressed(kind, compression) for compression in COMPRESSIONS)):
        tiff = with_tags(sound, {name: [(sound.tags[name][0] + change) % 2**32]})
        try:
            picture = decode_picture(tiff.content())
        except UnreadableCellError:
            continue
        assert picture.size == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(pixels_of(tiff.content()), PIXELS)


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


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_strip_that_does_not_unpack_is_named(compression: str) -> None:
    tiff = compressed("strips", compression)
    cut = [count - 5 * (index == 2) for index, count in enumerate(tiff.tags["bytes"])]
    with pytest.raises(UnreadableCellError, match=r"^damaged image: piece 3 of 7 does not unpack to the pixels of its"):
        decode_picture(with_tags(tiff, {"bytes": cut}).content())


@pytest.mark.parametrize("kind", ["strips", "tiles"])
def test_compressed_pieces_lie_side_by_side(kind: str) -> None:
    tiff = compressed(kind, "tiff_lzw")
    places, counts = ("tile offsets", "tile bytes") if kind == "tiles" else ("offsets", "bytes")
    for damage in (
        {counts: tiff.tags[counts][:-1]},
        {places: tiff.tags[places][1:]},
        {counts: [10**6] * len(tiff.pieces)},
    ):
        with pytest.raises(UnreadableCellError, match="do not make up 60x50 pixels"):
            decode_picture(with_tags(tiff, damage).content())


def test_a_tile_of_gigabytes_is_not_unpacked() -> None:
    tiff = compressed("one tile", "tiff_adobe_deflate")
    with pytest.raises(UnreadableCellError, match="do not make up 60x50 pixels"):
        decode_picture(with_tags(tiff, {"tile width": [2**15], "tile height": [2**15]}).content())


@pytest.mark.parametrize("damage", [{"tile width": [64]}, {"bytes": []}], ids=["both", "none"])
def test_compressed_pixels_lie_in_strips_or_in_tiles(damage: dict[str, list[int]]) -> None:
    with pytest.raises(UnreadableCellError, match="do not state how many compressed bytes"):
        decode_picture(with_tags(compressed("strips", "tiff_lzw"), damage).content())


def test_a_compression_that_hides_damage_is_refused_with_what_to_save() -> None:
    with pytest.raises(UnreadableCellError) as refused:
        decode_picture(encoded(CELL, "TIFF", compression="jpeg"))
    assert str(refused.value) == (
        "expected a TIFF file without compression or with LZW, Deflate or PackBits, found jpeg; "
        "save the picture as such a file, or as BMP, PNG or JPEG"
    )
