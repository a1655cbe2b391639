"""The service as one application: its routes and errors; the routes for images and for its state are here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

import runtime
from runtime.contact_sheet import as_jpeg
from runtime.errors import UnreadableCellError
from runtime.pipeline import Cell
from runtime.preprocessing import decode_cell
from runtime.results import row_of
from runtime.schema import ImageSpec
from runtime.service import kserve_routes, openapi, page_routes, watch_routes
from runtime.service.about import about, check_identity
from runtime.service.access import Access
from runtime.service.archives import Unpacking
from runtime.service.desk import Desk, Hold, desk_of
from runtime.service.explaining import Explainer, only_image
from runtime.service.front_door import FrontDoor
from runtime.service.problems import JsonAnswer, RequestError, client_gone, fault, problem
from runtime.service.scoring import score
from runtime.service.uploads import FIELD, Upload, read_uploads
from runtime.shift import ShiftCheck

PICTURE = ImageSpec(480, 480)  # the page shows one cell about as large

routes = APIRouter()
painter = anyio.CapacityLimiter(1)  # one picture after the other: the model needs the processors more


def create_app(desk: Desk, access: Access | None = None) -> ASGIApp:
    """Return the service as an ASGI application."""
    app = FastAPI(
        title="ALLNet Edge",
        description="Tells leukemic (ALL) from healthy white blood cells. For research, not a diagnosis.",
        version=runtime.__version__,
        docs_url=None,  # their scripts come from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.desk = desk
    app.state.explainer = Explainer()
    for each in (routes, page_routes.routes, kserve_routes.routes, watch_routes.routes):
        app.include_router(each)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _fault)
    return FrontDoor(app, desk, access or Access(), {"/classify": classify})


@routes.post(
    "/classify", openapi_extra=openapi.CLASSIFY_BODY, responses=openapi.CLASSIFY_ANSWERS, response_class=JsonAnswer
)
async def classify(request: Request) -> Response:
    """Classify images: each part `files` is an image, or a zip archive of images."""
    desk = desk_of(request)
    desk.check_ready()
    check_identity(request, desk.classifier)
    with Hold(desk) as hold:
        cells = await cells_of(await read_uploads(request, desk, hold), desk)
        scored = await score(request, desk, cells)
    predictions = [desk.classifier.prediction_of(one) for one in scored]
    desk.metrics.observe_cells(predictions)
    shift = ShiftCheck(desk.classifier.manifest.typical.subjects)
    for prediction in predictions:
        shift.add(prediction)
    return JsonAnswer(
        {
            "results": [row_of(prediction) for prediction in predictions],
            "warnings": [shift.warning] if shift.warning else [],
            "appearances": vars(shift.found),
        }
    )


@routes.post(
    "/explain", openapi_extra=openapi.EXPLAIN_BODY, responses=openapi.EXPLAIN_ANSWERS, response_class=JsonAnswer
)
async def explain(request: Request) -> Response:
    """Say which places of one image the answer comes from."""
    desk = desk_of(request)
    desk.check_ready()
    check_identity(request, desk.classifier)
    with Hold(desk) as hold:
        image = only_image(await read_uploads(request, desk, hold))
        read = partial(image.reading, desk.classifier.read)
        return JsonAnswer(await request.app.state.explainer.answer(desk, read))


@routes.post("/picture", openapi_extra=openapi.PICTURE_BODY, responses=openapi.PICTURE_ANSWERS, response_class=Response)
async def picture(request: Request) -> Response:
    """Return one image as a small JPEG file, which every browser shows: few of them show a TIFF file."""
    desk = desk_of(request)
    with Hold(desk) as hold:
        image = only_image(await read_uploads(request, desk, hold))
        content = await anyio.to_thread.run_sync(drawn, image, limiter=painter)
    return Response(content, media_type="image/jpeg")


@routes.get("/healthz", responses=openapi.STATE_ANSWERS, response_class=JsonAnswer)
async def healthz(request: Request) -> Response:
    """Say whether the service is alive; if not, only a restart can help."""
    desk_of(request).check_alive()
    return JsonAnswer({"status": "alive"})


@routes.get("/readiness", responses=openapi.STATE_ANSWERS, response_class=JsonAnswer)
async def readiness(request: Request) -> Response:
    """Say whether cells are taken: from when the model has passed its self-test until the service is to stop."""
    desk_of(request).check_ready()
    return JsonAnswer({"status": "ready"})


@routes.get(
    "/metrics", responses=openapi.text_answers("text/plain", "counters for Prometheus"), response_class=Response
)
async def metrics(request: Request) -> Response:
    """Return the counters in Prometheus' text format."""
    return Response(desk_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@routes.get("/about", responses=openapi.ABOUT_ANSWERS, response_class=JsonAnswer)
async def about_service(request: Request) -> Response:
    """Say what answers: the bundle, its threshold and figures, and the limits of a request."""
    desk = desk_of(request)
    return JsonAnswer(about(desk.classifier, desk.limits, watches=desk.feed is not None))


@routes.get("/model-card", responses=openapi.text_answers("text/markdown", "the model's card"), response_class=Response)
async def model_card(request: Request) -> Response:
    """Return the card of the model, in Markdown."""
    return Response(desk_of(request).classifier.bundle.card, media_type="text/markdown; charset=utf-8")


def drawn(image: Upload) -> bytes:
    """Return the frame that the model sees of an image as a JPEG file; raise RequestError where it cannot be read."""
    try:
        return as_jpeg(decode_cell(image.data(), PICTURE))
    except UnreadableCellError as error:
        raise RequestError(422, f"expected an image that can be read, found: {error}") from error


async def cells_of(uploads: Sequence[Upload], desk: Desk) -> list[Cell]:
    """Return the cells of a request in the order sent, an archive's members in its place."""
    read, limits = desk.classifier.read, desk.limits
    unpacking = Unpacking(limits)
    cells: list[Cell] = []
    for upload in uploads:
        if upload.is_archive:
            most = limits.request_files - len(cells)
            members = await anyio.to_thread.run_sync(upload.cells, read, unpacking, most)
            if not members:  # its missing rows would go unnoticed in the answer
                raise RequestError(
                    400,
                    f"expected one image or more in the field {FIELD!r}, found none in archives such as "
                    f"{upload.name[:100]!r}; leave it out",
                )
            cells += members
        else:
            cells.append(Cell(upload.name, partial(upload.reading, read)))
    if len(cells) > limits.request_files:
        raise RequestError(413, f"expected at most {limits.request_files} files, found more; send fewer at a time")
    return cells


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    return problem(request.url.path, error)


async def _no_route(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    found = f"{request.method} {request.url.path}"[:200]
    return problem(
        request.url.path,
        RequestError(
            error.status_code, f"expected one of the requests in /openapi.json, found {found!r}", error.headers
        ),
    )


async def _fault(request: Request, _: Exception) -> Response:
    return problem(request.url.path, fault())


async def _gone(_: Request, error: Exception) -> Response:
    return client_gone(error)
