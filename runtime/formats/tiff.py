"""Finds damage in a TIFF file that its decoder keeps silent about: pieces of pixels of another size than their rows.

Its pixels lie in strips of rows, or in tiles, and the file states where each begins and how many bytes it has
(TIFF 6.0, sections 3 and 15). Pillow follows the beginnings, the width and the rows of a strip alone: where one of them
is damaged it gives a cut, sheared or mixed-up picture. Compressed pieces are unpacked to be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.formats.tiff_compression import COMPRESSIONS, MOST_PADDING, unpacked_length

WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANES = 256, 257, 258, 259, 277, 284
FILL_ORDER, STRIP_PLACES, STRIP_ROWS, STRIP_BYTES = 266, 273, 278, 279
SAMPLE_FORMAT, UNSIGNED, UNDEFINED = 339, 1, 4
TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_BYTES = 322, 323, 324, 325
UNCOMPRESSED = 1
MOST_BITS = 8  # of a sample
LOWEST_BIT_FIRST = 2
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
SEPARATE_PLANES = 2  # each channel lies in strips of its own
MOST_PIECE_BYTES = 2**27  # unpacked; the largest picture has 4096x4096 pixels of up to 6 bytes


@dataclass(frozen=True)
class _Layout:
    """How the pixels are shared out."""

    row_bytes: int  # of a strip or tile
    rows: int  # of each but, perhaps, the lowest
    lowest_rows: int
    across: int
    down: int
    planes: int

    @property
    def pieces(self) -> int:
        """How many strips or tiles there are."""
        return self.across * self.down * self.planes

    @property
    def piece_bytes(self) -> int:
        """How many bytes each but, perhaps, the lowest unpacks to."""
        return self.rows * self.row_bytes

    def fits(self, counts: Sequence[int]) -> bool:
        """Say whether strips or tiles have as many bytes, in their order, as their pixels need."""
        return len(counts) == self.pieces and all(map(self.fits_piece, range(self.pieces), counts))

    def fits_piece(self, index: int, count: int) -> bool:
        """Say whether one strip or tile has as many bytes as its pixels need."""
        pieces_of_plane = self.across * self.down
        is_lowest = index % pieces_of_plane >= pieces_of_plane - self.across
        needed = self.lowest_rows * self.row_bytes
        return count == self.piece_bytes or (is_lowest and needed <= count <= needed + MOST_PADDING)

    def fits_file(self, places: Sequence[int], counts: Sequence[int], file_bytes: int) -> bool:
        """Say whether all compressed strips or tiles can lie side by side in the file, and none is too large."""
        is_complete = len(places) == len(counts) == self.pieces
        return is_complete and sum(counts) <= file_bytes and self.piece_bytes <= MOST_PIECE_BYTES


def can_show_damage(tags: Mapping[int, Any]) -> bool:
    """Say whether the pixels are uncompressed, or compressed in a way in which damage can be found here."""
    return tags.get(COMPRESSION, UNCOMPRESSED) in {UNCOMPRESSED, *COMPRESSIONS}


def odd_samples(tags: Mapping[int, Any]) -> str:
    """Say what the samples are where Pillow takes them for others, of 8 bits and without a sign; empty where they are.

    Of uncompressed planes it forgets how many bits a sample has, and that the lowest comes first.
    """
    bits = max(tags.get(BITS, (1,)))
    if bits > MOST_BITS:
        return f"samples of {bits} bits"
    if not {UNSIGNED, UNDEFINED}.issuperset(tags.get(SAMPLE_FORMAT, ())):
        return "samples with a sign"
    is_turned = tags.get(FILL_ORDER) == LOWEST_BIT_FIRST and tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED
    return "planes whose lowest bits come first" if is_turned and tags.get(PLANES) == SEPARATE_PLANES else ""


def pixel_damage(data: bytes, tags: Mapping[int, Any]) -> str:
    """Say what is wrong with the pixels of a TIFF file with these tags, which can_show_damage; empty where nothing is.

    Nothing follows from the tags of an uncompressed image that does not state how many bytes its pieces have.
    """
    is_tiled = STRIP_BYTES not in tags  # as Pillow asks; libtiff, which unpacks, asks for TILE_WIDTH
    stated = tags.get(TILE_BYTES if is_tiled else STRIP_BYTES)
    is_compressed = tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED
    if is_compressed and (stated is None or is_tiled != (TILE_WIDTH in tags)):
        return "its tags do not state how many compressed bytes its strips or tiles have"
    if stated is None:
        return ""
    layout = _layout(tags, is_tiled=is_tiled)
    places = tags[TILE_PLACES if is_tiled else STRIP_PLACES]
    if not (layout.fits_file(places, stated, len(data)) if is_compressed else layout.fits(stated)):
        return (
            f"its tags state {sum(stated)} bytes of pixels in {len(stated)} pieces, which do not make up "
            f"{tags[WIDTH]}x{tags[HEIGHT]} pixels"
        )
    return _damaged_piece(data, tags, layout, zip(places, stated, strict=True)) if is_compressed else ""


def _damaged_piece(data: bytes, tags: Mapping[int, Any], layout: _Layout, pieces: Iterable[tuple[int, int]]) -> str:
    for index, (place, count) in enumerate(pieces):
        piece = data[place : place + count]
        if tags.get(FILL_ORDER) == LOWEST_BIT_FIRST:
            piece = piece.translate(REVERSED)
        length = unpacked_length(piece, tags[COMPRESSION], layout.row_bytes, layout.piece_bytes)
        if not layout.fits_piece(index, length):
            return f"piece {index + 1} of {layout.pieces} does not unpack to the pixels of its rows"
    return ""


def _layout(tags: Mapping[int, Any], *, is_tiled: bool) -> _Layout:
    width, height, bits = tags[WIDTH], tags[HEIGHT], tags.get(BITS, (1,))
    piece_width = tags[TILE_WIDTH] if is_tiled else width
    rows = tags[TILE_HEIGHT] if is_tiled else min(tags.get(STRIP_ROWS, height), height)
    is_separate = tags.get(PLANES) == SEPARATE_PLANES
    samples = tags.get(SAMPLES, 1)
    down = -(-height // rows)
    return _Layout(
        row_bytes=(piece_width * bits[0] * (1 if is_separate else samples) + 7) // 8,
        rows=rows,
        lowest_rows=rows if is_tiled else height - (down - 1) * rows,
        across=-(-width // piece_width),
        down=down,
        planes=samples if is_separate else 1,
    )
