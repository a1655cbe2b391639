"""The open inference protocol, version 2 (KServe, Triton): JSON, or JSON followed by the bytes of the tensors.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and, for the bytes, Triton's
extension_binary_data.md.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import one_line
from runtime.pipeline import Cell
from runtime.reading import Reading
from runtime.schema import INPUT_NAME, OUTPUT_NAME, ImageSpec
from runtime.service.limits import Limits
from runtime.service.problems import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = "1"  # of the model: a bundle has one
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
INPUT_TYPE = "UINT8"
OUTPUT_TYPE = "FP32"


@dataclass(frozen=True)
class Inference:
    """A request: cells, and how their probabilities are to be sent."""

    cells: NDArray[np.uint8]  # [N, height, width, 3]
    name: str | None  # the client's own for the request
    as_bytes: bool

    def to_score(self) -> list[Cell]:
        """Return the cells for the queue, where they wait with those of other requests."""
        return [_cell(place, pixels) for place, pixels in enumerate(self.cells)]


def _cell(place: int, pixels: NDArray[np.uint8]) -> Cell:
    reading = Reading(pixels)
    return Cell(f"{INPUT_NAME}[{place}]", lambda: reading)


def metadata(name: str, image: ImageSpec) -> dict[str, Any]:
    """Describe the model."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "allnet_edge",
        "inputs": [{"name": INPUT_NAME, "datatype": INPUT_TYPE, "shape": [-1, image.height, image.width, 3]}],
        "outputs": [{"name": OUTPUT_NAME, "datatype": OUTPUT_TYPE, "shape": [-1]}],
    }


def parse_inference(body: bytes, json_length: str | None, image: ImageSpec, limits: Limits) -> Inference:
    """Read a request; raise RequestError where it is not one that the model can answer."""
    text, tail = _split(body, json_length)
    if len(text) > limits.json_bytes:
        raise RequestError(
            413, f"expected at most {limits.json_bytes} bytes of JSON, found {len(text)}; send the cells as bytes"
        )
    raw = _json_object(text)
    cells = _cells(raw.get("inputs"), tail, image, limits.request_files)
    name = raw.get("id")
    if name is not None and not isinstance(name, str):
        raise _refusal("id as a text", name)
    return Inference(cells, name, _wants_bytes(raw))


def answer(name: str, inference: Inference, p_all: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer and its headers."""
    output: dict[str, Any] = {"name": OUTPUT_NAME, "datatype": OUTPUT_TYPE, "shape": [len(p_all)]}
    content: dict[str, Any] = {"model_name": name, "model_version": VERSION, "outputs": [output]}
    if inference.name is not None:
        content["id"] = inference.name
    if not inference.as_bytes:
        output["data"] = p_all.tolist()
        return json.dumps(content).encode(), {"Content-Type": "application/json"}
    tail = p_all.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(tail)}
    text = json.dumps(content).encode()
    return text + tail, {"Content-Type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(text))}


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and the bytes behind it, which are not copied."""
    if json_length is None:
        return body, memoryview(b"")
    end = int(json_length[:20]) if json_length.isascii() and json_length.isdecimal() else -1
    if not 0 <= end <= len(body):
        raise _refusal(f"{JSON_LENGTH_HEADER} to be a number up to {len(body)}, the bytes of the body", json_length)
    return body[:end], memoryview(body)[end:]


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: text that is no JSON, or no UTF-8
        raise RequestError(400, f"expected a JSON object, found: {one_line(error)[:200]}") from error
    if not isinstance(raw, dict):
        raise _refusal("a JSON object", raw)
    return raw


def _cells(inputs: object, tail: memoryview, image: ImageSpec, most_cells: int) -> NDArray[np.uint8]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _refusal(f"one input, {INPUT_NAME}", inputs)
    tensor = inputs[0]
    if tensor.get("name") != INPUT_NAME or tensor.get("datatype") != INPUT_TYPE:
        raise _refusal(f"the input {INPUT_NAME} of {INPUT_TYPE}", [tensor.get("name"), tensor.get("datatype")])
    shape = _shape(tensor.get("shape"), image, most_cells)
    parameters = _parameters(tensor)
    if "shared_memory_region" in parameters:
        raise _refusal("the cells in the request", "a region of shared memory")
    if "binary_data_size" in parameters:
        size = math.prod(shape)
        if "data" in tensor or parameters["binary_data_size"] != size or len(tail) != size:
            raise _refusal(
                f"{size} bytes of cells for the shape {list(shape)}",
                f"{parameters['binary_data_size']!r:.50} announced, {len(tail)} sent",
            )
        return np.frombuffer(tail, np.uint8).reshape(shape)
    if tail:
        raise _refusal("nothing after the JSON without binary_data_size", f"{len(tail)} bytes")
    return _from_numbers(tensor.get("data"), shape)


def _shape(raw: Any, image: ImageSpec, most_cells: int) -> tuple[int, ...]:
    is_shape = isinstance(raw, list) and len(raw) == 4 and all(type(number) is int for number in raw)
    if not is_shape or raw[1:] != [image.height, image.width, 3] or raw[0] < 1:
        raise _refusal(f"the shape [N, {image.height}, {image.width}, 3]", raw)
    if raw[0] > most_cells:
        raise RequestError(413, f"expected at most {most_cells} cells, found {raw[0]}; send fewer at a time")
    return tuple(raw)


def _from_numbers(data: object, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if not isinstance(data, list):
        raise _refusal("data as a list of whole numbers", data)
    values = np.array(data, object)  # as texts, each would take as much memory as the longest
    if values.shape not in (shape, (math.prod(shape),)):
        raise _refusal(f"{math.prod(shape)} numbers for the shape {list(shape)}", f"the shape {list(values.shape)}")
    numbers = values.ravel().tolist()
    if set(map(type, numbers)) == {int}:
        with suppress(ValueError):  # of a number that is no byte
            return np.frombuffer(bytes(numbers), np.uint8).reshape(shape)
    raise _refusal("whole numbers from 0 to 255", "others")


def _wants_bytes(raw: dict[str, Any]) -> bool:
    """Say whether the probabilities are asked for as bytes."""
    by_default = _flag(_parameters(raw), "binary_data_output", default=False)
    outputs = raw.get("outputs")
    if outputs is None:
        return by_default
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise _refusal(f"one output, {OUTPUT_NAME}", outputs)
    if outputs[0].get("name") != OUTPUT_NAME:
        raise _refusal(f"the output {OUTPUT_NAME}", outputs[0].get("name"))
    parameters = _parameters(outputs[0])
    if parameters.keys() & {"classification", "shared_memory_region"}:
        raise _refusal(f"{OUTPUT_NAME} as numbers in the answer", sorted(parameters))
    return _flag(parameters, "binary_data", default=by_default)


def _parameters(raw: dict[str, Any]) -> dict[str, Any]:
    parameters = raw.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _refusal("parameters as an object", parameters)
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _refusal(f"{name} as true or false", value)
    return value


def _refusal(expected: str, found: object) -> RequestError:
    return RequestError(400, f"expected {expected}, found {found!r:.100}; see /openapi.json and the model's metadata")
