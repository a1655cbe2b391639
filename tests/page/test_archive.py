"""The members of a zip archive, as the page itself finds and unpacks them."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.page.visitor import Visitor

FIND = """Promise.all((await module.picturesOf(new File([new Uint8Array(given.archive)], 'a.zip'), given.names)).map(
  async (open) => open && open().then(async (blob) => [...new Uint8Array(await blob.arrayBuffer())], String)
))"""
MEMBER = b"a cell's picture " * 100
CENTRAL_ENTRY = b"PK\x01\x02"
SIZE_AT = 24  # of a member, in its entry of the central directory
TOO_LARGE = 16 * 2**20 + 1


def packed(*members: tuple[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
        archive.comment = comment
    return written.getvalue()


def found(visitor: Visitor, archive: bytes, *names: str) -> list[Any]:
    """Of each member its bytes, why it is not unpacked, or None where it is not found."""
    answers = visitor.call("archive.js", FIND, {"archive": list(archive), "names": names})
    return [bytes(answer) if isinstance(answer, list) else answer for answer in answers]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_members_are_unpacked_as_they_were_packed(visitor: Visitor, images: list[Path], method: int) -> None:
    cells = [path.read_bytes() for path in images[:3]]
    names = ("plate/a.png", "\u00fc.png", "../\u4e2d\u6587.png")
    archive = packed(
        *zip(names, cells, strict=True), ("__MACOSX/._a.png", b""), comment=b"PK\x01\x02" * 9000, method=method
    )
    assert found(visitor, archive, *names) == cells


def test_members_of_one_name_are_told_apart_by_their_order(visitor: Visitor) -> None:
    # As old programs write names, one byte for each character; the service reads "f\u00fcr.png" there.
    archive = packed((".a.png", b"0"), ("f~r.png", b"1"), ("b.png", b"2"), ("f^r.png", b"3"))
    archive = archive.replace(b"f~r", b"f\x81r").replace(b"f^r", b"f\x81r")
    assert found(visitor, archive, "f\u00fcr.png", "f\u00fcr.png", "gone.png") == [b"1", b"3", None]


def test_no_more_is_unpacked_than_a_member_says_and_the_page_holds(visitor: Visitor) -> None:
    large = packed(("a.png", bytes(TOO_LARGE)), ("b.png", MEMBER))
    assert found(visitor, large, "a.png", "b.png") == ["Error: the page does not unpack what is so large", MEMBER]
    lying = bytearray(packed(("a.png", MEMBER)))
    struct.pack_into("<I", lying, lying.index(CENTRAL_ENTRY) + SIZE_AT, len(MEMBER) - 1)
    assert found(visitor, bytes(lying), "a.png") == ["Error: the member is larger than its archive says"]


def test_in_what_is_no_sound_archive_nothing_is_found(visitor: Visitor) -> None:
    archive = packed(("a.png", MEMBER))
    for damaged in (b"", b"PK\x03\x04 and nothing more", archive[:-1], archive[-22:], archive[:40] + archive[-22:]):
        assert found(visitor, damaged, "a.png") == [None]


def test_no_member_of_another_archive_before_it_is_taken_for_one_of_its_own(visitor: Visitor) -> None:
    archives = [packed((name, data), method=zipfile.ZIP_STORED) for name, data in (("a", b"0"), ("b", b"1"))]
    assert found(visitor, b"".join(archives), "b") == [None]
