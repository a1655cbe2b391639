"""Runs ONNX Runtime on graphs that are being made: to fold them and to look at what happens inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from export.model_file import model_bytes
from runtime.backends.onnxruntime import EXACT_INT8
from runtime.errors import ConversionError, OutputError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_WRITTEN = "Protobuf serialization failed"  # all that ONNX Runtime says of a full disk


def folded_by_onnxruntime(raw: Path, target: Path) -> None:
    """Write to `target` what ONNX Runtime makes of the graph `raw` by passes that hold on any hardware.

    They compute constants, merge batch norms into convolutions and drop what does nothing; all that stays is
    standard ONNX. Raises OutputError where the disk is full.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is computed with it
    options.log_severity_level = 3
    try:
        open_session(raw, options)
    except ConversionError as error:
        if NOT_WRITTEN not in str(error):
            raise
        raise OutputError(
            "cannot write the folded graph, which ONNX Runtime puts beside the bundle; make room on the disk, or "
            "choose another place"
        ) from error


def open_session(model: Path | bytes, options: Any = None) -> Any:
    """Open a graph, from a file or as bytes, on the CPU; raise ConversionError where ONNX Runtime refuses it."""
    options = options or onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_INT8)
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises its own types, without a common base class
        raise ConversionError(f"ONNX Runtime cannot load the graph: {one_line(error)}") from error


def computed(model: Any, outputs: Sequence[str], values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return by name what a graph in memory gives for N cells, computed one by one, which needs least memory.

    Args:
        model: Graph whose inputs and outputs begin with the free dimension N.
        outputs: Names of its outputs.
        values: By name what is put in, at least its inputs: [N, ...].
    """
    session = open_session(model_bytes(model))
    inputs = {given.name: values[given.name] for given in session.get_inputs()}
    cells = range(len(next(iter(inputs.values()))))
    by_cell = [session.run(outputs, {name: value[cell : cell + 1] for name, value in inputs.items()}) for cell in cells]
    return {name: np.concatenate(given) for name, given in zip(outputs, zip(*by_cell, strict=True), strict=True)}
