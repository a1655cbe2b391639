"""Follows the compressed strips and tiles of a TIFF file to their end, to learn how many bytes they unpack to.

libtiff, which decodes them for Pillow, stops where it has enough pixels and goes on behind what it cannot unpack: it
never sees that compressed bytes are left over, nor, for some damage, says that they are wrong. Only Deflate has a
checksum; of the others, damage that unpacks to bytes of the right number cannot be told from pixels.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LZW, DEFLATE, PACKBITS, OLD_DEFLATE = 5, 8, 32773, 32946  # TIFF 6.0, sections 9 and 13; Adobe's technical notes
COMPRESSIONS = frozenset({LZW, DEFLATE, PACKBITS, OLD_DEFLATE})
DAMAGED = -1
NO_OPERATION = 128  # a head of PackBits behind which nothing follows

CLEAR, END = 256, 257  # codes of LZW that empty its table and end its piece
STRINGS_OF_EMPTY_TABLE = 258
# How many bits each code behind CLEAR has: one more as soon as the table, which grows by a string with each code but
# the first, holds 511, 1023 and 2047. The last strings are spare: an encoder sends CLEAR at 4094.
CODE_BITS = np.repeat([9, 10, 11, 12], [254, 512, 1024, 2306])
CODE_STARTS = np.cumsum(CODE_BITS) - CODE_BITS
MOST_TABLE_BYTES = int(CODE_BITS.sum()) // 8 + 2
# Encoders empty a full table, of 3,837 strings, and libtiff's one that does badly over 10,000 bytes. Here each costs a
# look at thousands of codes: a file that holds nothing else must not take minutes.
FEWEST_BYTES_OF_TABLE = 1000
MOST_PADDING = 3  # bytes that some writers put behind a piece and count as its own


def unpacked_length(piece: bytes, compression: int, row_bytes: int, most: int) -> int:
    """Return how many bytes a strip or tile, in rows of `row_bytes`, unpacks to; DAMAGED where it does not to its end.

    Stops behind `most` bytes, with a larger number or DAMAGED.
    """
    if compression == LZW:
        return _lzw_length(piece, most)
    if compression == PACKBITS:
        return _packbits_length(piece, row_bytes, most)
    return _deflate_length(piece, most)


def _deflate_length(piece: bytes, most: int) -> int:
    unpacking = zlib.decompressobj()
    try:
        length = len(unpacking.decompress(piece, most + 1))
    except zlib.error:
        return DAMAGED
    return length if unpacking.eof else DAMAGED


def _packbits_length(piece: bytes, row_bytes: int, most: int) -> int:
    """Add up runs; none may go on in the next row (TIFF 6.0, section 9), by which most damage shows."""
    place = length = 0
    row_end = row_bytes
    while place < len(piece) and length <= most:
        head = piece[place]
        if head == NO_OPERATION:
            place += 1
            continue
        place += 2 + head if head < NO_OPERATION else 2
        length += 1 + head if head < NO_OPERATION else 257 - head
        if length > row_end:
            return DAMAGED
        if length == row_end:
            row_end += row_bytes
    return length if place == len(piece) else DAMAGED


def _lzw_length(piece: bytes, most: int) -> int:
    """Add up the strings of all codes, from one emptied table to the next; the end of the piece may stand for END."""
    place = length = tables = 0  # place: in bits
    while length <= most:
        codes = _codes(piece, place)
        stops = np.flatnonzero((codes == CLEAR) | (codes == END))
        count = int(stops[0]) if stops.size else len(codes)
        strings = _string_lengths(codes[:count].tolist())
        if strings is None or count == len(CODE_BITS):
            return DAMAGED
        length += sum(strings)
        place += int(CODE_STARTS[count] + CODE_BITS[count])
        if not stops.size:
            return length
        if codes[count] == END:
            return length if len(piece) - (place + 7) // 8 <= MOST_PADDING else DAMAGED
        if length < tables * FEWEST_BYTES_OF_TABLE:
            return DAMAGED
        tables += 1
    return length


def _codes(piece: bytes, place: int) -> NDArray[np.int64]:
    """Return the codes from a place on, in bits: all up to the end, or as many as a table can take."""
    start = place // 8
    content = piece[start : start + MOST_TABLE_BYTES]
    octets = np.frombuffer(content + b"\0\0\0", np.uint8).astype(np.int64)
    words = octets[:-2] << 16 | octets[1:-1] << 8 | octets[2:]  # the 24 bits from each byte on
    starts = place % 8 + CODE_STARTS
    count = int(np.searchsorted(starts + CODE_BITS, len(content) * 8, side="right"))
    starts, bits = starts[:count], CODE_BITS[:count]
    codes: NDArray[np.int64] = words[starts >> 3] >> (24 - bits - (starts & 7)) & ((1 << bits) - 1)
    return codes


def _string_lengths(codes: list[int]) -> list[int] | None:
    """Return the length of each code's string; None where a code is not yet in the table.

    With each code the table takes up that code's string and one byte more.
    """
    table = [1] * STRINGS_OF_EMPTY_TABLE
    try:
        for code in codes:
            table.append(table[code] + 1)
    except IndexError:
        return None
    return [taken_up - 1 for taken_up in table[STRINGS_OF_EMPTY_TABLE:]]
