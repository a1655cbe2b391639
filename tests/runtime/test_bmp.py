"""That a plain BMP read by its rows is what Pillow decodes, and that everything else is left to Pillow."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from runtime import preprocessing
from runtime.errors import UnreadableCellError
from runtime.formats.bmp import PLAIN_HEADER_SIZES, read_plain_bmp
from runtime.preprocessing import MAX_SIDE, decode_cell
from runtime.schema import ImageSpec
from tests.runtime.bmp_files import HEADER_FIELDS, bmp_file, patched, random_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("BMP",)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("header_size", PLAIN_HEADER_SIZES)
@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 4), (5, 2), (64, 64), (449, 450), (450, 450)])
def test_a_plain_file_is_what_pillow_decodes(size: tuple[int, int], top_down: bool, header_size: int) -> None:
    pixels = random_pixels(*size)
    for states_size in (False, True):
        data = bmp_file(pixels, header_size, top_down=top_down, states_size=states_size)
        plain = read_plain_bmp(data)
        assert plain is not None
        np.testing.assert_array_equal(plain.pixels, pixels)
        np.testing.assert_array_equal(plain.pixels, by_pillow(data))


def test_the_pixels_are_the_files_own_bytes() -> None:
    data = bmp_file(random_pixels(450, 450))
    plain = read_plain_bmp(data)
    assert plain is not None
    assert np.shares_memory(plain.pixels, np.frombuffer(data, np.uint8))
    assert not plain.pixels.flags.writeable


@pytest.mark.parametrize("top_down", [False, True])
def test_the_box_and_the_crops_are_those_of_a_pillow_image(top_down: bool) -> None:
    pixels = random_pixels(31, 22)
    pixels[:4] = pixels[17:] = pixels[:, :7] = pixels[:, 30:] = 0
    plain = read_plain_bmp(bmp_file(pixels, top_down=top_down))
    image = Image.fromarray(pixels)
    assert plain is not None
    assert plain.getbbox() == image.getbbox() == (7, 4, 30, 17)
    for box in ((0, 0, 31, 22), (7, 4, 30, 17), (30, 21, 31, 22), (0, 21, 31, 22), (-5, -1, 31, 30)):
        np.testing.assert_array_equal(plain.crop(box), image.crop(box))


def test_a_black_picture_has_no_box_whatever_its_row_padding_holds() -> None:
    data = bytearray(bmp_file(np.zeros((4, 3, 3), np.uint8)))
    data[-1] = 255
    plain = read_plain_bmp(bytes(data))
    assert plain is not None
    assert plain.getbbox() is None


SOUND = bmp_file(random_pixels(33, 30))
NOT_PLAIN = {
    "nothing": b"",
    "header alone": SOUND[:54],
    "cut in the header": SOUND[:53],
    "a byte short": SOUND[:-1],
    "a byte more": SOUND + b"\0",
    "another magic": b"BA" + SOUND[2:],
    "file size": patched(SOUND, "file size", 0),
    "offset before the end of the header": patched(SOUND, "offset", 50),
    "a gap before the pixels": patched(SOUND, "offset", 58),
    "a header of another size": patched(SOUND, "header size", 108),
    "OS/2 header": bmp_file(random_pixels(33, 30), 64),
    "a header of no known size": bmp_file(random_pixels(33, 30), 44),
    "no width": patched(SOUND, "width", 0),
    "negative width": patched(SOUND, "width", -33),
    "no height": patched(SOUND, "height", 0),
    "another width of as many bytes": patched(SOUND, "width", 32),
    "another height": patched(SOUND, "height", 29),
    "least height": patched(SOUND, "height", -(2**31)),
    "planes": patched(SOUND, "planes", 3),
    "16 bits": patched(SOUND, "bits", 16),
    "32 bits": patched(SOUND, "bits", 32),
    "RLE8": patched(SOUND, "compression", 1),
    "bit fields": patched(SOUND, "compression", 3),
    "image size": patched(SOUND, "image size", 33 * 30 * 3),
    "a palette": patched(SOUND, "colors", 16),
    "PNG": b"\x89PNG\r\n\x1a\n" + SOUND,
}


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_whatever_is_odd_is_left_to_pillow(data: bytes) -> None:
    assert read_plain_bmp(data) is None


def outcome(data: bytes, spec: ImageSpec) -> NDArray[np.uint8] | str:
    try:
        return decode_cell(data, spec)
    except UnreadableCellError as error:
        return str(error)


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Change one to three fields of the header, or the length."""
    for _ in range(random.integers(1, 4)):
        field = str(random.choice([*HEADER_FIELDS, "length"]))
        if field == "length":
            data = (data + bytes(8))[: len(data) + int(random.integers(-8, 9))]
            continue
        place, kind = HEADER_FIELDS[field]
        stated = int.from_bytes(data[place : place + struct.calcsize(kind)], "little")
        near = stated + int(random.integers(-4, 5))
        negative, flipped = -stated, stated ^ (1 << int(random.integers(0, 32)))
        small = int(random.choice([0, 1, 2, 3, 4, 8, 16, 32, 40, 52, 56, 64, 108, 124]))
        value = int(random.choice([near, negative, flipped, small]))
        data = patched(data, field, value) if field != "magic" else data[:2] + patched(data, "file size", value)[2:]
    return data


def test_a_changed_header_gives_the_same_pixels_or_message_as_without_the_fast_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    spec = ImageSpec(16, 16)
    files = [
        bmp_file(random_pixels(width, height), header_size, top_down=top_down)
        for width, height in ((20, 20), (21, 21), (19, 30))
        for header_size in (*PLAIN_HEADER_SIZES, 44)
        for top_down in (False, True)
    ]
    files += [mutated(files[index % len(files)], random) for index in range(3000)]
    fast = [outcome(data, spec) for data in files]
    read_fast = sum(read_plain_bmp(data) is not None for data in files)
    monkeypatch.setattr(preprocessing, "read_plain_bmp", lambda data: None)
    slow = [outcome(data, spec) for data in files]
    for data, own, pillows in zip(files, fast, slow, strict=True):
        assert type(own) is type(pillows), data[:54].hex()
        assert np.array_equal(own, pillows), data[:54].hex()
    reasons = {reason.split(":")[0] for reason in slow if isinstance(reason, str)}
    assert read_fast > 100, "the comparison must reach the fast way"
    assert len(reasons) >= 3, "and refusals of several kinds"


def test_a_plain_file_that_is_too_large_is_refused_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bmp_file(np.ones((1, MAX_SIDE + 1, 3), np.uint8))
    assert read_plain_bmp(data) is not None
    refused = outcome(data, ImageSpec(16, 16))
    monkeypatch.setattr(preprocessing, "read_plain_bmp", lambda data: None)
    assert refused == outcome(data, ImageSpec(16, 16)) != ""
    assert f"at most {MAX_SIDE}x{MAX_SIDE} pixels, found {MAX_SIDE + 1}x1" in str(refused)
