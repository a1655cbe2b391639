"""Finds damage in a PNG file that its decoder keeps silent about: missing compressed rows, colors beyond the palette.

The pixels are one zlib stream, each row of bytes behind one that names its filter; the rows of an interlaced picture
lie in seven passes (PNG, third edition, sections 7 to 10). Pillow leaves the rows that the stream lacks black.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

FILLING = 253  # of a picture before it is decoded: a value of which hardly any picture has a whole row
FIRST_CHUNK = 8  # bytes of the signature before it
HEADER = ">IIBBBBB"  # IHDR: width, height, bits, color type, compression, filter, interlace
COLOR_TYPE_TO_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Each pass of Adam7: the first row and column, and the steps from one to the next
WHOLE = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def load_with_damage(data: bytes, image: Image.Image) -> str:
    """Decode the pixels of a PNG file that was opened as `image`; say what is wrong with them, empty for nothing.

    Unpacking the stream a second time would cost most of a decoding. Its rows come in order, so that it is
    whole where the last one has been written over what the picture was filled with.
    """
    bands = len(image.getbands())
    filled = Image.new(image.mode, image.size, (FILLING,) * bands if bands > 1 else FILLING)
    last_row = (0, image.height - 1, *image.size)
    unwritten = filled.crop(last_row).tobytes()
    colors = len(image.palette.palette) // 3 if image.palette else 0
    image.im = filled.im
    image.load()
    _scale_transparency(data, image)
    if image.info.get("interlace") or image.crop(last_row).tobytes() == unwritten:
        stated = _stated_bytes(data)
        found = len(zlib.decompressobj().decompress(b"".join(_pieces(data)), stated))
        if found < stated:
            return f"it holds {found} bytes of pixels where its header states {stated}"
    highest = int(np.asarray(image).max()) if image.mode == "P" else -1
    return f"its palette has {colors} colors, found pixels of color {highest + 1}" if highest >= colors else ""


def _scale_transparency(data: bytes, image: Image.Image) -> None:
    """Spread a transparent gray of few bits over 0..255, as Pillow does with pixels but not always with it."""
    highest = 2 ** data[FIRST_CHUNK + 16] - 1
    if image.mode in ("1", "L") and highest < 255 and image.info.get("transparency", 255) <= highest:
        image.info["transparency"] *= 255 // highest


def _stated_bytes(data: bytes) -> int:
    """Return how many bytes the rows have that the header states."""
    width, height, bits, color_type, _, _, interlace = struct.unpack_from(HEADER, data, FIRST_CHUNK + 8)
    pixel_bits = bits * COLOR_TYPE_TO_SAMPLES[color_type]
    stated = 0
    for row, column, row_step, column_step in ADAM7 if interlace else WHOLE:
        rows, columns = -(-(height - row) // row_step), -(-(width - column) // column_step)
        stated += rows * (1 + (columns * pixel_bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return stated


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the content of the IDAT chunks of a file whose chunks are sound."""
    place = FIRST_CHUNK
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            yield data[place + 8 : place + 8 + length]
        if kind == b"IEND":
            return
        place += length + 12
