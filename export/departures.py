"""Finds the layers where a converted graph departs from the fp32 graph that it was made from."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from export.graph import open_for_reading, weighted_nodes
from export.model_file import model_bytes
from export.onnx_session import open_session
from runtime.schema import INPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEBUG_CELLS = 4  # of both classes are enough to see where a graph departs: in their order, one comes first
NAMED = 5  # layers
ROUNDING = 1e-5  # an error up to which float32, computed in another order, is the same
OF_FP32 = (
    "it is the conversion from Keras itself that departs; report it with the versions of Keras, TensorFlow and tf2onnx"
)


def departures(fp32: Path, variant: Path, cells: NDArray[np.uint8]) -> str:
    """Say in one line which layers add most to a variant's error.

    Each layer of the fp32 graph is given what the variant's layers before it give, so that an error is its layer's own:
    the norm of the difference of both outputs, relative to that of the fp32 graph's.

    Args:
        fp32: ONNX file of a bundle.
        variant: ONNX file that was made from it; its layers have the same names.
        cells: uint8 RGB [N, height, width, 3].
    """
    model = open_for_reading(fp32)
    weighted = weighted_nodes(model)
    tensors = {node.name: node.output[0] for node in model.graph.node if node.name in weighted}
    in_variant = _session_giving(open_for_reading(variant), tensors.values())
    given = _take_from_outside(model, tensors.values())
    in_fp32 = _session_giving(model, tensors.values())
    errors = {name: np.zeros(2) for name in tensors}  # squared: of the difference, and of what fp32 gives
    for cell in cells:
        found = in_variant.run(list(tensors.values()), {INPUT_NAME: cell[None]})
        for name, values in zip(tensors, found, strict=True):
            if not np.isfinite(values).all():
                return f"the first layer that gives no numbers: {name}"
        values_given = {name: values.astype(np.float32) for name, values in zip(given, found, strict=True)}
        exact = in_fp32.run(list(tensors.values()), {INPUT_NAME: cell[None], **values_given})
        for name, right, values in zip(tensors, exact, found, strict=True):
            errors[name] += [_square(values - right), _square(right)]
    added = {name: math.sqrt(difference / (norm or 1.0)) for name, (difference, norm) in errors.items()}
    worst = sorted((name for name in tensors if added[name] > ROUNDING), key=lambda name: -added[name])[:NAMED]
    if not worst:
        return f"no layer gives other values than fp32's for {len(cells)} cells"
    return "layers that add most to its error: " + ", ".join(f"{name} ({added[name]:.2g})" for name in worst)


def _take_from_outside(model: Any, tensors: Collection[str]) -> list[str]:
    """Let a fp32 graph take these tensors as inputs wherever it computes with them; return the inputs' names."""
    names = {tensor: f"{tensor}/given" for tensor in tensors}
    for node in model.graph.node:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
    for name in names.values():
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return list(names.values())


def _session_giving(model: Any, tensors: Collection[str]) -> Any:
    """Open a graph that gives these tensors, too."""
    present = {value.name for value in model.graph.output}
    # ONNX Runtime finds out type and shape by itself.
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(tensor) for tensor in tensors if tensor not in present
    )
    return open_session(model_bytes(model))


def _square(values: NDArray[Any]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
