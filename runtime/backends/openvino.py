"""OpenVINO on the CPU: its kernels compute int8 graphs faster than ONNX Runtime's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.base import Backend
from runtime.cpus import available_cpus
from runtime.errors import BackendError, one_line
from runtime.schema import INPUT_NAME, OUTPUT_NAME, ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

INSTALL_HINT = "pip install openvino"
OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",  # all threads on one batch
    # Where a CPU has bfloat16, OpenVINO would compute float32 graphs in that.
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoBackend(Backend):
    """An ONNX file compiled by OpenVINO for the CPU, without its map, which OpenVINO would compute each time."""

    name = "openvino"

    def __init__(self, model: Path, image: ImageSpec, threads: int | None = None) -> None:
        """Load `model` with so many threads; None: one for each CPU.

        Raises BackendError where OpenVINO is missing, where it cannot load the graph, where that does not have the
        bundle's input and output, or where it is in int8 and this CPU cannot compute that exactly.
        """
        super().__init__(image)
        library = import_openvino()
        self.description = f"OpenVINO {library.__version__.split('-')[0]} CPU"
        try:
            read = library.Core().read_model(str(model))
            self._check_contract(model, read)
            if _is_rounded(read) and _int8_overflows(library):
                raise BackendError(
                    f"expected a CPU with VNNI for the int8 graph {model}: on this one the sums that OpenVINO computes "
                    "overflow; take --precision fp32, or --backend cpu, which computes int8 exactly"
                )
            graph = library.Model([read.output(OUTPUT_NAME)], read.get_parameters())
            options = OPTIONS | {"INFERENCE_NUM_THREADS": threads or available_cpus()}
            self._request = library.compile_model(graph, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load {model}: {one_line(error)}") from error

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            answers = self._request.infer({INPUT_NAME: cells}, share_inputs=True)
        except RuntimeError as error:
            raise BackendError(
                f"{self.description} failed on a batch of {len(cells)}: {one_line(error)}; try a smaller --batch-size"
            ) from error
        p_all: NDArray[np.float32] = answers[OUTPUT_NAME].copy()
        return p_all

    def close(self) -> None:
        """Drop the compiled graph, with which OpenVINO frees its memory."""
        del self._request

    def _check_contract(self, model: Path, graph: Any) -> None:
        """Raise BackendError where the graph is not one of a bundle."""
        expected = (INPUT_NAME, "uint8", f"[?,{','.join(map(str, self._cell_shape))}]")
        inputs = [(port.any_name, port.element_type.to_dtype().name, str(port.partial_shape)) for port in graph.inputs]
        outputs = [port.any_name for port in graph.outputs]
        if inputs != [expected] or outputs[0] != OUTPUT_NAME:
            raise BackendError(
                f"expected the graph {model} to take {expected} and to give {OUTPUT_NAME}, found that it takes "
                f"{inputs} and gives {outputs}; export it again"
            )


def import_openvino() -> Any:
    """Import OpenVINO; raise BackendError where it is missing."""
    # Otherwise it numbers the user and reports each import to its maker; without this library it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"expected OpenVINO for the backend openvino, found {error}; {INSTALL_HINT}") from error
    return openvino


def _is_rounded(graph: Any) -> bool:
    return any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())


def _int8_overflows(library: Any) -> bool:
    """Say whether a sum of int8 products comes out too small on this CPU.

    A CPU without VNNI adds two products in 16 bits (oneDNN, "Nuances of int8 Computations"). OpenVINO does not say
    which instructions it takes, so one convolution of the largest values is computed.
    """
    ops = library.opset13
    channels, largest, weight = 16, 255, 127
    zero, top = (ops.constant(np.float32(bound)) for bound in (0, largest))
    values = ops.parameter([1, channels, 4, 4], np.float32)
    weights = ops.convert(ops.constant(np.full((channels, channels, 1, 1), weight, np.int8)), np.float32)
    weights = ops.multiply(weights, ops.constant(np.ones((channels, 1, 1, 1), np.float32)))  # as int8 weights look
    rounded = ops.fake_quantize(values, zero, top, zero, top, 256)
    sums = ops.convolution(rounded, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    request = library.compile_model(library.Model([sums], [values]), "CPU", options).create_infer_request()
    found = request.infer([np.full((1, channels, 4, 4), largest, np.float32)])[0]
    return not np.array_equal(found, np.full_like(found, channels * largest * weight))
