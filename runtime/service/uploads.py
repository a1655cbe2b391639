"""Reads the files of a multipart request while they come, and refuses what is too much before it is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from runtime.errors import one_line
from runtime.pipeline import Cell
from runtime.reading import CellReader, Reading
from runtime.service.archives import SIGNATURE_BYTES, Unpacking, cells_of_archive, is_archive
from runtime.service.bodies import take_body
from runtime.service.desk import Desk, Hold
from runtime.service.limits import Limits
from runtime.service.problems import RequestError

FIELD = "files"
FORM = "multipart/form-data"
MOST_TYPE_BYTES = 1000  # of a content type
MOST_PARAMETERS = 8  # of a part's disposition
# A program may escape a quotation mark and a backslash; browsers send a lone backslash as it is.
PARAMETER = re.compile(rb';[ \t]*([\w*-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))[ \t]*', re.DOTALL)
ESCAPED = re.compile(rb'\\(["\\])')
UNNAMED = "unnamed"  # the label of a part without a file's name
logging.getLogger("python_multipart").addHandler(logging.NullHandler())
logging.getLogger("python_multipart").propagate = False  # each damaged request would be a line of the log


@dataclass(frozen=True)
class Upload:
    """One file as it was sent."""

    name: str  # a label; never opened
    pieces: tuple[bytes, ...]  # joined by the reader: then it is still in that CPU's cache
    is_archive: bool

    def data(self) -> bytes:
        """Return its bytes."""
        return b"".join(self.pieces)

    def cells(self, read: CellReader, unpacking: Unpacking, most: int) -> list[Cell]:
        """Return the images of an archive, at most so many; raise RequestError where that cannot be done."""
        return cells_of_archive(self.name, self.data(), read, unpacking, most)

    def reading(self, read: CellReader) -> Reading:
        """Read it as the image of a cell."""
        return read.of_data(self.data())


async def read_uploads(request: Request, desk: Desk, hold: Hold) -> list[Upload]:
    """Return the files of a request, in the order sent; raise RequestError where it is not what it should be."""
    form = UploadForm(boundary_of(request.headers.get("content-type", "")), desk.limits)
    try:
        await take_body(request, desk, hold, form.feed)
        return form.files()
    finally:
        form.close()


def boundary_of(content_type: str) -> bytes:
    """Return what stands between the parts of a form; raise RequestError where the body is no form."""
    kind, options = parse_options_header(content_type[:MOST_TYPE_BYTES])
    if kind.decode("latin-1").lower() != FORM:
        raise RequestError(415, f"expected {FORM}, found {content_type[:100]!r}; send each image in a field {FIELD!r}")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise RequestError(400, f"expected a boundary in the content type {FORM}, found none; let the client set it")
    return boundary


def parameters_of(disposition: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a part's disposition, such as its field's and its file's name."""
    found: dict[bytes, bytes] = {}
    start = disposition.find(b";")
    while start >= 0 and len(found) < MOST_PARAMETERS and (match := PARAMETER.match(disposition, start)):
        name, quoted, plain = match.groups()
        found.setdefault(name.lower(), plain if quoted is None else ESCAPED.sub(rb"\1", quoted))
        start = match.end()
    return found


def file_name_of(parameters: dict[bytes, bytes]) -> str:
    """Return the name of a part's file.

    Where it goes beyond ASCII, .NET and older clients of Python send it as `filename*`, alone or beside a name that few
    could read.
    """
    charset, _, encoded = parameters.get(b"filename*", b"").partition(b"'")
    name = unquote_to_bytes(encoded.partition(b"'")[2]) if charset.lower() == b"utf-8" else b""  # a language is between
    return (name or parameters.get(b"filename", b"")).decode(errors="replace") or UNNAMED


class UploadForm:
    """Puts the parts of a form together; a part is a file of the field FIELD."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self._limits = limits
        self._files: list[Upload] = []
        self._is_complete = False
        self._begin_part()
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_head,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        with malformed():
            self._parser = MultipartParser(
                boundary,
                callbacks,  # type: ignore[arg-type]  # its type names each key
                max_header_size=limits.header_bytes,
            )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; raise RequestError for what is not such a form, or too much."""
        with malformed():
            self._parser.write(chunk)

    def close(self) -> None:
        """Let go of the parser, which refers to this form: both and the files would wait for the garbage collector."""
        del self._parser

    def files(self) -> list[Upload]:
        """Return the files; raise RequestError where the form was cut off or holds none."""
        if not self._is_complete:
            raise RequestError(400, "expected a form that ends with its last boundary, found it cut off; send it again")
        if not self._files:
            raise RequestError(400, f"expected one image or more in the field {FIELD!r}, found none; add one")
        return self._files

    def _begin_part(self) -> None:
        self._name = UNNAMED
        self._chunks: list[bytes] = []
        self._size = 0
        self._first_bytes = b""
        self._header_name = self._header_value = self._disposition = b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_head(self) -> None:
        parameters = parameters_of(self._disposition)
        field = parameters.get(b"name", b"").decode(errors="replace")
        if field != FIELD:
            raise RequestError(
                400, f"expected the field {FIELD!r}, found {field[:100]!r}; send each image in {FIELD!r}"
            )
        if len(self._files) >= self._limits.request_files:
            raise RequestError(
                413, f"expected at most {self._limits.request_files} files, found more; send fewer at a time"
            )
        self._name = file_name_of(parameters)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])
        self._size += end - start
        if len(self._first_bytes) < SIGNATURE_BYTES:
            self._first_bytes += data[start : min(start + SIGNATURE_BYTES, end)]
        if self._size > self._limits.file_bytes and not is_archive(self._first_bytes):
            raise RequestError(
                413, f"expected files of at most {self._limits.file_bytes} bytes, found a larger one; leave it out"
            )

    def _end_part(self) -> None:
        self._files.append(Upload(self._name, tuple(self._chunks), is_archive(self._first_bytes)))

    def _end(self) -> None:
        self._is_complete = True


@contextmanager
def malformed() -> Iterator[None]:
    """Turn the parser's errors into ours."""
    try:
        yield
    except FormParserError as error:
        raise RequestError(400, f"expected {FORM} as its standard says, found: {one_line(error)}") from error
