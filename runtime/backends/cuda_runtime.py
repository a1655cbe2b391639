"""The few calls of the CUDA runtime that inference needs: memory, streams, copies, graphs, and which GPU this is.

`CudaRuntime` is the contract; behind it stands NVIDIA's package cuda-bindings where it is installed, else ctypes on the
CUDA runtime library of the machine, which is what a Jetson has without installing anything.
"""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.errors import BackendError

RUNTIME_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
FIRST_DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES shows
NAME_BYTES = 256

# Values of CUDA's own enumerations, from driver_types.h.
STREAM_NON_BLOCKING = 1
HOST_TO_DEVICE = 1
DEVICE_TO_HOST = 2
CAPTURE_THREAD_LOCAL = 1  # what other threads do meanwhile, such as allocating, does not spoil the capture
COMPUTE_CAPABILITY_MAJOR = 75
COMPUTE_CAPABILITY_MINOR = 76

ERROR_HINTS = {
    "cudaErrorMemoryAllocation": "end other programs on this GPU, or build the engine with a smaller --batch",
    "cudaErrorNoDevice": "use the backend cpu, or check that the driver shows the GPU",
    "cudaErrorInsufficientDriver": "update the NVIDIA driver",
}
OTHER_ERRORS_HINT = "start the program again; if the error comes back, check the driver"

# cuda-bindings takes integers for addresses, sizes and streams, but its own types where CUDA has an enumeration.
ENUMERATIONS = {
    "cudaDeviceGetAttribute": (0, "cudaDeviceAttr"),
    "cudaMemcpyAsync": (3, "cudaMemcpyKind"),
    "cudaStreamBeginCapture": (1, "cudaStreamCaptureMode"),
}

# For ctypes: what CUDA writes through the first pointer, where there is one, and the types of the other arguments.
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cudaDeviceGetAttribute": (ctypes.c_int, (ctypes.c_int, ctypes.c_int)),
    "cudaDriverGetVersion": (ctypes.c_int, ()),
    "cudaGetLastError": (None, ()),
    "cudaMalloc": (ctypes.c_void_p, (ctypes.c_size_t,)),
    "cudaFree": (None, (ctypes.c_void_p,)),
    "cudaMallocHost": (ctypes.c_void_p, (ctypes.c_size_t,)),
    "cudaFreeHost": (None, (ctypes.c_void_p,)),
    "cudaStreamCreateWithFlags": (ctypes.c_void_p, (ctypes.c_uint,)),
    "cudaStreamDestroy": (None, (ctypes.c_void_p,)),
    "cudaStreamSynchronize": (None, (ctypes.c_void_p,)),
    "cudaMemcpyAsync": (None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)),
    "cudaStreamBeginCapture": (None, (ctypes.c_void_p, ctypes.c_int)),
    "cudaStreamEndCapture": (ctypes.c_void_p, (ctypes.c_void_p,)),
    # Since CUDA 12; CUDA 11, whose library is not among those above, took other arguments.
    "cudaGraphInstantiate": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_ulonglong)),
    "cudaGraphDestroy": (None, (ctypes.c_void_p,)),
    "cudaGraphLaunch": (None, (ctypes.c_void_p, ctypes.c_void_p)),
    "cudaGraphExecDestroy": (None, (ctypes.c_void_p,)),
}


@dataclass(frozen=True)
class Gpu:
    """The GPU that inference runs on."""

    name: str
    compute_capability: str  # such as "8.7"
    driver_cuda_version: str  # the newest CUDA version that the driver knows, such as "13.0"


