from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UnreadableCellError
from runtime.preprocessing import MAX_FILE_BYTES, decode_cell, load_cell
from runtime.schema import ImageSpec

SPEC = ImageSpec(width=128, height=128)
SAME_SIZE = ImageSpec(width=60, height=60)


def random_image(width: int = 60, height: int = 60, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("image_format", ["BMP", "PNG", "TIFF"])
def test_a_lossless_file_of_the_right_size_keeps_every_pixel(image_format: str) -> None:
    image = random_image()
    cell = decode_cell(encoded(image, image_format), SAME_SIZE)
    assert cell.dtype == np.uint8
    np.testing.assert_array_equal(cell, np.asarray(image))


def test_resizing_is_pillows_antialiased_bilinear_filter() -> None:
    image = random_image(450, 450)
    expected = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode_cell(encoded(image, "BMP"), SPEC), expected)


def test_a_wide_image_is_padded_with_black_above_and_below() -> None:
    image = random_image(60, 20)
    cell = decode_cell(encoded(image, "PNG"), SAME_SIZE)
    np.testing.assert_array_equal(cell[20:40], np.asarray(image))
    assert not cell[:20].any()
    assert not cell[40:].any()


def test_a_tall_image_is_padded_with_black_left_and_right() -> None:
    image = random_image(20, 60)
    cell = decode_cell(encoded(image, "PNG"), SAME_SIZE)
    np.testing.assert_array_equal(cell[:, 20:40], np.asarray(image))
    assert not cell[:, :20].any()
    assert not cell[:, 40:].any()


def test_the_exif_orientation_is_applied() -> None:
    image = random_image()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    cell = decode_cell(encoded(image, "PNG", exif=exif), SAME_SIZE)
    np.testing.assert_array_equal(cell, np.asarray(image.transpose(Image.Transpose.ROTATE_270)))


def test_transparent_pixels_turn_black() -> None:
    image = random_image(mode="RGBA")
    alpha = np.asarray(image)[..., 3:] / 255
    cell = decode_cell(encoded(image, "PNG"), SAME_SIZE)
    expected = np.asarray(image)[..., :3] * alpha
    assert np.abs(cell - expected).max() <= 1  # Pillow rounds its fixed-point product


def test_a_transparent_color_of_an_rgb_file_turns_black() -> None:
    image = Image.new("RGB", (60, 60), (200, 100, 50))
    cell = decode_cell(encoded(image, "PNG", transparency=(200, 100, 50)), SAME_SIZE)
    assert not cell.any()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes_become_what_pillow_makes_of_them(mode: str) -> None:
    image = random_image().convert(mode)
    image_format = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(
        decode_cell(encoded(image, image_format), SAME_SIZE), np.asarray(image.convert("RGB"))
    )


