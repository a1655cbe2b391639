"""Reads the members of a zip archive that was sent: in memory, one at a time, never trusting what it says of itself."""

from __future__ import annotations

import io
import threading
import zipfile
from functools import partial

from runtime.errors import UnreadableCellError, one_line
from runtime.inputs import is_companion
from runtime.pipeline import Cell
from runtime.reading import CellReader, Reading
from runtime.service.limits import Limits
from runtime.service.problems import RequestError

LOCAL_FILE = b"PK\x03\x04"  # how an archive begins
EMPTY = b"PK\x05\x06"  # and one without members
SIGNATURE_BYTES = len(LOCAL_FILE)
CENTRAL_ENTRY = b"PK\x01\x02"
# An LZMA member names the memory that unpacking it takes, up to 4 GB.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
IS_ENCRYPTED = 0x1
IS_UTF8 = 0x800
DOS_NAMES = "cp437"  # as zipfile reads a name that does not say how it is written
MACOS_FOLDER = "__MACOSX"  # what macOS adds to its archives, with a file for each image
ENTRIES_FOR_AN_IMAGE = 4  # at most, on average over an archive: the image, what macOS adds, folders


def is_archive(data: bytes) -> bool:
    """Say whether a file is a zip archive, by its first bytes."""
    return data[:SIGNATURE_BYTES] in (LOCAL_FILE, EMPTY)


class Unpacking:
    """What all archives of one request may unpack to; their members are counted by several threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.unpacked_bytes
        self._counting = threading.Lock()

    def count(self, size: int) -> None:
        """Count a member before it is unpacked; raise UnreadableCellError where that is too much."""
        if size > self._limits.file_bytes:
            raise UnreadableCellError(f"expected at most {self._limits.file_bytes} bytes unpacked, found {size}")
        with self._counting:
            self._left -= size
            is_too_much = self._left < 0
        if is_too_much:
            raise UnreadableCellError(
                f"the archive unpacks to more than {self._limits.unpacked_bytes} bytes, with those sent before it; "
                "send it in parts"
            )


def cells_of_archive(name: str, data: bytes, read: CellReader, unpacking: Unpacking, most: int) -> list[Cell]:
    """Return the images of an archive in its order, each as `name/member`; they are unpacked when they are read.

    Hidden files and those that lie beside images are left out, as in a folder.

    Raises RequestError where it cannot be read, or holds more than `most` images.
    """
    too_many = RequestError(
        413, f"expected at most {most} more images in {name[:100]!r}, found more; send fewer at a time"
    )
    # Opening it makes an object of each entry, and a file of 60 MB can hold a million.
    if data.count(CENTRAL_ENTRY) > ENTRIES_FOR_AN_IMAGE * most:
        raise too_many
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile raises half a dozen types on damaged archives
        raise RequestError(
            400, f"expected a zip archive that can be read at {name[:100]!r}, found: {one_line(error)}"
        ) from error
    images = [info for info in archive.infolist() if not (info.is_dir() or is_left_out(info.filename))]
    if len(images) > most:
        raise too_many
    members = _Members(archive, read, unpacking)
    return [Cell(f"{name}/{name_of(info)}", partial(members.read_cell, info)) for info in images]


def name_of(member: zipfile.ZipInfo) -> str:
    """Return a member's name: macOS and Linux's `zip` write names in UTF-8 and do not say so."""
    if member.flag_bits & IS_UTF8:
        return member.filename
    try:
        return member.filename.encode(DOS_NAMES).decode()
    except UnicodeError:
        return member.filename


def is_left_out(member: str) -> bool:
    """Say whether a member is not meant as an image; a path trick does not hide one."""
    parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return is_companion("/".join(parts)) or parts[:1] == [MACOS_FOLDER]


class _Members:
    """The members of an archive, read by several threads."""

    def __init__(self, archive: zipfile.ZipFile, read: CellReader, unpacking: Unpacking) -> None:
        self._archive = archive
        self._read = read
        self._unpacking = unpacking
        self._opening = threading.Lock()  # ZipFile counts its open members without one

    def read_cell(self, info: zipfile.ZipInfo) -> Reading:
        """Unpack and read one member; what is wrong with it is in the result."""
        try:
            data = self._unpacked(info)
        except UnreadableCellError as error:
            return Reading(None, str(error))
        return self._read.of_data(data)

    def _unpacked(self, info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & IS_ENCRYPTED:
            raise UnreadableCellError("expected a member that can be read, found it encrypted")
        if info.compress_type not in METHODS:
            raise UnreadableCellError(
                f"expected a member that is stored or deflated, found compression {info.compress_type}"
            )
        self._unpacking.count(info.file_size)  # and no more than that is ever unpacked of it
        try:
            data = self._read_out(info)
        except Exception as error:  # zipfile raises half a dozen types on damaged members
            raise UnreadableCellError(f"damaged member of an archive: {one_line(error)}") from error
        if len(data) > info.file_size:
            raise UnreadableCellError(f"expected {info.file_size} bytes as the archive says, found more")
        if is_archive(data):
            raise UnreadableCellError("expected an image, found an archive inside the archive")
        return data

    def _read_out(self, info: zipfile.ZipInfo) -> bytes:
        with self._opening:
            member = self._archive.open(info)
        try:
            return member.read(info.file_size + 1)
        finally:
            with self._opening:
                member.close()
