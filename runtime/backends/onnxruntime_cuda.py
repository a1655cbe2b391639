"""Memory for an ONNX Runtime session on CUDA, allocated once instead of by ONNX Runtime at each batch.

ONNX Runtime's CUDA graphs are left out. A run option, `gpu_graph_id`, keeps one graph for each batch size, but ONNX
Runtime does not compare a batch with what it captured under an id, so that a mistake would be another batch's answer
and no error; and a session with graphs refuses every model with a layer on the CPU, as int8 ones may have.
(onnxruntime_run_options_config_keys.h; limits in ONNX Runtime's pull request 9978.)
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.cuda_buffer import allocate_buffer
from runtime.backends.cuda_runtime import FIRST_DEVICE, CudaRuntime
from runtime.schema import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BoundSession:
    """A session that reads and writes device memory of ours; for one thread at a time.

    Memory is taken for the largest batch seen and is taken anew for a larger one. A batch is copied and computed at its
    own size. Copies have a stream of their own, which is waited for before ONNX Runtime begins; ONNX Runtime has done
    its work when it returns.
    """

    def __init__(self, session: Any, cuda: CudaRuntime, device_type: str = "cuda") -> None:
        """Bind an onnxruntime.InferenceSession of a bundle's graph.

        `device_type` is ONNX Runtime's name for where the memory that `cuda` gives lies. Raises BackendError where
        CUDA gives no stream.
        """
        self._session = session
        self._cuda = cuda
        self._device_type = device_type
        self._binding = session.io_binding()
        self._held = ExitStack()  # the buffers
        self._most = 0  # cells that they have room for
        self._stream = cuda.create_stream()

    def run(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N], a fresh array, for uint8 cells [N, height, width, 3].

        Raises BackendError where CUDA fails, and ONNX Runtime's own errors.
        """
        count = len(cells)
        if count > self._most:
            self._grow(cells.shape)
        self._input.host[:count] = cells
        self._input.begin_send(self._cuda, count, self._stream)
        self._cuda.synchronize(self._stream)
        self._bind(cells.shape)
        self._session.run_with_iobinding(self._binding)
        self._output.begin_fetch(self._cuda, count, self._stream)
        self._cuda.synchronize(self._stream)
        p_all: NDArray[np.float32] = self._output.host[:count].copy()
        return p_all

    def close(self) -> None:
        """Free buffers and stream; harmless a second time."""
        self._cuda.settle(self._stream)
        self._held.close()
        self._cuda.destroy_stream(self._stream)
        self._most = self._stream = 0

    def _grow(self, shape: tuple[int, ...]) -> None:
        self._held.close()
        self._most = 0  # until there is memory again
        self._input = allocate_buffer(self._cuda, self._held, shape, np.uint8)
        self._output = allocate_buffer(self._cuda, self._held, shape[:1], np.float32)
        self._most = shape[0]

    def _bind(self, shape: tuple[int, ...]) -> None:
        device = (self._device_type, FIRST_DEVICE)
        self._binding.bind_input(INPUT_NAME, *device, np.uint8, shape, self._input.device_address)
        self._binding.bind_output(OUTPUT_NAME, *device, np.float32, shape[:1], self._output.device_address)
