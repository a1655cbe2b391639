"""The routes of the page for people."""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePath

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
MEDIA_TYPES = {  # not from the system's table, in which a script may be a text
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

routes = APIRouter()


@routes.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page for people."""
    return _page_file(INDEX)


@routes.get("/static/{name:path}", include_in_schema=False)
async def static(name: str) -> Response:
    """Return a file of the page."""
    return _page_file(name)


def _page_file(name: str) -> Response:
    """Return a file of the page's folder; a name that is not one of its own is never put into a path."""
    content = page_files().get(name)
    if content is None:
        raise HTTPException(404)
    return Response(content, media_type=MEDIA_TYPES[PurePath(name).suffix])


@cache
def page_files() -> dict[str, bytes]:
    """Return the content of the page's files by their path inside its folder; one version of all, read once."""
    files = (file for file in PAGE.rglob("*") if file.suffix in MEDIA_TYPES)
    return {file.relative_to(PAGE).as_posix(): file.read_bytes() for file in files}
