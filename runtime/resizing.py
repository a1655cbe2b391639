"""From a picture of any size to the network's: padded to a square, resized as Pillow does, the black frame left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from runtime.schema import ImageSpec

Box = tuple[int, int, int, int]  # left, upper, right, lower in pixels, as Pillow has it


class Picture(Protocol):
    """What resizing needs of an RGB picture: a Pillow image, or one still in a file's bytes."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""

    def getbbox(self) -> Box | None:
        """Return the smallest box that holds every pixel which is not black, None where all are."""

    def crop(self, box: Box) -> Image.Image:
        """Return a box; what lies outside the picture is black."""


def resize_to_spec(picture: Picture, spec: ImageSpec) -> Image.Image:
    """Pad an RGB picture to a square with black and resize it to the spec's width and height.

    The result is that of Pillow's whole resize, but only the part is computed that a pixel which is not black reaches:
    a cell covers a quarter of its frame.
    """
    resized = Image.new("RGB", (spec.width, spec.height))
    content = picture.getbbox()
    if content is None:
        return resized
    side, (width, height) = max(picture.size), picture.size
    left, upper = (side - width) // 2, (side - height) // 2
    columns = _reached(content[0] + left, content[2] + left, side, spec.width)
    rows = _reached(content[1] + upper, content[3] + upper, side, spec.height)
    part = picture.crop((columns.start - left, rows.start - upper, columns.stop - left, rows.stop - upper))
    resized.paste(_resize_in_two_passes(part, columns, rows), (columns.output_start, rows.output_start))
    return resized


def _resize_in_two_passes(part: Image.Image, columns: _Reach, rows: _Reach) -> Image.Image:
    """Resize along the rows, then along the columns.

    Each pass rounds to 8 bits, so their order shows in the pixels. For a square it is this one in every version of
    Pillow; since version 13 others may take the columns first (https://github.com/python-pillow/Pillow/pull/9549).
    """
    height = part.height
    row_box = (columns.box_start, 0, columns.box_stop, height)
    part = part.resize((columns.outputs, height), Image.Resampling.BILINEAR, row_box)
    column_box = (0, rows.box_start, columns.outputs, rows.box_stop)
    return part.resize((columns.outputs, rows.outputs), Image.Resampling.BILINEAR, column_box)


@dataclass(frozen=True)
class _Reach:
    """Along one axis of the square: what is computed, and of what."""

    output_start: int  # first pixel of the result that is computed
    output_stop: int
    start: int  # first pixel of the square that is needed for them
    stop: int
    box_start: float  # where those outputs lie in the square, counted from `start`
    box_stop: float

    @property
    def outputs(self) -> int:
        """How many pixels of the result are computed."""
        return self.output_stop - self.output_start


def _reached(content_start: int, content_stop: int, side: int, outputs: int) -> _Reach:
    """Return the outputs that read a pixel of the content when `side` pixels are resized to `outputs`.

    An output reads the pixels whose centers are nearer to its own than `support`; Pillow rounds that as below
    (precompute_coeffs in Resample.c). It takes the box as float32 and computes positions and weights as float64 from
    it: those of a part are the same to the last bit where no position needs rounding, so that otherwise, as from 450
    to 250 pixels, all is computed.
    """
    if not _is_exact(side, outputs):
        return _Reach(0, outputs, 0, side, 0, side)
    scale = side / outputs
    support = max(scale, 1.0)
    output_start = max(math.floor((content_start - support) / scale) - 1, 0)
    output_stop = min(math.ceil((content_stop + support) / scale) + 1, outputs)
    start = max(int((output_start + 0.5) * scale - support + 0.5), 0)
    stop = min(int((output_stop - 0.5) * scale + support + 0.5), side)
    return _Reach(output_start, output_stop, start, stop, output_start * scale - start, output_stop * scale - start)


def _is_exact(side: int, outputs: int) -> bool:
    """Say whether every position of an output in the square is a float32: a multiple of a small power of two."""
    denominator = outputs // math.gcd(side, outputs)
    return denominator.bit_count() == 1 and side * denominator < 2**23
