"""Damaged and odd image files, each with what must come of it: the pixels of an answer, or an error."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.runtime.bmp_files import HEADER_FIELDS, any_bmp, bmp_file, patched, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 60
ORIENTATION = 0x0112  # EXIF tag
# For each EXIF orientation, what turns an upright picture into the one that is stored
STORED_BY_ORIENTATION = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
BI_RLE8, BI_RLE4, BI_BITFIELDS, BI_JPEG, BI_PNG = 1, 2, 3, 4, 5
MASKS_8888 = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


@dataclass(frozen=True)
class OddImage:
    """A path, and the pixels uint8 RGB [SIDE, SIDE, 3] on which an answer must rest; None: it must be an error."""

    path: Path
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True)
class _File:
    name: str
    content: bytes
    pixels: NDArray[np.uint8] | None = None


def make_odd_images(folder: Path) -> list[OddImage]:
    """Write the whole corpus into a folder."""
    families = (
        bmp_headers,
        bmp_kinds,
        png_files,
        jpeg_files,
        tiff_files,
        tiff_strips,
        orientations,
        frames,
        claims,
        other_content,
    )
    files = [file for family in families for file in family()]
    made = [_write(folder / f"{number:03} {file.name}", file) for number, file in enumerate(files)]
    return made + list(odd_names(folder)) + list(no_files(folder))


def _write(path: Path, file: _File) -> OddImage:
    path.write_bytes(file.content)
    return OddImage(path, file.pixels)


def cell_pixels() -> NDArray[np.uint8]:
    """Return a disc with a gradient and some noise on black, uint8 RGB [SIDE, SIDE, 3]; its turns all differ."""
    y, x = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).integers(0, 20, (SIDE, SIDE, 3))
    color = np.stack([90 + 2 * x, 60 + y, 200 - x], axis=-1) + noise
    in_disc = (x - 30) ** 2 + (y - 30) ** 2 < 24**2
    return np.where(in_disc[..., None], color, 0).astype(np.uint8)


PIXELS = cell_pixels()
CELL = Image.fromarray(PIXELS)
GREY = np.asarray(CELL.convert("L"))
GREY_PIXELS = np.repeat(GREY[..., None], 3, axis=2)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Return what Pillow makes of a sound file, as RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def cuts(name: str, data: bytes, places: list[int]) -> Iterator[_File]:
    """Yield the beginning of a file up to each place; all of them are errors."""
    for place in places:
        yield _File(f"{place} bytes of {name}", data[:place])


def bmp_headers() -> Iterator[_File]:
    """Files cut at every field of the header, and headers that say something else than is there."""
    places = [place for place, _ in HEADER_FIELDS.values()][1:]
    for header_size in (40, 108, 124):
        data = bmp_file(PIXELS, header_size)
        end = 14 + header_size
        yield from cuts(f"V{header_size}.bmp", data, [1, *places, end - 1, end, end + 1, 5000, len(data) - 1])
    sound = bmp_file(PIXELS)
    errors = {
        "offset": [14, 50, 53, 58, 5000, 2**32 - 1],
        "header size": [0, 4, 39, 41, 64000, 2**31],
        "width": [0, -60, 1, 30, 56, 64, 61, 120, 60000, 2**31 - 1],
        "height": [0, 1, 30, 59, 61, -59, -61, 120, 60000, -60000, 2**31 - 1, -(2**31)],
        "bits": [0, 1, 2, 4, 8, 15, 16, 25, 32, 48, 64],
        "compression": [BI_RLE8, BI_RLE4, BI_JPEG, BI_PNG, 6, 11, 2**32 - 1],
        "image size": [1, 30, 9000, 2**32 - 1],
    }
    for field, values in errors.items():
        for value in values:
            yield _File(f"{field} {value}.bmp", patched(sound, field, value))
    unstated = bmp_file(PIXELS, states_size=False)
    yield _File("no image size.bmp", unstated, PIXELS)
    yield _File("no image size, fewer rows.bmp", patched(unstated, "height", 40))
    yield _File("no image size, narrower.bmp", patched(unstated, "width", 40))
    harmless = {
        "offset": [0],  # not stated: the pixels follow the header
        "image size": [0, len(sound) - 54 + 2],
        "file size": [0, 54, len(sound) + 2, 2**32 - 1],
        "reserved 1": [7],
        "planes": [0, 3],
        "x resolution": [-1],
        "colors": [5],
        "important": [99],
    }
    for field, values in harmless.items():
        for value in values:
            yield _File(f"{field} {value} answered.bmp", patched(sound, field, value), PIXELS)
    behind = b"something else" * 99
    yield _File("bytes behind.bmp", sound + behind)
    yield _File("bytes behind, counted.bmp", patched(sound, "file size", len(sound + behind)) + behind, PIXELS)
    yield _File("bytes behind, file size not stated.bmp", patched(sound, "file size", 0) + behind, PIXELS)
    yield _File("bytes before.bmp", b"\0" + sound)
    padded = bmp_file(PIXELS[:, :-1])  # whose last bytes are no pixels: decoders do without them
    yield _File("padded, a byte lost.bmp", padded[:5000] + padded[5001:])
    yield _File("padded, a byte lost, file size not stated.bmp", patched(padded, "file size", 0)[:-1])
    yield _File("padded, a byte more.bmp", padded[:5000] + b"\0" + padded[5000:])
    yield _File("padded, offset 55.bmp", patched(padded, "offset", 55))


def bmp_kinds() -> Iterator[_File]:
    """Every depth, direction and compression."""
    for header_size in (40, 108, 124):
        for top_down in (False, True):
            yield _File(f"plain {header_size} {top_down}.bmp", bmp_file(PIXELS, header_size, top_down=top_down), PIXELS)
    yield from _bmp_of_32_bits()
    yield from _bmp_of_16_bits()
    yield from _bmp_with_palette()
    yield from _bmp_in_runs()
    core = struct.pack("<2sIHHIIHHHH", b"BM", 0, 0, 0, 26, 12, SIDE, SIDE, 1, 24)
    yield _File("OS2.bmp", core + rows_of(PIXELS[..., ::-1].reshape(SIDE, -1)), PIXELS)
    yield _File("OS2 cut.bmp", core + rows_of(PIXELS[..., ::-1].reshape(SIDE, -1))[:-1])


def _bmp_of_32_bits() -> Iterator[_File]:
    for alpha in (0, 255):
        four = np.dstack([PIXELS[..., ::-1], np.full((SIDE, SIDE), alpha, np.uint8)]).reshape(SIDE, -1)
        body = rows_of(four)
        yield _File(f"32 bits, fourth byte {alpha}.bmp", any_bmp(body, SIDE, SIDE, 32), PIXELS)
        yield _File(f"32 bits top-down {alpha}.bmp", any_bmp(rows_of(four, top_down=True), SIDE, -SIDE, 32), PIXELS)
        for header_size in (108, 124):
            data = any_bmp(body, SIDE, SIDE, 32, compression=BI_BITFIELDS, header_size=header_size, masks=MASKS_8888)
            yield _File(f"V{header_size} with alpha {alpha}.bmp", data, PIXELS)
        data = any_bmp(body, SIDE, SIDE, 32, compression=BI_BITFIELDS, masks=MASKS_8888[:12])
        yield _File(f"bit fields, fourth byte {alpha}.bmp", data, PIXELS)
        yield _File(f"bit fields cut {alpha}.bmp", data[:-1])
        yield _File(f"bit fields, offset inside the masks {alpha}.bmp", patched(data, "offset", 64))
    half = np.dstack([PIXELS[..., ::-1], np.full((SIDE, SIDE), 128, np.uint8)]).reshape(SIDE, -1)
    data = any_bmp(rows_of(half), SIDE, SIDE, 32, compression=BI_BITFIELDS, header_size=124, masks=MASKS_8888)
    yield _File("V5 half transparent.bmp", data, over_black(PIXELS, 128))
    odd_masks = struct.pack("<3I", 0xF, 0xF0, 0xF00)
    yield _File("odd masks.bmp", any_bmp(rows_of(half), SIDE, SIDE, 32, compression=BI_BITFIELDS, masks=odd_masks))


def _bmp_of_16_bits() -> Iterator[_File]:
    """Five bits per color are not eight."""
    red, green, blue = (PIXELS[..., channel].astype(np.uint16) >> 3 for channel in range(3))
    samples = (red << 10 | green << 5 | blue).astype("<u2").view(np.uint8)
    yield _File("16 bits.bmp", any_bmp(rows_of(samples), SIDE, SIDE, 16))
    for name, masks in {"555": (0x7C00, 0x3E0, 0x1F), "565": (0xF800, 0x7E0, 0x1F)}.items():
        data = any_bmp(rows_of(samples), SIDE, SIDE, 16, compression=BI_BITFIELDS, masks=struct.pack("<3I", *masks))
        yield _File(f"16 bits {name}.bmp", data)


def _bmp_with_palette() -> Iterator[_File]:
    for bits in (1, 4, 8):
        colors = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), dtype=np.uint8)
        palette = b"".join(bytes([blue, green, red, 0]) for red, green, blue in colors.tolist())
        indices = (GREY >> (8 - bits)).astype(np.uint8)
        samples = np.packbits(np.unpackbits(indices[..., None], axis=2)[..., 8 - bits :].reshape(SIDE, -1), axis=1)
        data = any_bmp(rows_of(samples), SIDE, SIDE, bits, palette=palette)
        top_down = any_bmp(rows_of(samples, top_down=True), SIDE, -SIDE, bits, palette=palette)
        yield _File(f"{bits} bits.bmp", data, colors[indices])
        yield _File(f"{bits} bits top-down.bmp", top_down, colors[indices])
        yield _File(f"{bits} bits cut.bmp", data[:-4])
        yield _File(f"{bits} bits, palette cut.bmp", data[: 54 + len(palette) // 2])
        yield _File(f"{bits} bits, endless palette.bmp", patched(data, "colors", 2**31))
        yield _File(f"{bits} bits, offset inside the palette.bmp", patched(data, "offset", 54 + len(palette) - 2))
        yield _File(f"{bits} bits, a longer header stated.bmp", patched(data, "header size", 56))
        used = int(indices.max()) + 1
        yield _File(f"{bits} bits, as many colors as are used.bmp", patched(data, "colors", used), colors[indices])
        for stated in {1, 2, used - 1} - {used}:
            yield _File(f"{bits} bits, {stated} colors.bmp", patched(data, "colors", stated))
        if bits > 1:
            body, two = rows_of(samples & np.uint8(0x11)), bytes([0, 0, 0, 0, 255, 255, 255, 0])
            yield _File(f"{bits} bits, black and white.bmp", any_bmp(body, SIDE, SIDE, bits, palette=two))


def _bmp_in_runs() -> Iterator[_File]:
    """RLE: pairs of a count and a value (RLE4: two values in turn), 0 0 behind a row, 0 1 behind the last."""
    for bits, compression in ((8, BI_RLE8), (4, BI_RLE4)):
        palette = b"".join(bytes([level, level, level, 0]) for level in np.linspace(0, 255, 2**bits).astype(int))
        levels = GREY >> (8 - bits)
        codes = levels if bits == 8 else levels * 17
        rows = [b"".join(bytes([1, code]) for code in row) + b"\0\0" for row in codes[::-1].tolist()]
        grey = np.linspace(0, 255, 2**bits).astype(np.uint8)[levels]
        data = any_bmp(b"".join(rows) + b"\0\1", SIDE, SIDE, bits, compression=compression, palette=palette)
        yield _File(f"RLE{bits}.bmp", data, np.repeat(grey[..., None], 3, axis=2))
        yield from cuts(f"RLE{bits}.bmp", data, [60, len(data) - 7000, len(data) - 3000, len(data) - 150])
        ended = any_bmp(b"".join(rows[:30]) + b"\0\1", SIDE, SIDE, bits, compression=compression, palette=palette)
        yield _File(f"RLE{bits} ends early.bmp", ended)
        yield _File(f"RLE{bits}, offset inside the palette.bmp", patched(data, "offset", 54 + len(palette) - 2))
        yield _File(f"RLE{bits} of 24 bits.bmp", patched(data, "bits", 24))


def png_files() -> Iterator[_File]:
    """Modes, cuts at every chunk, and every checksum wrong."""
    sound = encoded(CELL, "PNG")
    yield _File("sound.png", sound, PIXELS)
    chunks = list(_chunks(sound))
    for kind, start, end in chunks:
        yield from cuts(f"{kind}.png", sound, [start, start + 4])
        if kind != "IEND":  # which holds nothing that could be lost
            yield from cuts(f"{kind}.png", sound, [start + 8, end - 5, end - 1])
        yield _File(f"checksum of {kind}.png", _changed(sound, end - 2), PIXELS if kind == "IEND" else None)
    data_start = next(start for kind, start, _ in chunks if kind == "IDAT") + 8
    for place in range(data_start, len(sound) - 30, 700):
        yield _File(f"a changed byte at {place}.png", _changed(sound, place))
    yield _File("bytes behind.png", sound + b"junk" * 99, PIXELS)
    yield _File("grey.png", encoded(CELL.convert("L"), "PNG"), GREY_PIXELS)
    yield _File("16-bit grey.png", encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"))
    yield _File("16-bit RGB.png", png_of(SIDE, SIDE, 16, 2, np.repeat(PIXELS, 2, axis=2).tobytes(), 6 * SIDE))
    yield _File("16-bit RGBA.png", png_of(SIDE, SIDE, 16, 6, bytes(8 * SIDE * SIDE), 8 * SIDE))
    for alpha in (0, 1, 128, 254, 255):
        with_alpha = CELL.copy()
        with_alpha.putalpha(alpha)
        yield _File(f"alpha {alpha}.png", encoded(with_alpha, "PNG"), over_black(PIXELS, alpha))
        grey = CELL.convert("L")
        grey.putalpha(alpha)
        yield _File(f"grey, alpha {alpha}.png", encoded(grey, "PNG"), over_black(GREY_PIXELS, alpha))
    palette = CELL.quantize(64)
    colors = np.asarray(palette.convert("RGB"))
    yield _File("palette.png", encoded(palette, "PNG"), colors)
    short = palette.copy()
    short.putpalette((palette.getpalette() or [])[: 3 * int(np.asarray(palette).max())])
    yield _File("a color beyond the palette.png", encoded(short, "PNG"))
    yield _File("transparent palette.png", encoded(palette, "PNG", transparency=bytes(64)), np.zeros_like(PIXELS))
    yield from _png_with_a_transparent_grey()
    one_bit = CELL.convert("1")
    yield _File("1 bit.png", encoded(one_bit, "PNG"), np.asarray(one_bit.convert("RGB")))


def _png_with_a_transparent_grey() -> Iterator[_File]:
    for bits in (1, 2, 4):
        levels = (GREY >> (8 - bits)).astype(np.uint8)
        transparent = int(levels.max())
        samples = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(SIDE, -1), axis=1)
        data = png_of(SIDE, SIDE, bits, 0, samples.tobytes(), samples.shape[1])
        content = data[:33] + png_chunk(b"tRNS", struct.pack(">H", transparent)) + data[33:]
        shown = np.where(levels == transparent, 0, levels * np.uint8(255 // (2**bits - 1))).astype(np.uint8)
        yield _File(f"a transparent grey of {bits} bits.png", content, np.repeat(shown[..., None], 3, axis=2))


def png_of(width: int, height: int, bits: int, color_type: int, samples: bytes, row: int) -> bytes:
    """Return a PNG that claims that, whatever its samples are; `row` bytes of them are a row."""
    rows = b"".join(b"\0" + samples[start : start + row] for start in range(0, len(samples), row))
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(png: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield each chunk's kind, its first byte and the byte behind its checksum."""
    start = 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        yield png[start + 4 : start + 8].decode(), start, end
        start = end


