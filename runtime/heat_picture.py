"""Draws a cell beside itself under the map of what its answer comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 320  # pixels of each of the two pictures, longer side
CAPTION_HEIGHT = 44
FONT_SIZE = 13
# Two colors of Okabe and Ito that are told apart with any color vision.
FOR_ALL, FOR_HEALTHY = (230, 159, 0), (0, 114, 178)
MOST_OPAQUE = 0.75
LEGEND = "orange: speaks for ALL   blue: for healthy"


def heat_picture(cell: NDArray[np.uint8], heat: NDArray[np.float32], caption: str) -> Image.Image:
    """Return the cell, the cell under its map, and two lines of text.

    The strongest place of the cell is the most opaque one, so that two cells' pictures say nothing of each other.

    Args:
        cell: uint8 RGB [height, width, 3].
        heat: [rows, columns], above 0 where it speaks for ALL.
        caption: The first line.
    """
    height, width = cell.shape[:2]
    factor = SIDE / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    plain = Image.fromarray(cell).resize(size, Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (2 * size[0], size[1] + CAPTION_HEIGHT), "white")
    picture.paste(plain, (0, 0))
    picture.paste(_under_heat(plain, heat), (size[0], 0))
    drawing = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE)
    for line, text in enumerate((caption, LEGEND)):
        drawing.text((6, size[1] + 6 + 18 * line), text, fill="black", font=font)
    return picture


def _under_heat(plain: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    strongest = float(np.abs(heat).max()) or 1.0
    smooth = Image.fromarray((heat / strongest).astype(np.float32)).resize(plain.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), -1, 1)[..., np.newaxis]
    color = np.where(strength > 0, FOR_ALL, FOR_HEALTHY)
    opacity = MOST_OPAQUE * np.abs(strength)
    mixed = (1 - opacity) * np.asarray(plain) + opacity * color
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
