"""Finds damage in a JPEG file that the decoder keeps silent about: it fills what it misses with grey.

A file is SOI and then segments, each a marker, its length and its content; SOS is followed by a scan, runs of
compressed pixels in which a byte 0xFF stands only before 0x00, with restart markers between them; EOI ends the file
(ITU-T T.81, annex B). There is no checksum, but a run of which a sector was lost hardly ever holds as many pixels as
before: the decoder then lacks compressed bytes or leaves some over. A single wrong byte often passes: it changes one
block, or the brightness of all that follow, and leaves their number as it was. So does, one time in four, a sector
of zeros in a progressive file: what a scan before the last one leaves over does not show.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from PIL import Image

# A marker behind the bytes 0xFF that may fill the file up before it; 0xFF 0x00 is a compressed byte.
MARKER = re.compile(rb"\xff+([^\x00\xff])")
RST0, SOI, EOI, SOS = 0xD0, 0xD8, 0xD9, 0xDA
# DHT, DQT, DNL, DRI, APPn and COM, which may stand between two scans
BETWEEN_SCANS = frozenset({0xC4, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE, SOS})
RANDOM_BYTES = random.Random(0).randbytes(320).replace(b"\xff", b"\x7f")  # no picture compresses to these
FILLER, LAST_BYTES = RANDOM_BYTES[:64], RANDOM_BYTES[64:]
CHANGED_BYTES = 8  # at the end of a scan: more than an encoder leaves over, and some blocks of one color
MOST_SCANS = 100  # encoders write about ten; each goes over all pixels, however few bytes it has
MOST_RUNS = 2**19  # twice the blocks of the largest picture: restart markers alone must not fill the memory


def excess_of_scans(data: bytes) -> str:
    """Say that a file has so many scans that decoding it would take minutes, or days; empty where it does not."""
    scans = data.count(bytes([0xFF, SOS]))
    return f"expected at most {MOST_SCANS} scans, found {scans}" if scans > MOST_SCANS else ""


def scan_damage(data: bytes, image: Image.Image) -> str:
    """Say what is wrong with the compressed pixels of a JPEG file that decodes to `image`; empty where nothing is.

    Decodes the file twice more: with more compressed bytes at the end of each run, which must not matter, and with
    other last bytes, which must. One replacement may by chance give the same pixels, black ones above all; as many as
    there are do not.
    """
    runs = list(islice(_runs(data), MOST_RUNS))
    if not runs or len(runs) == MOST_RUNS or runs[-1].end < 0:
        return "a marker stands where compressed pixels should"
    pixels = image.tobytes()
    if _decoded(_with_filler(data, runs)) != pixels:
        return "compressed pixels are missing"
    if all(_decoded(other) == pixels for other in _with_another_end(data, runs[-1].end)):
        return "compressed pixels are left over"
    return ""


class _Run(NamedTuple):
    """Compressed pixels up to a restart marker or the end of their scan."""

    end: int  # where its last byte has been; -1: a marker is out of place, or none ends the file
    restart: int  # the restart marker that ends it, or would be the next one
    ends_scan: bool


def _runs(data: bytes) -> Iterator[_Run]:
    place, restarts, in_scan = len(b"\xff\xd8"), 0, False
    while found := MARKER.search(data, place):
        marker, restart = found[1][0], RST0 + restarts % 8
        if in_scan:
            yield _Run(found.start(), restart, ends_scan=marker != restart)
        elif found.start() != place:
            break
        if in_scan and marker == restart:
            restarts += 1
            place = found.end()
            continue
        if marker == EOI:
            return
        if (in_scan and marker not in BETWEEN_SCANS) or RST0 <= marker <= SOI:
            break
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        in_scan, restarts = marker == SOS, 0
    yield _Run(-1, RST0, ends_scan=True)


def _with_filler(data: bytes, runs: list[_Run]) -> bytes:
    """Return the file with random bytes behind each run, and with one run more, of such bytes, behind each scan."""
    parts, place = [], 0
    for run in runs:
        one_more = bytes([0xFF, run.restart]) + FILLER if run.ends_scan else b""
        parts += [data[place : run.end], FILLER, one_more]
        place = run.end
    return b"".join([*parts, data[place:]])


def _with_another_end(data: bytes, end: int) -> Iterator[bytes]:
    """Yield copies of the file in which the last compressed bytes before `end` are others."""
    for start in range(0, len(LAST_BYTES), CHANGED_BYTES):
        yield data[: end - CHANGED_BYTES] + LAST_BYTES[start : start + CHANGED_BYTES] + data[end:]


def _decoded(data: bytes) -> bytes | None:
    """Return the pixels of a JPEG file; None where it has become one that is refused."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.tobytes()
    except Exception:  # as many types as in preprocessing; what is refused is not the same picture
        return None
