"""Reads one image file for the model: its pixels, and whether a person should look at it too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from runtime.appearance import appearance_of, unusual
from runtime.errors import UnreadableCellError
from runtime.preprocessing import decode_picture, read_identified
from runtime.resizing import resize_to_spec
from runtime.schema import Appearance, ImageSpec, TypicalCells

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Reading:
    """What came out of one file."""

    pixels: NDArray[np.uint8] | None  # RGB [height, width, 3], 0..255; None where it is not a readable image
    reason: str = ""  # why there are no pixels
    concern: str = ""  # what sets the cell apart from those that the model was fitted on
    sha256: str = ""  # of the file, where it was asked for and the file could be read
    identity: str = ""  # of the file that was read
    appearance: Appearance | None = None  # where there are pixels


@dataclass(frozen=True)
class ReadCell:
    """A cell that was read."""

    path: str  # the name of its row
    reading: Reading
    seconds: float  # that reading took


class CellReader:
    """Reads files as a bundle's model takes them; used by several threads at once."""

    def __init__(self, image: ImageSpec, typical: TypicalCells, *, with_sha256: bool = False) -> None:
        self._image = image
        self._typical = typical
        self._with_sha256 = with_sha256

    def __call__(self, path: str) -> Reading:
        """Read a file; what is wrong with it is in the result."""
        try:
            data, identity = read_identified(path)
        except UnreadableCellError as error:
            return Reading(None, str(error))
        return replace(self.of_data(data), identity=identity)

    def of_data(self, data: bytes) -> Reading:
        """Read the bytes of a file."""
        sha256 = hashlib.sha256(data).hexdigest() if self._with_sha256 else ""
        try:
            pixels, appearance = look_at(data, self._image)
        except UnreadableCellError as error:
            return Reading(None, str(error), sha256=sha256)
        return Reading(pixels, concern=unusual(appearance, self._typical), sha256=sha256, appearance=appearance)


def look_at(data: bytes, image: ImageSpec) -> tuple[NDArray[np.uint8], Appearance]:
    """Return a cell from the bytes of its file, uint8 RGB [height, width, 3], and how it looks.

    Raises UnreadableCellError for what is not a readable image.
    """
    picture = decode_picture(data)
    pixels = np.asarray(resize_to_spec(picture, image))
    return pixels, appearance_of(pixels, max(picture.size))
