"""Plain 24-bit BMP, the format of C-NMC's cells: its rows are the pixels, so nothing need be decoded.

A file is a BITMAPFILEHEADER, a BITMAPINFOHEADER or one of its longer versions V4 and V5, and rows of blue, green and
red bytes, each filled up to a multiple of four bytes and the lowest row first unless the height is negative:
https://learn.microsoft.com/windows/win32/api/wingdi/ns-wingdi-bitmapfileheader
https://learn.microsoft.com/windows/win32/api/wingdi/ns-wingdi-bitmapinfoheader
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from runtime.resizing import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

BI_RGB, BI_BITFIELDS = 0, 3  # biCompression values for uncompressed pixels
PLAIN_HEADER_SIZES = (40, 108, 124)  # BITMAPINFOHEADER, BITMAPV4HEADER, BITMAPV5HEADER
FILE_HEADER_SIZE = 14
MASKS_BYTES = 12  # of bit fields, behind a BITMAPINFOHEADER
COLOR_BYTES = 4  # of a palette
PALETTE_BITS = 8  # of a pixel, at most, where it is the number of a color
MOST_PADDING = 3  # bytes that some writers put behind the pixels and count as theirs


class Header(NamedTuple):
    """The fields of a BITMAPFILEHEADER and of a BITMAPINFOHEADER, with which V4 and V5 begin, in their order."""

    magic: bytes
    file_size: int
    reserved_1: int
    reserved_2: int
    offset: int  # of the pixels
    header_size: int  # without the file header
    width: int
    height: int  # negative: the uppermost row comes first
    planes: int
    bits: int  # per pixel
    compression: int
    image_size: int  # bytes of the pixels; may be 0 where they are not compressed
    x_resolution: int
    y_resolution: int
    colors: int
    important_colors: int

    @property
    def pixel_bytes(self) -> int:
        """What the pixels take up where they are not compressed."""
        return row_bytes(self.width, self.bits) * abs(self.height)


HEADER = struct.Struct("<2sIHHIIiiHHIIiiII")


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
    header = _read_header(data)
    if not header or (header.planes, header.bits, header.compression, header.colors) != (1, 24, BI_RGB, 0):
        return None
    if header.header_size not in PLAIN_HEADER_SIZES or header.width < 1 or not header.height:
        return None
    if header.offset != FILE_HEADER_SIZE + header.header_size or header.image_size not in (0, header.pixel_bytes):
        return None
    if not len(data) == header.file_size == header.offset + header.pixel_bytes:
        return None
    return PlainBmp(data, header.offset, (header.width, abs(header.height)), top_down=header.height < 0)


def size_contradiction(data: bytes) -> str:
    """Say where the sizes in the header of a BMP file contradict each other; empty where they do not.

    A decoder follows the offset, width, height and bits alone, and where one of them is damaged it gives a cut, sheared
    or shifted picture. Compressed files and OS/2's short header state no second size.
    """
    header = _read_header(data)
    if not header or header.header_size < min(PLAIN_HEADER_SIZES):
        return ""
    if 0 < header.offset < _first_pixel(header):
        return f"its pixels begin at byte {header.offset}, inside its header"
    if header.compression not in (BI_RGB, BI_BITFIELDS):
        return ""
    room = len(data) - header.offset
    if header.image_size == header.pixel_bytes > room:
        return f"its header states {header.image_size} bytes of pixels, found {room}"
    # A byte that was lost or added in a row shifts all behind it.
    if _counts_itself(header) and len(data) not in (header.file_size, header.offset + header.pixel_bytes):
        return f"its header states a file of {header.file_size} bytes, found {len(data)}"
    stated = header.image_size or _room_for_pixels(header, len(data))
    without_padding = (header.width * header.bits + 7) // 8 * abs(header.height)  # as some writers count
    if stated and not without_padding <= stated <= header.pixel_bytes + MOST_PADDING:
        return (
            f"its header states {stated} bytes of pixels, but {header.width}x{abs(header.height)} pixels of "
            f"{header.bits} bits are {header.pixel_bytes}"
        )
    return ""


def color_contradiction(data: bytes, image: Image.Image) -> str:
    """Say where a BMP file with a palette, decoded to `image`, has pixels of a color that its header does not count.

    A decoder gives them any color. What it takes for black and white alone it reads as one bit a pixel.
    """
    header = _read_header(data)
    if not header or header.header_size < min(PLAIN_HEADER_SIZES) or header.bits > PALETTE_BITS or not header.colors:
        return ""
    if image.mode == "1" and header.bits > 1:
        return f"its header states {header.colors} colors for pixels of {header.bits} bits"
    highest = int(np.asarray(image).max())  # a truth value for mode "1"
    if highest < header.colors:
        return ""
    return f"its header states {header.colors} colors, found pixels of color {highest + 1}"


def _first_pixel(header: Header) -> int:
    """Return the first byte at which the pixels can begin: behind the header, its palette or its masks."""
    end = FILE_HEADER_SIZE + header.header_size
    if header.bits <= PALETTE_BITS:
        most = 1 << header.bits
        return end + COLOR_BYTES * min(header.colors or most, most)
    has_masks_behind = header.compression == BI_BITFIELDS and header.header_size == min(PLAIN_HEADER_SIZES)
    return end + MASKS_BYTES if has_masks_behind else end


def _counts_itself(header: Header) -> bool:
    """Say whether the stated size of the file is that of its header and pixels; some writers put something else."""
    behind = header.file_size - header.offset - header.pixel_bytes
    return header.offset > 0 and 0 <= behind <= MOST_PADDING


def _room_for_pixels(header: Header, file_size: int) -> int:
    """Return the bytes behind the offset; 0 where nothing follows from them, such as behind a color profile of V5."""
    may_hold_a_profile = header.header_size == max(PLAIN_HEADER_SIZES)
    room = min(header.file_size, file_size) - header.offset
    return 0 if may_hold_a_profile or not header.offset or room < header.pixel_bytes else room


def _read_header(data: bytes) -> Header | None:
    """Return the header of bytes that begin like a BMP file and are long enough for one."""
    if len(data) < HEADER.size or not data.startswith(b"BM"):
        return None
    return Header._make(HEADER.unpack_from(data))
