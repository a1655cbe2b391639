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
    # Where a CPU has bfloat16, OpenVINO would compute in that what the graph says is float32.
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoBackend(Backend):
    """An ONNX file compiled by OpenVINO for the CPU; its map is left out, which OpenVINO would compute each time."""

    name = "openvino"

    def __init__(self, model: Path, image: ImageSpec, threads: int | None = None) -> None:
        """Load `model` with so many threads; None: one for each CPU.

        Raises BackendError where OpenVINO is missing, where it cannot load the graph, or where that does not have the
        bundle's input and output.
        """
        super().__init__(image)
        library = import_openvino()
        self.description = f"OpenVINO {library.__version__.split('-')[0]} CPU"
        try:
            read = library.Core().read_model(str(model))
            self._check_contract(model, read)
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
    # Else it numbers the user and reports each import to its maker; where this library is missing, it does without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"expected OpenVINO for the backend openvino, found {error}; {INSTALL_HINT}") from error
    return openvino