def _changed(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 0x55
    return bytes(changed)


def over_black(pixels: NDArray[np.uint8], alpha: int) -> NDArray[np.uint8]:
    """Put pixels of one transparency over black."""
    return np.round(pixels * (alpha / 255)).astype(np.uint8)


def jpeg_files() -> Iterator[_File]:
    """Kinds, and files that are cut, cut and closed again, or overwritten in the middle."""
    kinds: dict[str, dict[str, Any]] = {
        "baseline": {},
        "full color": {"subsampling": 0, "quality": 95},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 2},
        "optimized": {"optimize": True},
    }
    for name, options in kinds.items():
        data = encoded(CELL, "JPEG", **options)
        yield _File(f"{name}.jpg", data, decoded(data))
        places = [2, 3, 20, *range(40, len(data) - 2, 90), len(data) - 20, len(data) - 2, len(data) - 1]
        yield from cuts(f"{name}.jpg", data, places)
        scan = data.index(b"\xff\xda") + 30
        for place in range(scan, len(data) - 40, 150):
            yield _File(f"{name} closed at {place}.jpg", data[:place] + b"\xff\xd9")
    yield from _overwritten_jpegs()
    data = encoded(CELL, "JPEG")
    yield _File("bytes behind.jpg", data + b"junk\xff\xda" * 99, decoded(data))
    yield _File("bytes before.jpg", b"\0\0" + data)
    for mode in ("L", "CMYK"):
        data = encoded(CELL.convert(mode), "JPEG", quality=100)
        yield _File(f"{mode}.jpg", data, decoded(data))
    data = encoded(CELL, "JPEG", optimize=True)
    for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xc4"):
        start = data.index(marker)
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        yield _File(f"without {marker.hex()}.jpg", data[:start] + data[start + 2 + length :])