class CudaRuntime(ABC):
    """Calls of the CUDA runtime on the first device; addresses, sizes in bytes, streams and graphs are integers.

    Whoever allocates frees, once. A call that fails raises BackendError with CUDA's name of the error; only what frees
    raises nothing, since CUDA reports earlier failures there again.
    """

    def gpu(self) -> Gpu:
        """Return name and compute capability of the first device, and the CUDA version that its driver knows."""
        major = self._call("cudaDeviceGetAttribute", COMPUTE_CAPABILITY_MAJOR, FIRST_DEVICE)
        minor = self._call("cudaDeviceGetAttribute", COMPUTE_CAPABILITY_MINOR, FIRST_DEVICE)
        cuda = self._call("cudaDriverGetVersion")  # 1000 * major + 10 * minor
        return Gpu(device_name(), f"{major}.{minor}", f"{cuda // 1000}.{cuda % 1000 // 10}")

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes of device memory."""
        return self._call("cudaMalloc", size)

    def free(self, address: int) -> None:
        """Free device memory."""
        self._free("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        """Return the address of `size` bytes of page-locked host memory, the only kind that is copied beside work."""
        return self._call("cudaMallocHost", size)

    def free_pinned(self, address: int) -> None:
        """Free page-locked host memory; no array may look at it any more."""
        self._free("cudaFreeHost", address)

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default stream."""
        return self._call("cudaStreamCreateWithFlags", STREAM_NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._free("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work given to the stream is done; errors of that work come out here."""
        self._call("cudaStreamSynchronize", stream)

    def settle(self, stream: int) -> None:
        """Wait like `synchronize`, but raise nothing: for what must be done with before it is freed."""
        self._free("cudaStreamSynchronize", stream)

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Begin to copy from page-locked host memory to the device."""
        self._call("cudaMemcpyAsync", device, host, size, HOST_TO_DEVICE, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Begin to copy from the device to page-locked host memory, which holds it after `synchronize`."""
        self._call("cudaMemcpyAsync", host, device, size, DEVICE_TO_HOST, stream)

    def capture(self, stream: int, give_work: Callable[[], None]) -> int:
        """Return a graph of the work that `give_work` gives to the stream, none of which is done yet.

        The graph keeps sizes and addresses as they are now. `give_work` must not allocate, free or wait, and each
        kernel and library it uses must have run before. Whatever goes wrong, the stream can be used as before.
        """
        self._call("cudaStreamBeginCapture", stream, CAPTURE_THREAD_LOCAL)
        try:
            give_work()
        except BaseException:
            _, recorded = self._told("cudaStreamEndCapture", stream)
            self._free("cudaGraphDestroy", recorded)
            raise
        recorded = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", recorded, 0)
        finally:
            self._free("cudaGraphDestroy", recorded)

    def launch_graph(self, graph: int, stream: int) -> None:
        """Begin all work of a graph; what it was captured from may run on no other stream meanwhile."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back that is not running."""
        self._free("cudaGraphExecDestroy", graph)

    def _call(self, function: str, *arguments: int) -> int:
        error, value = self._told(function, *arguments)
        if error:
            name, text = self._error_texts(error)
            hint = ERROR_HINTS.get(name, OTHER_ERRORS_HINT)
            call = f"{function}({', '.join(map(str, arguments))})"
            raise BackendError(f"{call} failed with {name}: {text}; {hint}")
        return value

    def _free(self, function: str, handle: int) -> None:
        if handle:  # CUDA gave none where a capture failed
            self._told(function, handle)

    def _told(self, function: str, *arguments: int) -> tuple[Any, int]:
        """Return what `_invoke` gives, and have CUDA forget the error.

        Otherwise whatever next asks this thread for its last error, such as TensorRT after a kernel, would get it.
        """
        error, value = self._invoke(function, *arguments)
        if error:
            self._invoke("cudaGetLastError")
        return error, value

    @abstractmethod
    def _invoke(self, function: str, *arguments: int) -> tuple[Any, int]:
        """Return a function's error, which is false for success, and the value that it gives, 0 where it gives none."""

    @abstractmethod
    def _error_texts(self, error: Any) -> tuple[str, str]:
        """Return CUDA's name of an error and what it says about it."""


class BindingsRuntime(CudaRuntime):
    """The CUDA runtime through NVIDIA's package cuda-bindings."""

    def __init__(self, library: Any) -> None:
        """Use `library`, the module cuda.bindings.runtime."""
        self._library = library

    def _invoke(self, function: str, *arguments: int) -> tuple[Any, int]:
        given: list[Any] = list(arguments)
        if function in ENUMERATIONS:
            position, enumeration = ENUMERATIONS[function]
            given[position] = getattr(self._library, enumeration)(given[position])
        error, *values = getattr(self._library, function)(*given)
        if int(error):
            return error, 0  # what stands for the value is None then
        return 0, int(values[0]) if values else 0

    def _error_texts(self, error: Any) -> tuple[str, str]:
        _, name = self._library.cudaGetErrorName(error)
        _, text = self._library.cudaGetErrorString(error)
        return name.decode(), text.decode()


class CtypesRuntime(CudaRuntime):
    """The CUDA runtime through ctypes on the machine's own library."""

    def __init__(self, library: Any) -> None:
        """Use `library`, a loaded libcudart."""
        self._library = library
        for function, (result, arguments) in SIGNATURES.items():
            pointer = (ctypes.POINTER(result),) if result else ()
            getattr(library, function).argtypes = (*pointer, *arguments)
            getattr(library, function).restype = ctypes.c_int
        for function in ("cudaGetErrorName", "cudaGetErrorString"):
            getattr(library, function).argtypes = (ctypes.c_int,)
            getattr(library, function).restype = ctypes.c_char_p

    def _invoke(self, function: str, *arguments: int) -> tuple[Any, int]:
        result, _ = SIGNATURES[function]
        if result is None:
            return getattr(self._library, function)(*arguments), 0
        value = result()
        error = getattr(self._library, function)(ctypes.byref(value), *arguments)
        return error, value.value or 0

    def _error_texts(self, error: Any) -> tuple[str, str]:
        return self._library.cudaGetErrorName(error).decode(), self._library.cudaGetErrorString(error).decode()


def open_cuda() -> CudaRuntime:
    """Load the CUDA runtime; raise BackendError where this machine has none."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return CtypesRuntime(_load_library(RUNTIME_LIBRARIES, "pip install cuda-bindings"))
    return BindingsRuntime(runtime)


def device_name() -> str:
    """Return the first device's name as its driver gives it.

    The runtime gives it only inside a structure whose layout changes from version to version; the driver gives text.
    """
    driver = _load_library((DRIVER_LIBRARY,), "install the NVIDIA driver")
    driver.cuDeviceGet.argtypes = (ctypes.POINTER(ctypes.c_int), ctypes.c_int)
    driver.cuDeviceGetName.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
    driver.cuInit.argtypes = (ctypes.c_uint,)
    device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
    error = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), FIRST_DEVICE)
        or driver.cuDeviceGetName(name, NAME_BYTES, device)
    )
    if error:
        raise BackendError(
            f"expected the NVIDIA driver to name its first GPU, found its error {error}; check the driver"
        )
    return name.value.decode()


def _load_library(names: tuple[str, ...], hint: str) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BackendError(f"expected the library {' or '.join(names)} on this machine, found none; {hint}")
