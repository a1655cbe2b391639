"""The routes by which the page follows a watched folder's database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from runtime.errors import OutputError
from runtime.schema import SELF_TEST_TOLERANCES
from runtime.service import openapi
from runtime.service.desk import Hold, desk_of
from runtime.service.problems import JsonAnswer, RequestError
from runtime.service.watch_feed import LARGEST_ROW, MOST_ROWS, NoPictureError, WatchFeed

Answer = TypeVar("Answer")
RowNumber = Annotated[str, Path(json_schema_extra=openapi.ROW_NUMBER)]  # a text: we refuse it in our own words
AWAY_RETRY_S = 2
READERS = 2  # at a time: the model needs the processors more

routes = APIRouter()
readers = anyio.CapacityLimiter(READERS)


@routes.get(
    "/watch/rows",
    openapi_extra=openapi.WATCH_PARAMETERS,
    responses=openapi.WATCH_ANSWERS,
    response_class=JsonAnswer,
)
async def rows(request: Request) -> Response:
    """Return the watched folder's newest rows after a row that is known, and counts of all rows."""
    after = number_of(request, "after", 0, LARGEST_ROW, 0)
    limit = number_of(request, "limit", 1, MOST_ROWS, MOST_ROWS)
    feed = feed_of(request)
    news = await asked(feed.news, after, limit)
    return JsonAnswer({**vars(news), "pictures": feed.has_pictures})


@routes.get("/watch/pictures/{row}", responses=openapi.WATCH_PICTURE_ANSWERS, response_class=Response)
async def picture(request: Request, row: RowNumber) -> Response:
    """Return the cell of one row of the watched folder, as a small JPEG file."""
    content = await asked(feed_of(request).picture, parsed_number("row", row, 1, LARGEST_ROW))
    return Response(content, media_type="image/jpeg")


@routes.get("/watch/explanations/{row}", responses=openapi.WATCH_EXPLANATION_ANSWERS, response_class=JsonAnswer)
async def explanation(request: Request, row: RowNumber) -> Response:
    """Say which places of the cell of one row the answer comes from."""
    cell = await asked(feed_of(request).cell, parsed_number("row", row, 1, LARGEST_ROW))
    desk = desk_of(request)
    desk.check_ready()
    classifier = desk.classifier
    served = classifier.bundle.content_sha256
    if cell.bundle != served:
        raise RequestError(
            409,
            f"expected a row of the bundle that is served here, {served[:12]}, found one of {cell.bundle[:12]}; serve "
            "that one to see what its answer comes from",
        )
    with Hold(desk) as hold:
        hold.add(len(cell.data))
        read = partial(classifier.read.of_data, cell.data)
        found = await request.app.state.explainer.answer(desk, read)
    if cell.p_all is None or abs(found["p_all"] - cell.p_all) > SELF_TEST_TOLERANCES[classifier.precision]:
        raise RequestError(
            409,
            f"expected the row's answer, p_all {cell.p_all} in {cell.precision}, found {found['p_all']} in "
            f"{classifier.precision}, which is served here; serve with --precision {cell.precision}",
        )
    return JsonAnswer(found)


async def asked(question: Callable[..., Answer], *arguments: int) -> Answer:
    """Return what the database and the folder answer; raise RequestError where they do not."""
    try:
        return await run_sync(question, *arguments, limiter=readers)
    except OutputError as error:
        raise RequestError(503, f"cannot read the database: {error}", {"Retry-After": str(AWAY_RETRY_S)}) from error
    except NoPictureError as error:
        raise RequestError(404, str(error)) from error


def feed_of(request: Request) -> WatchFeed:
    """Return what reads the database; raise RequestError where the service follows none."""
    feed = desk_of(request).feed
    if feed is None:
        raise RequestError(
            404, "expected a service that follows a watched folder, found none; start it with --watch-db FILE"
        )
    return feed


def number_of(request: Request, name: str, least: int, most: int, default: int) -> int:
    """Return a number of the query; raise RequestError where it is not one."""
    given = request.query_params.getlist(name)
    if len(given) > 1:
        raise RequestError(400, f"expected one {name}, found {len(given)}; send it once")
    return parsed_number(name, given[0], least, most) if given else default


def parsed_number(name: str, text: str, least: int, most: int) -> int:
    """Return a whole number within limits; raise RequestError where it is not one."""
    number = int(text[:20]) if text.isascii() and text.isdecimal() else -1
    if not least <= number <= most:
        raise RequestError(400, f"expected {name} to be a whole number from {least} to {most}, found {text[:50]!r}")
    return number
