"""A GPU in numpy: memory apart from the host's, streams that work when they are waited for, CUDA's error codes."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.tensorrt_simulator.rules import RuleBrokenError

GARBAGE = 0xFF  # what memory holds before anything was written: NaN where it is read as float32
FIRST_ADDRESS = 0x7000_0000_0000
GAP = 0x1_0000_0000  # between two allocations, so that no address is right by chance

ERRORS = {
    0: ("cudaSuccess", "no error"),
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    400: ("cudaErrorInvalidResourceHandle", "invalid resource handle"),
    719: ("cudaErrorLaunchFailure", "unspecified launch failure"),
}
INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE = 1, 2, 400
VALUE_FUNCTIONS = (
    "cudaDeviceGetAttribute",
    "cudaDriverGetVersion",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaStreamCreateWithFlags",
)
PLAIN_FUNCTIONS = ("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaStreamSynchronize", "cudaMemcpyAsync")


class SimulatedGpu:
    """One GPU; the methods named as CUDA's functions return an error code and a value, None beside an error."""

    def __init__(
        self, name: str = "Simulated Orin", capability: tuple[int, int] = (8, 7), memory: int = 1 << 28
    ) -> None:
        self.name = name
        self.capability = capability
        self.memory = memory
        self.failures: dict[str, int] = {}  # error code by function, to be returned from now on
        self.calls: list[str] = []
        self._device: dict[int, np.ndarray[Any, Any]] = {}
        self._pinned: dict[int, tuple[Any, np.ndarray[Any, Any]]] = {}
        self._streams: dict[int, list[Callable[[], None]]] = {}
        self._next = FIRST_ADDRESS

    def call(self, function: str, *arguments: int) -> tuple[int, int | None]:
        """Call one of CUDA's functions."""
        self.calls.append(function)
        if function in self.failures:
            return self.failures[function], None
        result: tuple[int, int | None] = getattr(self, function)(*arguments)
        return result

    @property
    def held(self) -> int:
        """How many allocations and streams were not given back."""
        return len(self._device) + len(self._pinned) + len(self._streams)

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
        self._next += GAP
        self._device[self._next] = np.full(size, GARBAGE, np.uint8)
        return 0, self._next

    def cudaFree(self, address: int) -> tuple[int, int | None]:  # noqa: N802
        self._require_quiet("device memory freed")
        if address not in self._device:
            raise RuleBrokenError(f"cudaFree of {address:#x}, which is not allocated")
        del self._device[address]
        return 0, None

    def cudaMallocHost(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        memory = (ctypes.c_uint8 * size)()
        view = np.ctypeslib.as_array(memory)
        view[:] = GARBAGE
        self._pinned[ctypes.addressof(memory)] = memory, view
        return 0, ctypes.addressof(memory)

    def cudaFreeHost(self, address: int) -> tuple[int, int | None]:  # noqa: N802
        self._require_quiet("page-locked memory freed")
        if address not in self._pinned:
            raise RuleBrokenError(f"cudaFreeHost of {address:#x}, which is not allocated")
        del self._pinned[address]
        return 0, None

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int | None]:  # noqa: N802
        if flags != 1:
            raise RuleBrokenError(f"a stream with flags {flags} waits for the default stream")
        self._next += GAP
        self._streams[self._next] = []
        return 0, self._next

    def cudaStreamDestroy(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        if stream not in self._streams:
            raise RuleBrokenError(f"cudaStreamDestroy of {stream:#x}, which is no stream")
        self._require_quiet("a stream destroyed")
        del self._streams[stream]
        return 0, None

    def cudaStreamSynchronize(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        if stream not in self._streams:
            return INVALID_HANDLE, None
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
        return (0, None) if self.enqueue(stream, lambda: np.copyto(target, source)) else (INVALID_HANDLE, None)

    def enqueue(self, stream: int, work: Callable[[], None]) -> bool:
        """Have a stream do `work` once it is waited for; False where there is no such stream."""
        if stream == 0:
            raise RuleBrokenError("work given to the default stream, which waits for everything else")
        if stream not in self._streams:
            return False
        self._streams[stream].append(work)
        return True

    def device_bytes(self, address: int, size: int) -> np.ndarray[Any, Any] | None:
        """Return `size` bytes of device memory; None where they do not all lie in one allocation."""
        for start, block in self._device.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        return None

    def _pinned_bytes(self, address: int, size: int) -> np.ndarray[Any, Any] | None:
        for start, (_, block) in self._pinned.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        return None

    def _require_quiet(self, what: str) -> None:
        if any(self._streams.values()):
            raise RuleBrokenError(f"{what} while a stream still has work to do")


class CudaStream:
    """The package's type of a stream, which becomes an integer only when asked."""

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
    enumerations = {"cudaMemcpyAsync": (3, module.cudaMemcpyKind), "cudaDeviceGetAttribute": (0, module.cudaDeviceAttr)}

    def bound(function: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            position, enumeration = enumerations.get(function, (0, object))
            if arguments and not isinstance(arguments[position], enumeration):
                raise TypeError(f"{function}: argument {position} is no {enumeration.__name__}")
            code, value = gpu.call(function, *map(int, arguments))
            given: Any = CudaStream(value) if value and function == "cudaStreamCreateWithFlags" else value
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
