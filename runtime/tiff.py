"""Finds sizes in an uncompressed TIFF file that contradict each other.

Its pixels lie in strips of rows, or in tiles, and the file states where each begins and how many bytes it has
(TIFF 6.0, sections 3 and 15). Pillow follows the beginnings, the width and the rows of a strip alone: where one of them
is damaged it gives a cut, sheared or mixed-up picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANES = 256, 257, 258, 259, 277, 284
STRIP_ROWS, STRIP_BYTES = 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_BYTES = 322, 323, 325
UNCOMPRESSED = 1
SEPARATE_PLANES = 2  # each channel lies in strips of its own
MOST_PADDING = 3  # bytes that some writers put behind the pixels and count as theirs


@dataclass(frozen=True)
class _Layout:
    """How the pixels are shared out."""

    row_bytes: int  # of a strip or tile
    rows: int  # of each but, perhaps, the lowest
    lowest_rows: int
    across: int
    down: int
    planes: int

    def fits(self, stated: tuple[int, ...]) -> bool:
        """Say whether strips or tiles have as many bytes, in their order, as their pixels need."""
        if len(stated) != self.across * self.down * self.planes:
            return False
        lowest = self.across * (self.down - 1)
        pieces_of_plane = self.across * self.down
        return all(self._fits(count, index % pieces_of_plane >= lowest) for index, count in enumerate(stated))

    def _fits(self, count: int, is_lowest: bool) -> bool:
        full, needed = self.rows * self.row_bytes, self.lowest_rows * self.row_bytes
        return count == full or (is_lowest and needed <= count <= needed + MOST_PADDING)


def layout_contradiction(tags: Mapping[int, Any]) -> str:
    """Say where the sizes in the tags of a TIFF image contradict each other; empty where they do not.

    Nothing follows from those of a compressed image, nor where the bytes of the strips are not stated.
    """
    if tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED:
        return ""
    stated = tags.get(STRIP_BYTES, tags.get(TILE_BYTES))
    if stated is None or _layout(tags, tiled=STRIP_BYTES not in tags).fits(stated):
        return ""
    return (
        f"its tags state {sum(stated)} bytes of pixels in {len(stated)} pieces, which do not make up "
        f"{tags[WIDTH]}x{tags[HEIGHT]} pixels"
    )


def _layout(tags: Mapping[int, Any], *, tiled: bool) -> _Layout:
    width, height, bits = tags[WIDTH], tags[HEIGHT], tags.get(BITS, (1,))
    piece_width = tags[TILE_WIDTH] if tiled else width
    rows = tags[TILE_HEIGHT] if tiled else min(tags.get(STRIP_ROWS, height), height)
    is_separate = tags.get(PLANES) == SEPARATE_PLANES
    samples = tags.get(SAMPLES, 1)
    down = -(-height // rows)
    return _Layout(
        row_bytes=(piece_width * bits[0] * (1 if is_separate else samples) + 7) // 8,
        rows=rows,
        lowest_rows=rows if tiled else height - (down - 1) * rows,
        across=-(-width // piece_width),
        down=down,
        planes=samples if is_separate else 1,
    )
