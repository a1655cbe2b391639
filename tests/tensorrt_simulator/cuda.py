"""A GPU in numpy: memory apart from the host's, streams that work when they are waited for, CUDA's error codes."""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.tensorrt_simulator.rules import RuleBrokenError

GARBAGE = 0xFF  # what memory holds before anything was written: NaN where it is read as float32
FIRST_HANDLE = 0x7000_0000_0000
GAP = 0x1_0000_0000  # between two handles, so that none is right by chance
THREAD_LOCAL, RELAXED = 1, 2  # modes of capture that bear other threads

ERRORS = {
    0: ("cudaSuccess", "no error"),
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    400: ("cudaErrorInvalidResourceHandle", "invalid resource handle"),
    401: ("cudaErrorIllegalState", "the operation cannot be performed in the present state"),
    719: ("cudaErrorLaunchFailure", "unspecified launch failure"),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: ("cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"),
    908: ("cudaErrorStreamCaptureWrongThread", "attempt to terminate a capture sequence from another thread"),
}
INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, ILLEGAL_STATE = 1, 2, 400, 401
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, WRONG_THREAD = 900, 901, 908
VALUE_FUNCTIONS = (
    "cudaDeviceGetAttribute",
    "cudaDriverGetVersion",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaStreamCreateWithFlags",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
)
PLAIN_FUNCTIONS = (
    "cudaGetLastError",
    "cudaFree",
    "cudaFreeHost",
    "cudaStreamDestroy",
    "cudaStreamSynchronize",
    "cudaMemcpyAsync",
    "cudaStreamBeginCapture",
    "cudaGraphLaunch",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
)
HANDLE_FUNCTIONS = ("cudaStreamCreateWithFlags", "cudaStreamEndCapture", "cudaGraphInstantiate")


@dataclass(frozen=True)
class Work:
    """What a stream is given to do, and a check that raises where it could not be done over again as it was given."""

    do: Callable[[], None]
    require_unchanged: Callable[[], None]


@dataclass
class Capture:
    """What a stream records instead of doing it."""

    mode: int
    thread: int
    works: list[Work] = field(default_factory=list)
    is_valid: bool = True


