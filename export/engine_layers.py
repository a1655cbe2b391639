"""In which precision the layers of a network are asked for, and in which those of its engine compute."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from runtime.errors import ConversionError
from runtime.schema import EngineLayer

PRECISION_TO_DATATYPE = {"fp16": "half", "fp32": "float", "int8": "int8"}
UNKNOWN = "unknown"

# TensorRT writes a datatype inside a text such as "Row major linear FP16 format"; the narrowest stand first.
DATATYPE_SPELLINGS = {
    "int8": r"int8",
    "half": r"fp16|half",
    "bf16": r"bf16|bfloat16",
    "float": r"fp32|float",
    "uint8": r"uint8",
    "integer": r"int32|int64|bool",
}
NARROW = {"int8", "half", "bf16"}
# Layers that move or convert numbers and compute nothing.
MOVING_LAYERS = ("Reformat", "NoOp", "Constant", "Shuffle", "Identity", "Cast", "Quantize", "Dequantize")
# Convolutions and matrix products, such as "CaskConvolution", "CaskConvActPool", "gemm" and "MatrixMultiply".
WEIGHTED_LAYERS = re.compile(r"conv|gemm|matmul|matrixmultiply", re.IGNORECASE)

# An engine must have at least this part of the share of weighted layers that the network asks for in a precision.
# Fusion changes their number: a depthwise convolution and the pointwise one after it may become one layer, and so may
# siblings that read one tensor. If that happens to every pair of n such layers and to none of the k others, then
# (n/2) / (n/2 + k) remain of n / (n + k): half of it where k is large, more where it is not.
LEAST_OF_ASKED = 0.5
# The share of computing layers whose datatype may be unknown, such as copies that a version calls by a name of its own:
# among more of them a narrower precision could hide.
MOST_UNTOLD = 0.1


def asked_share(trt: Any, network: Any, precision: str) -> float:
    """Return the share, 0..1, of a parsed network's convolutions and matrix products that it has in a precision.

    The network is strongly typed: what stays in float32 in the graph is float32 here. Layers that no output needs,
    which TensorRT leaves out, do not count.
    """
    name_to_source: dict[str, Any] = {}
    for place in range(network.num_layers):
        source = network.get_layer(place)
        name_to_source |= {source.get_output(index).name: source for index in range(source.num_outputs)}
    weighted = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    needed = [source for source in _needed(network, name_to_source) if source.type in weighted]
    datatypes = [_asked_datatype(trt, source, name_to_source) for source in needed]
    return datatypes.count(PRECISION_TO_DATATYPE[precision]) / len(datatypes) if datatypes else 0.0


def _needed(network: Any, name_to_source: dict[str, Any]) -> Iterator[Any]:
    """Yield each layer that an output of the network needs, once."""
    waiting = [network.get_output(index).name for index in range(network.num_outputs)]
    seen: set[str] = set()
    while waiting:
        source = name_to_source.get(waiting.pop())
        if source is None or source.name in seen:
            continue
        seen.add(source.name)
        yield source
        inputs = [source.get_input(index) for index in range(source.num_inputs)]
        waiting += [taken.name for taken in inputs if taken is not None]


def _asked_datatype(trt: Any, source: Any, name_to_source: dict[str, Any]) -> str:
    """Return what a layer reads: int8 where a Dequantize stands before it, which TensorRT folds into the layer."""
    taken = source.get_input(0)
    before = name_to_source.get(taken.name)
    while before is not None and before.type == trt.LayerType.SHUFFLE:
        before = name_to_source.get(before.get_input(0).name)
    if before is not None and before.type == trt.LayerType.DEQUANTIZE:
        return "int8"
    names = {trt.DataType.HALF: "half", trt.DataType.FLOAT: "float"}
    return names.get(taken.dtype, UNKNOWN)


def engine_layers(description: str) -> tuple[EngineLayer, ...]:
    """Return an engine's layers from the inspector's JSON; raise ConversionError where it is something else."""
    try:
        # Not strict: some versions part the names of fused layers by a bare control character, which JSON forbids.
        return tuple(map(_layer, json.loads(description, strict=False)["Layers"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"expected JSON with the engine's layers from TensorRT's inspector, found {description[:40]!r} ({error}); "
            "no engine was written; report the TensorRT version"
        ) from error


def _layer(told: Any) -> EngineLayer:
    if isinstance(told, str):  # a name alone
        return EngineLayer(told, "", UNKNOWN, (), (), "")
    reads, gives = _formats(told.get("Inputs", [])), _formats(told.get("Outputs", []))
    weights = told.get("Weights", {})
    weights_type = str(weights.get("Type", "")) if isinstance(weights, dict) else ""
    kind = str(told.get("LayerType", ""))
    return EngineLayer(str(told.get("Name", "")), kind, _narrowest((*reads, weights_type)), reads, gives, weights_type)


def _formats(tensors: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(str(tensor.get("Format/Datatype", "")) for tensor in tensors)


def _narrowest(texts: Iterable[str]) -> str:
    told = " / ".join(texts)
    for datatype, spellings in DATATYPE_SPELLINGS.items():
        if re.search(rf"\b(?:{spellings})\b", told, re.IGNORECASE):
            return datatype
    return UNKNOWN


def computing(layers: Iterable[EngineLayer]) -> Iterator[EngineLayer]:
    """Yield the layers that do more than move or convert numbers."""
    return (layer for layer in layers if layer.kind not in MOVING_LAYERS)


def count_precisions(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """Count the computing layers by precision."""
    return dict(sorted(Counter(layer.precision for layer in computing(layers)).items()))


def refuse_mislabelled(precision: str, layers: Sequence[EngineLayer], asked: float) -> None:
    """Raise ConversionError unless an engine computes in the precision that was asked for.

    Judged are its convolutions and matrix products, all computing layers where it names none as such.

    Args:
        precision: One of PRECISION_TO_DATATYPE.
        layers: What the inspector tells of the engine.
        asked: The share of the network's layers with weights in that precision, 0..1. For 0, of a file that is not what
            it is called or of a TensorRT that does not tell a network's datatypes, the engine is held against all.
    """
    counts = count_precisions(layers)
    total = sum(counts.values())
    judged = [layer for layer in computing(layers) if WEIGHTED_LAYERS.search(layer.kind) or layer.weights]
    judged = judged or list(computing(layers))
    found = sum(layer.precision == PRECISION_TO_DATATYPE[precision] for layer in judged)
    is_asked = found > 0 and found >= LEAST_OF_ASKED * (asked or 1.0) * len(judged)
    is_told = counts.get(UNKNOWN, 0) <= MOST_UNTOLD * total
    if is_asked and is_told and not (precision == "fp32" and NARROW & counts.keys()):
        return
    said = ", ".join(f"{count} {datatype}" for datatype, count in counts.items()) or "no computing layer"
    raise ConversionError(
        f"expected an engine of precision {precision}, in which the ONNX file has {asked:.0%} of the layers with "
        f"weights, TensorRT reports {found} of {len(judged)} such layers, and layers that compute in: {said}; no "
        "engine was written; export the bundle again with this --precision, or report the TensorRT version"
    )