def _overwritten_jpegs() -> Iterator[_File]:
    """A run of the scan replaced by bytes that cannot stand there; test_jpeg.py has what nearly always shows."""
    data = encoded(CELL, "JPEG", quality=95)
    scan = data.index(b"\xff\xda") + 40
    wrong = {"markers": b"\xff\xd3\xff\xc0" * 20, "ones": b"\xff" * 40 + b"\x01", "another": encoded(CELL, "JPEG")[:99]}
    for place in range(scan, len(data) - 300, 200):
        for name, content in wrong.items():
            yield _File(f"{name} at {place}.jpg", data[:place] + content + data[place + len(content) :])


def tiff_files() -> Iterator[_File]:
    """Compressions, depths and cuts."""
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = encoded(CELL, "TIFF", compression=compression)
        yield _File(f"{compression}.tif", data, PIXELS)
        yield _File(f"{compression}, bytes behind.tif", data + b"junk" * 99, PIXELS)
        yield from cuts(f"{compression}.tif", data, [4, 8, 30, 500, len(data) // 2, len(data) - 400])
    cmyk = CELL.convert("CMYK")
    yield _File("CMYK.tif", encoded(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB")))
    half = CELL.copy()
    half.putalpha(128)
    yield _File("half transparent.tif", encoded(half, "TIFF"), over_black(PIXELS, 128))
    kinds: dict[str, NDArray[Any]] = {
        "16-bit grey": GREY.astype(np.uint16) * 257,
        "32-bit grey": GREY.astype(np.int32),
        "float": GREY.astype(np.float32),
    }
    for name, samples in kinds.items():
        yield _File(f"{name}.tif", encoded(Image.fromarray(samples), "TIFF"))
    yield _File("Lab.tif", encoded(CELL.convert("LAB"), "TIFF"))


def tiff_strips() -> Iterator[_File]:
    """Compressed strips that are overwritten or not yet written, and compressions in which that would not show."""
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"):
        data = encoded(CELL, "TIFF", compression=compression, strip_size=4000)
        strips = strips_of(data)
        yield _File(f"{compression} in strips.tif", data, None if compression == "jpeg" else PIXELS)
        for number, (start, count) in enumerate(strips):
            third = count // 3
            for name, byte in {"zeros": b"\0", "ones": b"\xff"}.items():
                content = data[: start + third] + byte * third + data[start + 2 * third :]
                yield _File(f"{compression}, {name} in strip {number}.tif", content)
        first, end = strips[0][0], sum(strips[-1])
        written = first + (end - first) * 6 // 10
        yield _File(f"{compression}, half written.tif", data[:written] + bytes(end - written) + data[end:])
    yield _File("fax.tif", encoded(CELL.convert("1"), "TIFF", compression="group4"))


def strips_of(tiff: bytes) -> list[tuple[int, int]]:
    """Return the first byte of each strip, and how many it has."""
    with Image.open(io.BytesIO(tiff)) as image:
        tags: Any = getattr(image, "tag_v2", {})
        return list(zip(tags[273], tags[279], strict=True))


def orientations() -> Iterator[_File]:
    """The same upright picture, stored in each of the eight ways that EXIF knows."""
    for orientation, transpose in STORED_BY_ORIENTATION.items():
        stored = CELL if transpose is None else CELL.transpose(transpose)
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        yield _File(f"orientation {orientation}.png", encoded(stored, "PNG", exif=exif), PIXELS)
        yield _File(f"orientation {orientation}.tif", encoded(stored, "TIFF", exif=exif), PIXELS)
        data = encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0)
        upright = _upright(decoded(data), transpose)
        yield _File(f"orientation {orientation}.jpg", data, upright)
    exif = Image.Exif()
    exif[ORIENTATION] = 77
    yield _File("orientation 77.png", encoded(CELL, "PNG", exif=exif), PIXELS)


def _upright(pixels: NDArray[np.uint8], transpose: Image.Transpose | None) -> NDArray[np.uint8]:
    """Undo a transpose."""
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
    if transpose is None:
        return pixels
    opposite = turns[1 - turns.index(transpose)] if transpose in turns else transpose
    return np.asarray(Image.fromarray(pixels).transpose(opposite))


def frames() -> Iterator[_File]:
    """More than one picture in a file: which one would be the cell?"""
    others = [Image.fromarray(255 - PIXELS), CELL]
    for image_format, suffix in (("PNG", "png"), ("TIFF", "tif"), ("MPO", "jpg"), ("GIF", "gif")):
        data = encoded(CELL, image_format, save_all=True, append_images=others)
        yield _File(f"three pictures.{suffix}", data)
    covered = encoded(CELL, "PNG", save_all=True, default_image=True, append_images=others)
    yield _File("a cover and two pictures.png", covered)


def claims() -> Iterator[_File]:
    """Sizes that would fill the memory, and sizes of nothing."""
    for width, height in ((0, 60), (60, 0), (4097, 1), (1, 4097), (60000, 60000), (2**31 - 1, 2**31 - 1)):
        yield _File(f"{width}x{height}.png", png_of(width, height, 8, 2, b"", 1))
        stated = patched(patched(bmp_file(PIXELS), "width", width), "height", height)
        yield _File(f"{width}x{height}.bmp", stated)
        jpeg = bytearray(encoded(CELL, "JPEG"))
        frame = jpeg.index(b"\xff\xc0") + 5
        jpeg[frame : frame + 4] = struct.pack(">HH", height % 65536, width % 65536)
        yield _File(f"{width}x{height}.jpg", bytes(jpeg))
    yield _File("five thousand black rows.png", png_of(5000, 5000, 8, 0, bytes(5000 * 5000), 5000))
    text = zlib.compress(bytes(80 * 2**20))
    bomb = b"zTXt" + b"k\0\0" + text
    chunk = struct.pack(">I", len(bomb) - 4) + bomb + struct.pack(">I", zlib.crc32(bomb))
    sound = encoded(CELL, "PNG")
    yield _File("a text of 80 MB.png", sound[:33] + chunk + sound[33:])


def other_content() -> Iterator[_File]:
    """What is no image of a known format, and what is one under another's name."""
    random = np.random.default_rng(0)
    for name, content in {
        "empty.bmp": b"",
        "one byte.bmp": b"B",
        "BM.bmp": b"BM",
        "zeros.bmp": bytes(10_000),
        "text.png": b"patient,label\n1,ALL\n",
        "page.jpg": b"<!DOCTYPE html><html><body>not found</body></html>",
        "archive.bmp": b"PK\x03\x04" + bytes(500),
        "document.tif": b"%PDF-1.7\n" + bytes(500),
        "scan.dcm": bytes(128) + b"DICM" + bytes(500),
        "still.gif": encoded(CELL, "GIF"),
        "picture.webp": encoded(CELL, "WEBP"),
        "picture.ico": encoded(CELL, "ICO"),
        "picture.ppm": encoded(CELL, "PPM"),
        "headless.bmp": bmp_file(PIXELS)[14:],
        "PNG signature.png": b"\x89PNG\r\n\x1a\n",
        "JPEG signature.jpg": b"\xff\xd8\xff",
        "TIFF signature.tif": b"II*\0",
        "endless TIFF.tif": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
    }.items():
        yield _File(name, content)
    for number in range(8):
        signature = [b"", b"BM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"][number % 4]
        yield _File(f"noise {number}.bmp", signature + random.bytes(2000))
    yield _File("a PNG.bmp", encoded(CELL, "PNG"), PIXELS)
    yield _File("a BMP.jpg", bmp_file(PIXELS), PIXELS)
    yield _File("a TIFF.txt", encoded(CELL, "TIFF"), PIXELS)
    yield _File("no suffix", bmp_file(PIXELS), PIXELS)


def odd_names(folder: Path) -> Iterator[OddImage]:
    """A sound cell under names that trip up tables, shells and encodings."""
    names = [
        "comma, in it.bmp",
        "semicolon;.bmp",
        "ü 細胞 🔬.bmp",
        "-h.bmp",
        " blank .bmp",
        "a'b.bmp",
        "x" * 240 + ".bmp",
    ]
    if sys.platform != "win32":
        names += ['a"quote.bmp', "line\nbreak.bmp", "carriage\rreturn.bmp", "tab\t.bmp", "back\\slash.bmp", "*?.bmp"]
    if sys.platform.startswith("linux"):
        names += [os.fsdecode(b"not UTF-8 \xff\xfe.bmp"), "\x01\x1b[31m.bmp"]
    for name in names:
        yield _write(folder / name, _File(name, bmp_file(PIXELS), PIXELS))


def no_files(folder: Path) -> Iterator[OddImage]:
    """Names behind which there is no file to read."""
    (folder / "folder.bmp").mkdir()
    yield OddImage(folder / "folder.bmp", None)
    yield OddImage(folder / "missing.bmp", None)
    yield OddImage(folder / "no UTF-8 \udcff missing.bmp", None)
    yield OddImage(folder / ("y" * 300 + ".bmp"), None)
    huge = folder / "huge.bmp"
    with huge.open("wb") as stream:
        stream.truncate(65 * 2**20)  # sparse: takes no space
    yield OddImage(huge, None)
    if sys.platform == "win32":
        return
    targets = {
        "loop a.bmp": "loop b.bmp",
        "loop b.bmp": "loop a.bmp",
        "dangling.bmp": "nothing",
        "zeros.bmp": "/dev/zero",
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
        yield OddImage(folder / name, None)
    sound = folder / "a file.bmp"
    sound.write_bytes(bmp_file(PIXELS))
    (folder / "link.bmp").symlink_to(sound)
    yield OddImage(folder / "link.bmp", PIXELS)
    yield OddImage(sound / "below a file.bmp", None)
    os.mkfifo(folder / "pipe.bmp")
    yield OddImage(folder / "pipe.bmp", None)
    if os.geteuid() != 0:  # root may read all
        sealed = folder / "sealed.bmp"
        sealed.write_bytes(bmp_file(PIXELS))
        sealed.chmod(0)
        yield OddImage(sealed, None)
