"""The routes of the open inference protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

import runtime
from runtime.classifier import Classifier
from runtime.pipeline import NO_NUMBER
from runtime.service import openapi
from runtime.service.about import check_identity
from runtime.service.bodies import read_body
from runtime.service.desk import Desk, Hold, desk_of
from runtime.service.kserve import JSON_LENGTH_HEADER, VERSION, Inference, answer, metadata, parse_inference
from runtime.service.problems import JsonAnswer, RequestError
from runtime.service.scoring import score

routes = APIRouter()


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


def classifier_named(request: Request, name: str, version: str) -> Classifier:
    """Return the classifier; raise RequestError where the name or the version is another."""
    classifier = desk_of(request).classifier
    served = classifier.bundle.served_name(classifier.precision)
    if (name, version) != (served, VERSION):
        raise RequestError(
            404, f"expected the model {served}, version {VERSION}, found {name[:100]!r}, version {version[:100]!r}"
        )
    return classifier


async def probabilities(request: Request, desk: Desk, inference: Inference) -> Any:
    """Return p_all of each cell, float32 [N]; raise RequestError where the model gives no number for one."""
    scored = await score(request, desk, inference.to_score())
    for place, one in enumerate(scored):
        if one.p_all is None:
            raise RequestError(422, f"expected cells that the model can judge, found cell {place}: {NO_NUMBER}")
    return np.array([one.p_all for one in scored], np.float32)
