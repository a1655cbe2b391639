"""What one batch in flight needs of a TensorRT engine, so that several batches can be in flight.

Working memory is the largest part, so that all contexts of a slot share it: one context for any batch size, and one for
each CUDA graph, since TensorRT's guide gives each captured graph a context of its own ("CUDA Graphs" in its chapter on
best practices). Contexts of several slots share the engine's only optimization profile, which TensorRT allows since
10.0 ("PROFILE_SHARING_0806 ... is on in TensorRT 10.0", its Python documentation of PreviewFeature).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.cuda_buffer import allocate_buffer, allocate_device
from runtime.backends.cuda_runtime import CudaRuntime
from runtime.errors import BackendError
from runtime.schema import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A graph takes some memory on the device. A folder classified in one go uses two or three sizes again and again; a
# watched one may use any, and most of them seldom.
MOST_GRAPHS = 8


class Slot:
    """A stream with buffers and execution contexts of its own; for one thread at a time.

    A batch size that comes a second time is captured as a CUDA graph by `capture` and is replayed from then on.
    """

    def __init__(self, trt: Any, engine: Any, cuda: CudaRuntime, log: Any, cell_shape: tuple[int, ...]) -> None:
        """Take memory for the engine's largest batch of cells [height, width, 3].

        Raises BackendError, with everything freed, where CUDA or TensorRT has too little memory.
        """
        self._trt = trt
        self._engine = engine
        self._cuda = cuda
        self._log = log
        self._cell_shape = cell_shape
        self._contexts: list[Any] = []
        self._count_to_graph: dict[int, int] = {}
        self._counts_seen: set[int] = set()
        self._held = ExitStack()  # frees in reverse order what opening took
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        engine = self._engine
        max_batch = engine.get_tensor_profile_shape(INPUT_NAME, 0)[-1][0]
        self._stream = self._cuda.create_stream()
        self._held.callback(self._cuda.destroy_stream, self._stream)
        self._input = allocate_buffer(self._cuda, self._held, (max_batch, *self._cell_shape), np.uint8)
        self._output = allocate_buffer(self._cuda, self._held, (max_batch,), np.float32)
        self._working_size = max(engine.device_memory_size_v2, 1)  # CUDA has no memory of no size
        self._working_memory = allocate_device(self._cuda, self._held, self._working_size)
        self._held.callback(self._drop)
        self._context = self._create_context()

    def infer(self, cells: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        """Return p_all, float32 [N], for uint8 cells [N, height, width, 3]; black cells fill them up to `count`."""
        self._input.host[: len(cells)] = cells
        self._input.host[len(cells) : count] = 0
        if count in self._count_to_graph:
            self._cuda.launch_graph(self._count_to_graph[count], self._stream)
        else:
            self._set_batch(self._context, count)
            self._begin(self._context, count)
        self._cuda.synchronize(self._stream)
        return self._output.host[: len(cells)].copy()

    def has_come_again(self, count: int) -> bool:
        """Say whether a batch size is to be captured: it came before, has no graph yet, and there is room for one."""
        if count in self._count_to_graph or len(self._count_to_graph) == MOST_GRAPHS:
            return False
        if count in self._counts_seen:
            return True
        self._counts_seen.add(count)
        return False

    def capture(self, count: int) -> None:
        """Capture copy, computation and copy back of `count` cells, to be replayed from then on.

        Raises BackendError where the engine cannot be captured or memory is missing; `infer` works as before then.
        """
        context = self._create_context()
        self._set_batch(context, count)
        self._begin(context, count)  # the first run of a shape sets up what a capture must not
        self._cuda.synchronize(self._stream)
        graph = self._cuda.capture(self._stream, lambda: self._begin(context, count))
        self._count_to_graph[count] = graph

    def settle(self) -> None:
        """Wait until nothing is in flight, whatever became of it."""
        self._cuda.settle(self._stream)

    def close(self) -> None:
        """Free graphs, contexts, buffers and stream; harmless a second time."""
        self._held.close()

    def _create_context(self) -> Any:
        trt, engine = self._trt, self._engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = checked(engine.create_execution_context(strategy), "create an execution context", self._log)
        self._contexts.append(context)
        context.set_device_memory(self._working_memory, self._working_size)
        for name, buffer in ((INPUT_NAME, self._input), (OUTPUT_NAME, self._output)):
            checked(context.set_tensor_address(name, buffer.device_address), f"take {name}'s address", self._log)
        return context

    def _set_batch(self, context: Any, count: int) -> None:
        shape = (count, *self._cell_shape)
        checked(context.set_input_shape(INPUT_NAME, shape), f"take a batch of {count}", self._log)

    def _begin(self, context: Any, count: int) -> None:
        """Give the stream all work of a batch: what is waited for by `infer`, or captured."""
        self._input.begin_send(self._cuda, count, self._stream)
        checked(context.execute_async_v3(self._stream), f"compute a batch of {count}", self._log)
        self._output.begin_fetch(self._cuda, count, self._stream)

    def _drop(self) -> None:
        self.settle()
        for graph in self._count_to_graph.values():
            self._cuda.destroy_graph(graph)
        # Contexts hold the engine, and the engine TensorRT's runtime: all three go.
        self._contexts, self._context, self._engine = [], None, None


def started(make: Callable[[], Any], what: str, log: Any) -> Any:
    """Return the object that `make` gives; raise BackendError with TensorRT's last messages where it gives none.

    TensorRT gives none where CUDA cannot be used, and Python's binding says so with a TypeError.
    """
    try:
        return make()
    except TypeError as error:
        raise BackendError(
            f"TensorRT could not start its {what} ({error}); it said: {log.said()}; check that the driver and CUDA fit "
            "this TensorRT"
        ) from error


def checked(result: Any, what: str, log: Any) -> Any:
    """Return what a call of TensorRT gave; raise BackendError with its last messages for None or False."""
    if result is None or result is False:
        raise BackendError(f"TensorRT could not {what}; it said: {log.said()}")
    return result
