"""The routes of the service, and what each answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any

import anyio
import numpy as np
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

import runtime
from runtime.classifier import Classifier
from runtime.pipeline import NO_NUMBER, Cell, Scored
from runtime.results import row_of
from runtime.service import openapi, watch_routes
from runtime.service.about import about, answerer_identity
from runtime.service.access import Access
from runtime.service.archives import cells_of_archive
from runtime.service.bodies import read_body
from runtime.service.desk import Desk, Hold
from runtime.service.explaining import Explainer, only_image
from runtime.service.front_door import FrontDoor
from runtime.service.kserve import JSON_LENGTH_HEADER, VERSION, Inference, answer, metadata, parse_inference
from runtime.service.problems import JsonAnswer, RequestError, client_gone, fault, problem
from runtime.service.uploads import FIELD, Upload, read_uploads
from runtime.shift import ShiftCheck

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
MEDIA_TYPES = {  # not from the system's table, in which a script may be a text
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
FEW_CELLS = 32  # which are scored before it is worth finding out whether the client still waits

routes = APIRouter()


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
    app.include_router(routes)
    app.include_router(watch_routes.routes)
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
        return JsonAnswer(await request.app.state.explainer.answer(desk.classifier, read))


@routes.get("/healthz", responses=openapi.STATE_ANSWERS, response_class=JsonAnswer)
async def healthz(request: Request) -> Response:
    """Say whether the service is alive; if not, only a new start can help."""
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


@routes.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page for people."""
    return _page_file(INDEX)


@routes.get("/static/{name:path}", include_in_schema=False)
async def static(name: str) -> Response:
    """Return a file of the page."""
    return _page_file(name)


@routes.get("/v2", responses=openapi.KSERVE_ANSWERS, response_class=JsonAnswer)
async def kserve_server() -> Response:
    """Describe the server."""
    return JsonAnswer({"name": "allnet-edge", "version": runtime.__version__, "extensions": ["binary_tensor_data"]})


@routes.get("/v2/health/live", responses=openapi.KSERVE_STATE_ANSWERS, response_class=JsonAnswer)
async def kserve_live(request: Request) -> Response:
    """Say whether the service is alive."""
    desk_of(request).check_alive()
    return JsonAnswer({"live": True})


@routes.get("/v2/health/ready", responses=openapi.KSERVE_STATE_ANSWERS, response_class=JsonAnswer)
async def kserve_ready(request: Request) -> Response:
    """Say whether the service takes requests."""
    desk_of(request).check_ready()
    return JsonAnswer({"ready": True})


@routes.get("/v2/models/{name}", responses=openapi.KSERVE_ANSWERS, response_class=JsonAnswer)
@routes.get("/v2/models/{name}/versions/{version}", responses=openapi.KSERVE_ANSWERS, response_class=JsonAnswer)
async def kserve_model(request: Request, name: str, version: str = VERSION) -> Response:
    """Describe the model's input and output."""
    classifier = classifier_named(request, name, version)
    return JsonAnswer(metadata(name, classifier.manifest.image))


@routes.get("/v2/models/{name}/ready", responses=openapi.KSERVE_STATE_ANSWERS, response_class=JsonAnswer)
@routes.get(
    "/v2/models/{name}/versions/{version}/ready", responses=openapi.KSERVE_STATE_ANSWERS, response_class=JsonAnswer
)
async def kserve_model_ready(request: Request, name: str, version: str = VERSION) -> Response:
    """Say whether the model takes requests."""
    classifier_named(request, name, version)
    desk_of(request).check_ready()
    return JsonAnswer({"name": name, "ready": True})


