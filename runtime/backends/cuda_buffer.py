"""Memory for batches: page-locked on the host, where numpy fills it, and as much on the device."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.cuda_runtime import CudaRuntime

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Buffer:
    """One tensor for the largest batch: page-locked host memory seen as an array, and device memory of that size."""

    host: NDArray[Any]
    host_address: int
    device_address: int

    def begin_send(self, cuda: CudaRuntime, count: int, stream: int) -> None:
        """Begin to copy the first `count` entries to the device."""
        cuda.copy_to_device(self.device_address, self.host_address, self.host[:count].nbytes, stream)

    def begin_fetch(self, cuda: CudaRuntime, count: int, stream: int) -> None:
        """Begin to copy the first `count` entries back to the host."""
        cuda.copy_to_host(self.host_address, self.device_address, self.host[:count].nbytes, stream)


def allocate_buffer(cuda: CudaRuntime, held: ExitStack, shape: tuple[int, ...], dtype: type[np.generic]) -> Buffer:
    """Return memory for an array of that shape; `held` frees it. Raises BackendError where there is too little."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    device_address = allocate_device(cuda, held, size)
    host_address = cuda.allocate_pinned(size)
    held.callback(cuda.free_pinned, host_address)
    memory = (ctypes.c_uint8 * size).from_address(host_address)
    return Buffer(np.ctypeslib.as_array(memory).view(dtype).reshape(shape), host_address, device_address)


def allocate_device(cuda: CudaRuntime, held: ExitStack, size: int) -> int:
    """Return the address of `size` bytes on the device; `held` frees them."""
    address = cuda.allocate(size)
    held.callback(cuda.free, address)
    return address
