"""What /openapi.json says of requests and answers that FastAPI cannot read from the code: forms, rows and errors."""

from __future__ import annotations

from typing import Any

from runtime.schema import CLASSES, INPUT_NAME, OUTPUT_NAME
from runtime.service.kserve import INPUT_TYPE, JSON_LENGTH_HEADER, OUTPUT_TYPE
from runtime.service.uploads import FIELD, FORM
from runtime.service.watch_feed import LARGEST_ROW, MOST_ROWS
from runtime.shift import FEWEST_CELLS, MEASURES

Schema = dict[str, Any]


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}


def _answers(schema: Schema, description: str, key: str, codes: dict[int, str]) -> dict[int | str, Schema]:
    problem = {"application/json": {"schema": _object({key: {"type": "string"}})}}
    return {
        200: {"description": description, "content": {"application/json": {"schema": schema}}},
        **{code: {"description": meaning, "content": problem} for code, meaning in codes.items()},
    }


def _jpeg_answers(codes: dict[int, str]) -> dict[int | str, Schema]:
    answers = _answers({}, "the cell", "detail", codes)
    answers[200]["content"] = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
    return answers


ALWAYS = {
    400: "a request that breaks the rules of HTTP or of this service",
    401: "no token, or another one",
    403: "another site's page, or another name of this service",
    404: "no such address",
    405: "another method",
}
LATER = {503: "not ready, stopping, or too much to do: try again after Retry-After seconds"}
SENT = {
    **ALWAYS,
    **LATER,
    408: "too slow",
    413: "too much",
    415: "another media type",
}
ASKED = {**SENT, 412: "another model or threshold than that of If-Match"}
ROW = _object(
    {
        "path": {"type": "string", "description": "the name as sent; of a member, archive.zip/member"},
        "label": {"type": "string", "enum": ["", *CLASSES]},
        "p_all": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "probability of ALL"},
        "status": {"type": "string", "enum": ["ok", "review", "error"]},
        "reason": {"type": "string"},
        "seconds": {"type": "number", "minimum": 0},
    }
)


IF_MATCH: Schema = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the identity that /about told, in quotation marks: another model's answer is refused",
}


def _form(description: str, **limits: int) -> Schema:
    """Describe a body whose parts FIELD are files."""
    files = {"type": "array", "minItems": 1, **limits, "items": {"type": "string", "format": "binary"}}
    schema = _object({FIELD: {**files, "description": description}})
    return {
        "parameters": [IF_MATCH],
        "requestBody": {"required": True, "content": {FORM: {"schema": schema}}},
    }


CLASSIFY_BODY = _form("images, or zip archives of images")
WARNINGS: Schema = {
    "type": "array",
    "items": {"type": "string"},
    "description": f"what sets {FEWEST_CELLS} or more cells of this request apart as a whole, such as another stain",
}
APPEARANCES: Schema = {
    **_object(
        {
            "cells": {"type": "integer", "minimum": 0, "description": "that have a picture"},
            "sums": _object({name: {"type": "number", "minimum": 0} for name in MEASURES}),
        }
    ),
    "description": "how the cells look: added up over requests, their means are compared by the rule `shift` of /about",
}
CLASSIFY_ANSWERS = _answers(
    _object({"results": {"type": "array", "items": ROW}, "warnings": WARNINGS, "appearances": APPEARANCES}),
    "a row for each image, in the order sent",
    "detail",
    ASKED,
)
EXPLAIN_BODY = _form("one image", maxItems=1)
EXPLANATION: Schema = _object(
    {
        "p_all": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability of ALL"},
        "rows": {"type": "integer", "minimum": 1},
        "columns": {"type": "integer", "minimum": 1},
        "heat": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "over the whole frame, row by row: above 0 speaks for ALL, below for healthy",
        },
        "method": {"type": "string"},
    }
)
PLACES = "the places that the answer comes from"
EXPLAIN_ANSWERS = _answers(EXPLANATION, PLACES, "detail", {**ASKED, 422: "no image that can be judged"})
PICTURE_BODY: Schema = {"requestBody": EXPLAIN_BODY["requestBody"]}
PICTURE_ANSWERS = _jpeg_answers({**SENT, 422: "no image that can be read"})
STATE_ANSWERS = _answers(_object({"status": {"type": "string"}}), "yes", "detail", {**ALWAYS, **LATER})
KSERVE_STATE_ANSWERS = _answers({"type": "object"}, "yes", "error", {**ALWAYS, **LATER})
KSERVE_ANSWERS = _answers({"type": "object"}, "what was asked for", "error", {**ALWAYS, **LATER})
ABOUT_ANSWERS = _answers({"type": "object"}, "what answers, and how", "detail", {**ALWAYS, **LATER})

