"""Writes BMP files field by field, sound ones and odd ones."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from runtime.formats.bmp import BI_RGB, FILE_HEADER_SIZE, HEADER, Header, row_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Place and type of each field
HEADER_FIELDS = {
    "magic": (0, "2s"),
    "file size": (2, "<I"),
    "reserved 1": (6, "<H"),
    "reserved 2": (8, "<H"),
    "offset": (10, "<I"),
    "header size": (14, "<I"),
    "width": (18, "<i"),
    "height": (22, "<i"),
    "planes": (26, "<H"),
    "bits": (28, "<H"),
    "compression": (30, "<I"),
    "image size": (34, "<I"),
    "x resolution": (38, "<i"),
    "y resolution": (42, "<i"),
    "colors": (46, "<I"),
    "important": (50, "<I"),
}


def random_pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bmp_file(
    pixels: NDArray[np.uint8], header_size: int = 40, *, top_down: bool = False, states_size: bool = True
) -> bytes:
    """Return a plain 24-bit file."""
    height, width = pixels.shape[:2]
    body = rows_of(pixels[..., ::-1].reshape(height, -1), top_down=top_down)
    image_size = None if states_size else 0
    return any_bmp(body, width, -height if top_down else height, 24, header_size=header_size, image_size=image_size)


def rows_of(samples: NDArray[np.uint8], *, top_down: bool = False) -> bytes:
    """Return uint8 [height, bytes] as the rows of a file: each filled up to four bytes, the lowest first."""
    height, used = samples.shape
    rows = np.zeros((height, row_bytes(used, bits=8)), np.uint8)
    rows[:, :used] = samples
    return (rows if top_down else rows[::-1]).tobytes()


def any_bmp(
    body: bytes,
    width: int,
    height: int,
    bits: int,
    *,
    compression: int = BI_RGB,
    header_size: int = 40,
    masks: bytes = b"",
    palette: bytes = b"",
    image_size: int | None = None,
) -> bytes:
    """Return a file whose header is that of its body; masks and palette follow the header's common fields."""
    end_of_header = max(FILE_HEADER_SIZE + header_size, HEADER.size + len(masks)) + len(palette)
    header = Header(
        magic=b"BM",
        file_size=end_of_header + len(body),
        reserved_1=0,
        reserved_2=0,
        offset=end_of_header,
        header_size=header_size,
        width=width,
        height=height,
        planes=1,
        bits=bits,
        compression=compression,
        image_size=len(body) if image_size is None else image_size,
        x_resolution=3779,
        y_resolution=3779,
        colors=len(palette) // 4,
        important_colors=0,
    )
    return (HEADER.pack(*header) + masks).ljust(end_of_header - len(palette), b"\0") + palette + body


def patched(data: bytes, field: str, value: int) -> bytes:
    """Change one field of the header."""
    place, kind = HEADER_FIELDS[field]
    damaged = bytearray(data)
    bits = 8 * struct.calcsize(kind)
    struct.pack_into(kind.upper(), damaged, place, value % 2**bits)
    return bytes(damaged)
