"""Plain 24-bit BMP, the format of C-NMC's cells: its rows are the pixels, so nothing need be decoded.

A file is a BITMAPFILEHEADER, a BITMAPINFOHEADER or one of its longer versions V4 and V5, and rows of blue, green and
red bytes, each filled up to a multiple of four bytes and the lowest row first unless the height is negative:
https://learn.microsoft.com/windows/win32/api/wingdi/ns-wingdi-bitmapfileheader
https://learn.microsoft.com/windows/win32/api/wingdi/ns-wingdi-bitmapinfoheader
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from runtime.resizing import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

# bfType, bfSize, bfReserved1, bfReserved2, bfOffBits
FILE_HEADER = struct.Struct("<2sIHHI")
# biSize, biWidth, biHeight, biPlanes, biBitCount, biCompression, biSizeImage, biXPelsPerMeter, biYPelsPerMeter,
# biClrUsed, biClrImportant; V4 and V5 begin with the same fields
INFO_HEADER = struct.Struct("<IiiHHIIiiII")
PLAIN_HEADER_SIZES = (40, 108, 124)  # BITMAPINFOHEADER, BITMAPV4HEADER, BITMAPV5HEADER
BI_RGB = 0  # not compressed


@dataclass(frozen=True)
class PlainBmp:
    """The pixels of a plain file, still in its bytes; a runtime.resizing.Picture."""

    data: bytes
    offset: int  # of the first row
    size: tuple[int, int]  # width and height in pixels
    top_down: bool

    @property
    def row_bytes(self) -> int:
        """Bytes from the beginning of a row to that of the next."""
        return row_bytes(self.size[0], bits=24)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """A view of the file's bytes as uint8 RGB [height, width, 3], 0..255; read-only, as bytes are."""
        width, height = self.size
        return self._upright_rows()[:, : 3 * width].reshape(height, width, 3)[..., ::-1]

    def getbbox(self) -> Box | None:
        """Return the smallest box that holds every pixel which is not black, None where all are."""
        samples = self._upright_rows()[:, : 3 * self.size[0]]
        rows = np.flatnonzero(samples.max(axis=1))
        if not len(rows):
            return None
        upper, lower = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(samples[upper:lower].max(axis=0)) // 3
        return int(columns[0]), upper, int(columns[-1]) + 1, lower

    def crop(self, box: Box) -> Image.Image:
        """Return a box as an RGB image; what lies outside the picture is black."""
        left, upper, right, lower = box
        width, height = self.size
        if left < 0 or upper < 0 or right > width or lower > height:
            return self.crop((0, 0, width, height)).crop(box)
        first_row = upper if self.top_down else height - lower
        start = np.frombuffer(self.data, np.uint8, offset=self.offset + first_row * self.row_bytes + 3 * left)
        order = 1 if self.top_down else -1
        return Image.frombytes("RGB", (right - left, lower - upper), start, "raw", "BGR", self.row_bytes, order)

    def _upright_rows(self) -> NDArray[np.uint8]:
        """Return a view of the rows as uint8 [height, row_bytes], the uppermost first."""
        height = self.size[1]
        rows = np.frombuffer(self.data, np.uint8, height * self.row_bytes, self.offset).reshape(height, self.row_bytes)
        return rows if self.top_down else rows[::-1]


def row_bytes(width: int, bits: int) -> int:
    """Return the bytes of a row of `width` pixels of `bits` each, filled up to a multiple of four."""
    return (width * bits + 31) // 32 * 4


def read_plain_bmp(data: bytes) -> PlainBmp | None:
    """Return the pixels of a BMP file whose every field is as in a plain 24-bit file, None for all other bytes.

    Whatever is odd, even where the pixels could still be found, is left to a decoder and its messages.
    """
    if len(data) < FILE_HEADER.size + INFO_HEADER.size:
        return None
    magic, file_size, _, _, offset = FILE_HEADER.unpack_from(data)
    header = INFO_HEADER.unpack_from(data, FILE_HEADER.size)
    header_size, width, height, planes, bits, compression, image_size, _, _, colors, _ = header
    if (magic, planes, bits, compression, colors) != (b"BM", 1, 24, BI_RGB, 0):
        return None
    if header_size not in PLAIN_HEADER_SIZES or offset != FILE_HEADER.size + header_size or width < 1 or not height:
        return None
    expected_size = row_bytes(width, bits) * abs(height)
    if image_size not in (0, expected_size) or not file_size == len(data) == offset + expected_size:
        return None
    return PlainBmp(data, offset, (width, abs(height)), top_down=height < 0)