class SimulatedGpu:
    """One GPU; the methods named as CUDA's functions return an error code and a value, None beside an error."""

    def __init__(
        self, name: str = "Simulated Orin", capability: tuple[int, int] = (8, 7), memory: int = 1 << 28
    ) -> None:
        self.name = name
        self.capability = capability
        self.memory = memory
        self.driver_version = "540.4.0"
        self.failures: dict[str, int] = {}  # error code by function, to be returned from now on
        self.calls: list[str] = []
        self._device: dict[int, np.ndarray[Any, Any]] = {}
        self._pinned: dict[int, np.ndarray[Any, Any]] = {}
        self._streams: dict[int, list[Callable[[], None]]] = {}
        self._captures: dict[int, Capture] = {}  # by stream
        self._recorded: dict[int, list[Work]] = {}  # graphs that cannot be launched yet
        self._executables: dict[int, list[Work]] = {}
        self._handles = count(FIRST_HANDLE, GAP)
        self._last_errors: dict[int, int] = {}  # by thread

    def call(self, function: str, *arguments: int) -> tuple[int, int | None]:
        """Call one of CUDA's functions."""
        self.calls.append(function)
        result: tuple[int, int | None] = self.failures.get(function, 0), None
        if not result[0]:
            result = getattr(self, function)(*arguments)
        if result[0] and function != "cudaGetLastError":
            self._last_errors[threading.get_ident()] = result[0]
        return result

    def cudaGetLastError(self) -> tuple[int, int | None]:  # noqa: N802
        return self.take_last_error(), None

    def take_last_error(self) -> int:
        """Return the last error of this thread's calls, which CUDA forgets by that."""
        return self._last_errors.pop(threading.get_ident(), 0)

    @property
    def held(self) -> int:
        """How many allocations, streams and graphs were not given back."""
        held = (self._device, self._pinned, self._streams, self._recorded, self._executables)
        return sum(len(things) for things in held)

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int | None]:  # noqa: N802
        position = {75: 0, 76: 1}.get(attribute)
        return (INVALID_VALUE, None) if position is None or device else (0, self.capability[position])

    def cudaDriverGetVersion(self) -> tuple[int, int | None]:  # noqa: N802
        return 0, 12060

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        if size <= 0:
            return INVALID_VALUE, None
        if sum(block.nbytes for block in self._device.values()) + size > self.memory:
            return OUT_OF_MEMORY, None
        return self._allocate(self._device, size)

    def cudaFree(self, address: int) -> tuple[int, int | None]:  # noqa: N802
        self._require_quiet("device memory freed")
        return self._deallocate(self._device, address)

    def cudaMallocHost(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        return self._allocate(self._pinned, size)

    def cudaFreeHost(self, address: int) -> tuple[int, int | None]:  # noqa: N802
        self._require_quiet("page-locked memory freed")
        return self._deallocate(self._pinned, address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int | None]:  # noqa: N802
        if flags != 1:
            raise RuleBrokenError(f"a stream with flags {flags} waits for the default stream")
        stream = next(self._handles)
        self._streams[stream] = []
        return 0, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        if stream not in self._streams:
            raise RuleBrokenError(f"cudaStreamDestroy of {stream:#x}, which is no stream")
        self._require_quiet("a stream destroyed")
        del self._streams[stream]
        return 0, None

    def cudaStreamSynchronize(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        if stream not in self._streams:
            return INVALID_HANDLE, None
        if stream in self._captures:
            self._captures[stream].is_valid = False
            return CAPTURE_UNSUPPORTED, None
        queue = self._streams[stream]
        while queue:
            queue.pop(0)()
        return 0, None

    def cudaMemcpyAsync(self, to: int, origin: int, size: int, kind: int, stream: int) -> tuple[int, int | None]:  # noqa: N802
        device, host = (to, origin) if kind == 1 else (origin, to)
        on_device, on_host = self.device_bytes(device, size), self._pinned_bytes(host, size)
        if kind not in (1, 2) or on_device is None:
            return INVALID_VALUE, None
        if on_host is None:
            raise RuleBrokenError(f"cudaMemcpyAsync with {size} bytes at {host:#x}, which are not page-locked")
        target, source = (on_device, on_host) if kind == 1 else (on_host, on_device)

        def require_unchanged() -> None:
            if not _is_same(self.device_bytes(device, size), on_device):
                raise RuleBrokenError(f"a graph launched whose device memory at {device:#x} was freed")
            if not _is_same(self._pinned_bytes(host, size), on_host):
                raise RuleBrokenError(f"a graph launched whose page-locked memory at {host:#x} was freed")

        done = self.enqueue(stream, Work(lambda: np.copyto(target, source), require_unchanged))
        return (0, None) if done else (INVALID_HANDLE, None)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int, int | None]:  # noqa: N802
        if stream == 0:
            raise RuleBrokenError("the default stream captured")
        if stream not in self._streams:
            return INVALID_HANDLE, None
        if stream in self._captures:
            return ILLEGAL_STATE, None
        if mode not in (THREAD_LOCAL, RELAXED):
            raise RuleBrokenError("a capture that another thread's allocation would spoil")
        self._captures[stream] = Capture(mode, threading.get_ident())
        return 0, None

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        if stream not in self._captures:
            return ILLEGAL_STATE, None
        if self._captures[stream].mode == THREAD_LOCAL and self._captures[stream].thread != threading.get_ident():
            return WRONG_THREAD, None
        capture = self._captures.pop(stream)
        if not capture.is_valid:
            return CAPTURE_INVALIDATED, None
        graph = next(self._handles)
        self._recorded[graph] = capture.works
        return 0, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int | None]:  # noqa: N802
        if flags or graph not in self._recorded:
            return INVALID_VALUE, None
        executable = next(self._handles)
        self._executables[executable] = list(self._recorded[graph])
        return 0, executable

    def cudaGraphDestroy(self, graph: int) -> tuple[int, int | None]:  # noqa: N802
        if graph not in self._recorded:
            raise RuleBrokenError(f"cudaGraphDestroy of {graph:#x}, which is no graph")
        del self._recorded[graph]
        return 0, None

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[int, int | None]:  # noqa: N802
        if executable not in self._executables:
            raise RuleBrokenError(f"cudaGraphLaunch of {executable:#x}, which is no executable graph")
        for work in self._executables[executable]:
            work.require_unchanged()
            if not self.enqueue(stream, work):
                return INVALID_HANDLE, None
        return 0, None

    def cudaGraphExecDestroy(self, executable: int) -> tuple[int, int | None]:  # noqa: N802
        if executable not in self._executables:
            raise RuleBrokenError(f"cudaGraphExecDestroy of {executable:#x}, which is no executable graph")
        self._require_quiet("a graph destroyed")
        del self._executables[executable]
        return 0, None

    def enqueue(self, stream: int, work: Work) -> bool:
        """Have a stream do `work` once it is waited for, or record it; False where there is no such stream."""
        if stream == 0:
            raise RuleBrokenError("work given to the default stream, which waits for everything else")
        if stream not in self._streams:
            return False
        if stream in self._captures:
            self._captures[stream].works.append(work)
        else:
            self._streams[stream].append(work.do)
        return True

    def is_capturing(self, stream: int) -> bool:
        """Say whether a stream records what it is given."""
        return stream in self._captures

    def spoil_capture(self, stream: int) -> None:
        """Do what cannot be captured."""
        self._captures[stream].is_valid = False

    def device_bytes(self, address: int, size: int) -> np.ndarray[Any, Any] | None:
        """Return `size` bytes of device memory; None where they do not all lie in one allocation."""
        return _bytes_within(self._device, address, size)

    def _pinned_bytes(self, address: int, size: int) -> np.ndarray[Any, Any] | None:
        return _bytes_within(self._pinned, address, size)

    def _allocate(self, blocks: dict[int, np.ndarray[Any, Any]], size: int) -> tuple[int, int | None]:
        """Take memory whose address is real, so that a library that is handed it can use it."""
        if self._spoils_own_capture():
            return CAPTURE_UNSUPPORTED, None
        block = np.full(size, GARBAGE, np.uint8)
        blocks[block.ctypes.data] = block
        return 0, block.ctypes.data

    def _deallocate(self, blocks: dict[int, np.ndarray[Any, Any]], address: int) -> tuple[int, int | None]:
        if address not in blocks:
            raise RuleBrokenError(f"{address:#x} freed, where nothing is allocated")
        if self._spoils_own_capture():
            return CAPTURE_UNSUPPORTED, None
        del blocks[address]
        return 0, None

    def _spoils_own_capture(self) -> bool:
        own = [
            capture
            for capture in self._captures.values()
            if capture.mode == THREAD_LOCAL and capture.thread == threading.get_ident()
        ]
        for capture in own:
            capture.is_valid = False
        return bool(own)

    def _require_quiet(self, what: str) -> None:
        if any(self._streams.values()):
            raise RuleBrokenError(f"{what} while a stream still has work to do")


