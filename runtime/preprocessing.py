"""From a file to pixels: the only code that does it, for training, calibration and serving alike.

Decode, apply the EXIF orientation, put alpha over black, convert to RGB, pad to a square with black (the background
of C-NMC cells), resize with Pillow's antialiased bilinear filter. Another resize differs by tens of grey levels and
changes labels. Standardization is not here: it is the first layer of the network.
"""

from __future__ import annotations

import io
import logging
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.errors import UnopenableCellError, UnreadableCellError, one_line, reason_of
from runtime.files import identity_of
from runtime.formats.bmp import color_contradiction, read_plain_bmp, size_contradiction
from runtime.formats.jpeg import excess_of_scans, scan_damage
from runtime.formats.png import load_with_damage
from runtime.formats.tiff import can_show_damage, odd_samples, pixel_damage
from runtime.resizing import Picture, resize_to_spec
from runtime.schema import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("BMP", "PNG", "JPEG", "TIFF")
EMPTY = "the file is empty"
MAX_FILE_BYTES = 64 * 2**20
MAX_SIDE = 4096  # pixels; a cell has 450. A decompression bomb is caught before a pixel is decoded
# Larger images are refused below, so that Pillow need not warn of those that it would still decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow warns of a TIFF with damaged tags, decodable or not; where it is not, its row says so.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
SIXTEEN_BITS = re.compile(r";1[56]")  # in Pillow's names of pixels in a file: RGB;16B of PNG, BGR;15 and BGR;16 of BMP
MODES_OF_8_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def load_cell(path: str | Path, spec: ImageSpec) -> NDArray[np.uint8]:
    """Read an image file as uint8 RGB [height, width, 3], values 0..255.

    Raises UnreadableCellError, whose message is one line, for anything that is not one readable 8-bit image.
    """
    return decode_cell(read_bytes(path), spec)


def read_bytes(path: str | Path) -> bytes:
    """Read a regular file of at most MAX_FILE_BYTES; raise UnreadableCellError for anything else."""
    return read_identified(path)[0]


def read_identified(path: str | Path) -> tuple[bytes, str]:
    """Read a file as `read_bytes` does; return its content and what `identity_of` says of the file."""
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableCellError("expected an image file, found something that is not a regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise UnreadableCellError(
                f"expected at most {MAX_FILE_BYTES // 2**20} MB, found {found.st_size // 2**20} MB"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UnopenableCellError(reason_of(error)) from error
    if not data:
        raise UnreadableCellError(EMPTY)
    return data, identity_of(found)


def decode_cell(data: bytes, spec: ImageSpec) -> NDArray[np.uint8]:
    """Turn the bytes of an image file into uint8 RGB [height, width, 3], values 0..255, as `spec` says.

    Raises UnreadableCellError for what is not one readable 8-bit image of a known format.
    """
    return np.asarray(resize_to_spec(decode_picture(data), spec))


def decode_picture(data: bytes) -> Picture:
    """Turn the bytes of an image file into an RGB picture of its own size; raise what `decode_cell` raises."""
    if not data:
        raise UnreadableCellError(EMPTY)
    plain = read_plain_bmp(data)
    if plain and max(plain.size) <= MAX_SIDE:
        return plain
    return _decode_by_pillow(data)


def _decode_by_pillow(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_unsuitable(image)
            if damage := _decoded_damage(data, image):
                raise UnreadableCellError(f"damaged image: {damage}")
            return _to_rgb(image)
    except UnreadableCellError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableCellError(
            f"expected one cell of at most {MAX_SIDE}x{MAX_SIDE} pixels: {one_line(error)}"
        ) from error
    except UnidentifiedImageError as error:
        raise UnreadableCellError(f"not an image that can be read (expected {', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow raises a dozen types on damaged files, from SyntaxError to struct.error
        raise UnreadableCellError(f"damaged image: {one_line(error)}") from error


def _decoded_damage(data: bytes, image: Image.Image) -> str:
    """Decode the pixels; say what damage to them Pillow passes over, empty for none.

    Such damage gives another picture, and perhaps another label.
    """
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as other:
            other.verify()  # the checksums, which decoding ignores
        return load_with_damage(data, image)
    # Before it is decoded: libtiff writes what it finds to the standard error.
    if image.format == "TIFF" and (damage := pixel_damage(data, _tags(image))):
        return damage
    if image.format == "JPEG" and (damage := excess_of_scans(data)):
        return damage
    image.load()
    if image.format == "BMP":
        return size_contradiction(data) or color_contradiction(data, image)
    return scan_damage(data, image) if image.format == "JPEG" else ""


def _tags(image: Image.Image) -> Mapping[int, Any]:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _refuse_unsuitable(image: Image.Image) -> None:
    if max(image.size) > MAX_SIDE:
        raise UnreadableCellError(
            f"expected one cell of at most {MAX_SIDE}x{MAX_SIDE} pixels, found {image.width}x{image.height}"
        )
    # Pillow would clip 16-bit gray and float pixels to white, halve the bits of 16-bit colors and stretch those of 5
    # bits, which it opens as RGB: its decoder's arguments alone tell them.
    if image.mode not in MODES_OF_8_BITS or SIXTEEN_BITS.search(str(getattr(image, "tile", ""))):
        raise UnreadableCellError(f"expected 8 bits per channel, found pixels of type {_pixel_type(image)}")
    if image.format == "TIFF" and (found := odd_samples(_tags(image))):
        raise UnreadableCellError(f"expected 8 bits per channel, without a sign, found {found}")
    if image.format == "TIFF" and not can_show_damage(_tags(image)):
        raise UnreadableCellError(
            f"expected a TIFF file without compression or with LZW, Deflate or PackBits, found "
            f"{image.info['compression']}; save the picture as such a file, or as BMP, PNG or JPEG"
        )
    if getattr(image, "is_animated", False):  # to count the images of a TIFF takes the square of their number
        raise UnreadableCellError("expected one image in the file, found several")


def _pixel_type(image: Image.Image) -> str:
    return image.mode if image.mode not in MODES_OF_8_BITS else f"{image.mode} with 16 bits"


def _to_rgb(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # its writer left the fourth byte of a pixel empty, as Windows' own functions do
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        black = Image.new("RGBA", with_alpha.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, with_alpha).convert("RGB")
    return image.convert("RGB")
