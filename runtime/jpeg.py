"""Finds damage in a JPEG file that the decoder keeps silent about: it fills what it misses with grey.

A file is SOI and then segments, each a marker, its length and its content; SOS is followed by a scan, compressed
pixels in which a byte 0xFF stands only before 0x00 and in restart markers, and EOI ends the file (ITU-T T.81, annex B).
There is no checksum: damage to the values alone, with as many bits as before, cannot be told from a picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# A marker behind the bytes 0xFF that may fill the file up before it; 0xFF 0x00 is a compressed byte.
MARKER = re.compile(rb"\xff+([^\x00\xff])")
RST0, RST7, SOI, EOI, SOS = 0xD0, 0xD7, 0xD8, 0xD9, 0xDA
# DHT, DQT, DNL, DRI, APPn and COM, which may stand between two scans
BETWEEN_SCANS = frozenset({0xC4, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE, SOS})
# Compressed bytes that no picture of one colour has; a decoder passes over them where it needs no more.
FILLER = bytes.fromhex("5b16e92d7ac3418fb6") * 8


def with_filled_scans(data: bytes) -> bytes | None:
    """Return the file with FILLER at the end of each run of compressed bytes; None where its markers are out of place.

    To a decoder it is the same picture if every run holds all the pixels that it should, and another if it lacks some.
    """
    ends = list(_ends_of_runs(data))
    if not ends or ends[-1] < 0:
        return None
    parts = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    return FILLER.join(parts)


def _ends_of_runs(data: bytes) -> Iterator[int]:
    """Yield where each run of compressed bytes ends, and at last -1 where a marker is out of place."""
    place, restarts, in_scan = len(b"\xff\xd8"), 0, False
    while found := MARKER.search(data, place):
        marker = found[1][0]
        if in_scan:
            yield found.start()
        elif found.start() != place:
            break
        if in_scan and marker == RST0 + restarts % 8:
            restarts += 1
            place = found.end()
            continue
        if marker == EOI:
            return
        if (in_scan and marker not in BETWEEN_SCANS) or RST0 <= marker <= SOI:
            break
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        in_scan, restarts = marker == SOS, 0
    yield -1