def _bytes_within(blocks: dict[int, np.ndarray[Any, Any]], address: int, size: int) -> np.ndarray[Any, Any] | None:
    for start, block in blocks.items():
        if start <= address and address + size <= start + block.nbytes:
            return block[address - start : address - start + size]
    return None


def _is_same(now: np.ndarray[Any, Any] | None, then: np.ndarray[Any, Any]) -> bool:
    return now is not None and np.shares_memory(now, then)


class CudaHandle:
    """The package's type of a stream or graph, which becomes an integer only when asked."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __int__(self) -> int:
        return self._handle


def bindings_module(gpu: SimulatedGpu) -> ModuleType:
    """Return the module cuda.bindings.runtime for a GPU."""
    module: Any = ModuleType("cuda.bindings.runtime")
    functional: Any = enum.IntEnum
    module.cudaError_t = functional("cudaError_t", {name: code for code, (name, _) in ERRORS.items()})
    module.cudaMemcpyKind = functional("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    attributes = {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76}
    module.cudaDeviceAttr = functional("cudaDeviceAttr", attributes)
    modes = {"cudaStreamCaptureModeGlobal": 0, "cudaStreamCaptureModeThreadLocal": 1, "cudaStreamCaptureModeRelaxed": 2}
    module.cudaStreamCaptureMode = functional("cudaStreamCaptureMode", modes)
    enumerations = {
        "cudaMemcpyAsync": (3, module.cudaMemcpyKind),
        "cudaDeviceGetAttribute": (0, module.cudaDeviceAttr),
        "cudaStreamBeginCapture": (1, module.cudaStreamCaptureMode),
    }

    def bound(function: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            position, enumeration = enumerations.get(function, (0, object))
            if arguments and not isinstance(arguments[position], enumeration):
                raise TypeError(f"{function}: argument {position} is no {enumeration.__name__}")
            code, value = gpu.call(function, *map(int, arguments))
            given: Any = CudaHandle(value) if value and function in HANDLE_FUNCTIONS else value
            error = module.cudaError_t(code)
            return (error, given) if function in VALUE_FUNCTIONS else (error,)

        return call

    for function in VALUE_FUNCTIONS + PLAIN_FUNCTIONS:
        setattr(module, function, bound(function))
    module.cudaGetErrorName = lambda error: (module.cudaError_t(0), ERRORS[int(error)][0].encode())
    module.cudaGetErrorString = lambda error: (module.cudaError_t(0), ERRORS[int(error)][1].encode())
    bindings: ModuleType = module
    return bindings


class ForeignFunction:
    """A function of a shared library: its types must be told before it is called."""

    argtypes: tuple[Any, ...] | None = None
    restype: Any = None

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        if self.argtypes is None or len(arguments) != len(self.argtypes):
            raise RuleBrokenError(f"a foreign function called with {len(arguments)} arguments, told {self.argtypes}")
        plain = [
            argument if hasattr(argument, "_obj") or isinstance(argument, ctypes.Array) else _plain(kind, argument)
            for kind, argument in zip(self.argtypes, arguments, strict=True)
        ]
        return self._call(*plain)


def _plain(kind: Any, argument: Any) -> int:
    value = argument.value if hasattr(argument, "value") else argument
    return kind(value).value or 0


def runtime_library(gpu: SimulatedGpu) -> Any:
    """Return libcudart for a GPU, as ctypes would load it."""

    def giving(function: str) -> Callable[..., int]:
        def call(pointer: Any, *arguments: int) -> int:
            code, value = gpu.call(function, *arguments)
            if not code:
                pointer._obj.value = value
            return code

        return call

    functions: dict[str, Any] = {name: ForeignFunction(giving(name)) for name in VALUE_FUNCTIONS}
    for name in PLAIN_FUNCTIONS:
        functions[name] = ForeignFunction(lambda *arguments, name=name: gpu.call(name, *arguments)[0])
    functions["cudaGetErrorName"] = ForeignFunction(lambda code: ERRORS[code][0].encode())
    functions["cudaGetErrorString"] = ForeignFunction(lambda code: ERRORS[code][1].encode())
    return SimpleNamespace(**functions)


def management_library(gpu: SimulatedGpu) -> Any:
    """Return NVML for a GPU, as ctypes would load it."""

    def version_of(buffer: Any, size: int) -> int:
        buffer.value = gpu.driver_version.encode()[: size - 1]
        return 0

    return SimpleNamespace(
        nvmlInit_v2=ForeignFunction(lambda: 0),
        nvmlShutdown=ForeignFunction(lambda: 0),
        nvmlSystemGetDriverVersion=ForeignFunction(version_of),
    )


def driver_library(gpu: SimulatedGpu) -> Any:
    """Return libcuda for a GPU, as ctypes would load it."""

    def name_of(buffer: Any, size: int, device: int) -> int:
        buffer.value = gpu.name.encode()[: size - 1]
        return device

    return SimpleNamespace(
        cuInit=ForeignFunction(lambda flags: flags),
        cuDeviceGet=ForeignFunction(lambda pointer, ordinal: ordinal),
        cuDeviceGetName=ForeignFunction(name_of),
    )