@routes.post(
    "/v2/models/{name}/infer",
    openapi_extra=openapi.INFER_BODY,
    responses=openapi.INFER_ANSWERS,
    response_class=JsonAnswer,
)
@routes.post(
    "/v2/models/{name}/versions/{version}/infer",
    openapi_extra=openapi.INFER_BODY,
    responses=openapi.INFER_ANSWERS,
    response_class=JsonAnswer,
)
async def kserve_infer(request: Request, name: str, version: str = VERSION) -> Response:
    """Return the probabilities of cells that are sent as pixels."""
    desk = desk_of(request)
    classifier = classifier_named(request, name, version)
    desk.check_ready()
    check_identity(request, classifier)
    json_length = request.headers.get(JSON_LENGTH_HEADER)
    with Hold(desk) as hold:
        body = await read_body(request, desk, hold)
        inference = parse_inference(body, json_length, classifier.manifest.image, desk.limits)
        content, headers = answer(name, inference, await probabilities(request, desk, inference))
    return Response(content, headers=headers)


def desk_of(request: Request) -> Desk:
    """Return the one object behind all routes."""
    desk: Desk = request.app.state.desk
    return desk


def check_identity(request: Request, classifier: Classifier) -> None:
    """Raise RequestError where the client was told of another model or threshold, as a page that is still open."""
    wanted = request.headers.get("if-match", "*")
    if wanted not in ("*", f'"{answerer_identity(classifier)}"'):
        raise RequestError(
            412,
            "expected the model and threshold that /about told, found that the service was started with others since; "
            "load the page, or /about, again",
        )


def classifier_named(request: Request, name: str, version: str) -> Classifier:
    """Return the classifier; raise RequestError where the name or the version is another."""
    classifier = desk_of(request).classifier
    served = classifier.bundle.served_name(classifier.precision)
    if (name, version) != (served, VERSION):
        raise RequestError(
            404, f"expected the model {served}, version {VERSION}, found {name[:100]!r}, version {version[:100]!r}"
        )
    return classifier


async def cells_of(uploads: Sequence[Upload], desk: Desk) -> list[Cell]:
    """Return the cells of a request in the order sent, the members of an archive in its place."""
    read, limits = desk.classifier.read, desk.limits
    cells: list[Cell] = []
    for upload in uploads:
        if upload.is_archive:
            most = limits.request_files - len(cells)
            cells += await anyio.to_thread.run_sync(cells_of_archive, upload.name, upload.data(), read, limits, most)
        else:
            cells.append(Cell(upload.name, partial(upload.reading, read)))
    if len(cells) > limits.request_files:
        raise RequestError(413, f"expected at most {limits.request_files} files, found more; send fewer at a time")
    if not cells:
        raise RequestError(400, f"expected one image or more in the field {FIELD!r}, found none in archives; add one")
    return cells


async def score(request: Request, desk: Desk, cells: Sequence[Cell]) -> list[Scored]:
    """Score the cells of a request; where they are many and its client goes away, drop those that still wait."""
    if len(cells) <= FEW_CELLS:
        return await desk.score(cells)
    scoring = asyncio.ensure_future(desk.score(cells))
    leaving = asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait({scoring, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise ClientDisconnect
        return scoring.result()
    finally:
        scoring.cancel()
        leaving.cancel()


async def _leave(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def probabilities(request: Request, desk: Desk, inference: Inference) -> Any:
    """Return p_all of each cell, float32 [N]; raise RequestError where the model gives no number for one."""
    scored = await score(request, desk, inference.to_score())
    for place, one in enumerate(scored):
        if one.p_all is None:
            raise RequestError(422, f"expected cells that the model can judge, found cell {place}: {NO_NUMBER}")
    return np.array([one.p_all for one in scored], np.float32)


def _page_file(name: str) -> Response:
    """Return a file of the page's folder; a name that is none of its own is never put into a path."""
    content = page_files().get(name)
    if content is None:
        raise HTTPException(404)
    return Response(content, media_type=MEDIA_TYPES[PurePath(name).suffix])


@cache
def page_files() -> dict[str, bytes]:
    """Return the content of the page's files by their path inside its folder; one version of all, read once."""
    files = (file for file in PAGE.rglob("*") if file.suffix in MEDIA_TYPES)
    return {file.relative_to(PAGE).as_posix(): file.read_bytes() for file in files}


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