def png_that_claims(width: int, height: int, bits: int = 8) -> bytes:
    """A PNG whose header names a size that its data does not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def two_frames() -> bytes:
    return encoded(random_image(), "TIFF", save_all=True, append_images=[random_image()])


BAD_CONTENT = {
    "empty": (b"", "the file is empty"),
    "text": (b"patient,label\n", "not an image that can be read (expected BMP, PNG, JPEG, TIFF)"),
    "unknown format": (encoded(random_image(), "GIF"), "not an image that can be read"),
    "bomb": (png_that_claims(60000, 60000), "expected one cell of at most 4096x4096 pixels: "),
    "large": (png_that_claims(12000, 12000), "expected one cell of at most 4096x4096 pixels"),
    "very wide": (png_that_claims(9000, 2000), "expected one cell of at most 4096x4096 pixels, found 9000x2000"),
    "a line": (encoded(Image.new("RGB", (100_000, 1)), "PNG"), "expected one cell of at most 4096x4096 pixels"),
    "16-bit colors": (
        png_that_claims(60, 60, bits=16),
        "expected 8 bits per channel, found pixels of type RGB with 16",
    ),
    "no pixels": (png_that_claims(60, 60), "damaged image"),
    "truncated BMP": (encoded(random_image(), "BMP")[:5000], "damaged image: image file is truncated"),
    "truncated PNG": (encoded(random_image(), "PNG")[:5000], "damaged image"),
    "truncated JPEG": (encoded(random_image(), "JPEG")[:1500], "damaged image: image file is truncated"),
    "header alone": (encoded(random_image(), "BMP")[:20], "damaged image"),
    "16 bits": (encoded(Image.new("I;16", (60, 60)), "PNG"), "expected 8 bits per channel, found pixels of type I;16"),
    "float": (encoded(Image.new("F", (60, 60)), "TIFF"), "expected 8 bits per channel, found pixels of type F"),
    "two frames": (two_frames(), "expected one image in the file, found several"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_CONTENT.values(), ids=BAD_CONTENT.keys())
def test_what_is_no_cell_is_refused_in_one_line(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "cell.bmp"
    path.write_bytes(content)
    with pytest.raises(UnreadableCellError) as refused:
        load_cell(path, SPEC)
    assert str(refused.value).startswith(reason)
    assert "\n" not in str(refused.value)


def outcome_of(data: bytes) -> str:
    try:
        cell = decode_cell(data, SPEC)
    except UnreadableCellError as error:
        return "more than one line" if "\n" in str(error) else "reason"
    return "cell" if cell.shape == (128, 128, 3) else "another shape"


def test_a_damaged_byte_anywhere_gives_a_cell_or_a_reason_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    outcomes = []
    for image_format in ("BMP", "PNG", "JPEG", "TIFF"):
        data = encoded(random_image(), image_format)
        for _ in range(60):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 400), 4):
                damaged[position] = rng.integers(256)
            outcomes.append(outcome_of(bytes(damaged)))
    assert {"cell", "reason"} == set(outcomes)


def test_a_missing_file_a_folder_and_a_null_character_are_refused(tmp_path: Path) -> None:
    bad: list[tuple[str | Path, str]] = [
        (tmp_path / "none.bmp", "cannot be opened: No such file"),
        (tmp_path, "expected an image file, found something that is not a regular file"),
        ("a\0b.bmp", "cannot be opened"),
    ]
    for path, reason in bad:
        with pytest.raises(UnreadableCellError, match=reason):
            load_cell(path, SPEC)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.bmp")
    with pytest.raises(UnreadableCellError, match="not a regular file"):
        load_cell(tmp_path / "pipe.bmp", SPEC)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.bmp").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no space
    with pytest.raises(UnreadableCellError, match="expected at most 64 MB, found 64 MB"):
        load_cell(tmp_path / "huge.bmp", SPEC)


def test_bmp_and_png_of_the_same_real_cell_give_the_same_pixels(real_cells: Path) -> None:
    for bmp in sorted((real_cells / "bmp").glob("*.bmp")):
        [png] = real_cells.glob(f"C-NMC_training_data/*/*/{bmp.stem}.png")
        np.testing.assert_array_equal(load_cell(bmp, SPEC), load_cell(png, SPEC))


def test_a_cell_file_of_the_package_is_read(cell_file: Callable[[str], Path]) -> None:
    cell = load_cell(cell_file("cell.bmp"), SPEC)
    assert cell.shape == (128, 128, 3)
    assert cell.max() > 50


def test_a_flipped_bit_in_a_png_never_passes_for_another_picture() -> None:
    """Pillow decodes most such files without a word: the checksums are looked at here."""
    data = encoded(random_image(), "PNG")
    sound = decode_cell(data, SAME_SIZE)
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 16, 97):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(UnreadableCellError):
            decode_cell(bytes(damaged), SAME_SIZE)
    np.testing.assert_array_equal(decode_cell(data, SAME_SIZE), sound)


def test_the_library_writes_nothing_of_damaged_tags_to_standard_error(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    content[4:8] = len(content).to_bytes(4, "little")  # the tags' place: behind the end
    (tmp_path / "a.tif").write_bytes(content)
    code = "from runtime.preprocessing import read_bytes, decode_picture\ndecode_picture(read_bytes({!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code.format(str(tmp_path / "a.tif"))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "UnreadableCellError" in done.stderr.splitlines()[-1]
    assert "Warning" not in done.stderr