ROW_NUMBER: Schema = {"type": "integer", "minimum": 1, "maximum": LARGEST_ROW}
WATCH_PARAMETERS: Schema = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "minimum": least, **most},
            "description": meaning,
        }
        for name, least, most, meaning in (
            ("after", 0, {"maximum": LARGEST_ROW}, "the number of the last row that is known"),
            ("limit", 1, {"maximum": MOST_ROWS}, "how many of the newest rows to send"),
        )
    ]
}
AWAY = {**ALWAYS, 503: "the database cannot be read now"}
WATCH_ANSWERS = _answers(
    _object(
        {
            "results": {
                "type": "array",
                "items": _object(
                    {
                        **ROW["properties"],
                        "id": {"type": "integer"},
                        "time": {"type": "string"},
                        "threshold": {"type": "number"},
                        "bundle": {"type": "string", "description": "SHA-256 of the bundle that answered"},
                        "precision": {"type": "string"},
                        "backend": {"type": "string"},
                        "version": {"type": "string"},
                    }
                ),
            },
            "last": {"type": "integer", "description": "the number of the newest row"},
            "counts": {"type": "object", "description": "of all rows, by label and by status"},
            "database": {"type": "string", "description": "changes where another database takes its place"},
            "warning": {
                "type": "string",
                "description": "what sets the last cells apart as a whole; empty for nothing",
            },
            "watching": {"type": "boolean", "description": "whether a runtime.watch writes the database now"},
            "pictures": {"type": "boolean"},
        }
    ),
    "the newest rows, the oldest of them first",
    "detail",
    AWAY,
)
WATCH_EXPLANATION_ANSWERS = _answers(
    EXPLANATION,
    PLACES,
    "detail",
    {
        **AWAY,
        409: "a row that another model answered",
        422: "no image that can be judged",
        503: "the database cannot be read now, or too much to do",
    },
)
WATCH_PICTURE_ANSWERS = _jpeg_answers(AWAY)


def text_answers(media_type: str, description: str) -> dict[int | str, Schema]:
    """Return the answers of a route that gives a text."""
    answers = _answers({}, description, "detail", {**ALWAYS, **LATER})
    answers[200]["content"] = {media_type: {"schema": {"type": "string"}}}
    return answers


def _tensor(name: str, datatype: str, dimensions: int) -> Schema:
    shape = {"type": "array", "items": {"type": "integer"}, "minItems": dimensions, "maxItems": dimensions}
    properties = {
        "name": {"type": "string", "enum": [name]},
        "datatype": {"type": "string", "enum": [datatype]},
        "shape": shape,
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    }
    return _object(properties, ["name", "datatype", "shape"])


INFER_BODY: Schema = {
    "parameters": [
        IF_MATCH,
        {
            "name": JSON_LENGTH_HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "bytes of JSON, where the bytes of the tensors follow it",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _object(
                    {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": _tensor(INPUT_NAME, INPUT_TYPE, 4),
                            "description": f"{INPUT_NAME}, {INPUT_TYPE} [N, height, width, 3], RGB",
                        },
                        "outputs": {
                            "type": "array",
                            "items": _object({"name": {"type": "string", "enum": [OUTPUT_NAME]}}),
                        },
                        "parameters": {"type": "object"},
                    },
                    ["inputs"],
                )
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
INFER_ANSWERS = _answers(
    _object(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": _tensor(OUTPUT_NAME, OUTPUT_TYPE, 1)},
        }
    ),
    f"{OUTPUT_NAME}, {OUTPUT_TYPE} [N]: probabilities of ALL",
    "error",
    {**ASKED, 422: "a cell for which the model gives no number"},
)
INFER_ANSWERS[200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
