from __future__ import annotations

import contextlib
import ctypes
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from export.engine import EngineOptions, build_engine
from runtime.backends.cuda_runtime import BindingsRuntime, CtypesRuntime, CudaRuntime, Gpu, open_cuda
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from tests.tensorrt_simulator.cuda import ERRORS, SimulatedGpu
from tests.tensorrt_simulator.install import install, install_cuda
from tests.tensorrt_simulator.rules import RuleBrokenError
from tests.tiny_bundle import onnx_answers, some_cells


@pytest.fixture
def gpu() -> SimulatedGpu:
    """A GPU to be called through either provider."""
    return SimulatedGpu("Simulated H100", (9, 0))


@pytest.fixture(params=["bindings", "ctypes"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGpu) -> CudaRuntime:
    """The CUDA runtime through cuda-bindings, and through ctypes where that is absent."""
    install_cuda(monkeypatch, gpu, with_bindings=request.param == "bindings")
    runtime = open_cuda()
    assert isinstance(runtime, BindingsRuntime if request.param == "bindings" else CtypesRuntime)
    return runtime


def test_the_gpu_is_named(cuda: CudaRuntime) -> None:
    assert cuda.gpu() == Gpu("Simulated H100", "9.0", "12.6")


def test_bytes_go_to_the_device_and_come_back_once_the_stream_is_waited_for(cuda: CudaRuntime) -> None:
    size, stream = 64, cuda.create_stream()
    device, there, back = cuda.allocate(size), cuda.allocate_pinned(size), cuda.allocate_pinned(size)
    sent, received = (np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(at)) for at in (there, back))
    sent[:] = np.arange(size)
    cuda.copy_to_device(device, there, size, stream)
    cuda.copy_to_host(back, device, size, stream)
    assert not np.array_equal(sent, received), "nothing has arrived before it was waited for"
    cuda.synchronize(stream)
    np.testing.assert_array_equal(sent, received)


def test_what_was_taken_can_be_given_back(cuda: CudaRuntime, gpu: SimulatedGpu) -> None:
    stream, device, pinned = cuda.create_stream(), cuda.allocate(8), cuda.allocate_pinned(8)
    assert gpu.held == 3
    cuda.free(device)
    cuda.free_pinned(pinned)
    cuda.destroy_stream(stream)
    assert gpu.held == 0


@pytest.mark.parametrize("code", [code for code in ERRORS if code])
def test_an_error_is_named_as_cuda_names_it(cuda: CudaRuntime, gpu: SimulatedGpu, code: int) -> None:
    name, text = ERRORS[code]
    for function in ("cudaMalloc", "cudaMallocHost"):
        gpu.failures[function] = code
    for call in (cuda.allocate, cuda.allocate_pinned):
        with pytest.raises(BackendError, match=rf"^cudaMalloc\w*\(8\) failed with {name}: {text}; \w"):
            call(8)


def test_memory_that_is_not_there_is_an_error(cuda: CudaRuntime, gpu: SimulatedGpu) -> None:
    with pytest.raises(
        BackendError, match=r"cudaMalloc\(\d+\) failed with cudaErrorMemoryAllocation: out of memory; end"
    ):
        cuda.allocate(gpu.memory + 1)


def test_what_frees_raises_nothing(cuda: CudaRuntime, gpu: SimulatedGpu) -> None:
    gpu.failures = dict.fromkeys(("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaStreamSynchronize"), 719)
    for free in (cuda.free, cuda.free_pinned, cuda.destroy_stream, cuda.settle):
        free(1)


def test_a_machine_without_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGpu) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    install_cuda(monkeypatch, gpu, with_bindings=False)
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(
        BackendError,
        match=r"expected the library libcudart\.so\.13 or libcudart\.so\.12 .*found none; pip install cuda-b",
    ):
        open_cuda()


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch, cuda: CudaRuntime) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(BackendError, match=r"expected the library \S+ .*found none; install the NVIDIA driver"):
        cuda.gpu()


def test_an_engine_runs_through_ctypes_as_through_the_package(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    library = install(monkeypatch, "10.3", with_bindings=False)
    build_engine(tiny_bundle, EngineOptions())
    bundle, cells = Bundle.open(tiny_bundle), some_cells(40)
    with open_backend(bundle, "tensorrt", bundle.variant("fp16")) as backend:
        np.testing.assert_allclose(
            backend.infer(cells), onnx_answers(tiny_bundle / "model.fp16.onnx", cells), atol=1e-6
        )
    assert library.gpu.held == 0


@dataclass
class RoundTrip:
    """One stream, and memory through which bytes go to the device and back."""

    cuda: CudaRuntime
    size: int = 64

    def __post_init__(self) -> None:
        self.stream = self.cuda.create_stream()
        self.device = self.cuda.allocate(self.size)
        self.there, self.back = self.cuda.allocate_pinned(self.size), self.cuda.allocate_pinned(self.size)
        self.sent, self.received = (
            np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(at)) for at in (self.there, self.back)
        )

    def copy(self) -> None:
        self.cuda.copy_to_device(self.device, self.there, self.size, self.stream)
        self.cuda.copy_to_host(self.back, self.device, self.size, self.stream)

    def close(self) -> None:
        self.cuda.free(self.device)
        self.cuda.free_pinned(self.there)
        self.cuda.free_pinned(self.back)
        self.cuda.destroy_stream(self.stream)


@pytest.fixture
def trip(cuda: CudaRuntime) -> RoundTrip:
    return RoundTrip(cuda)


def test_a_graph_does_its_work_each_time_it_is_launched_and_not_before(trip: RoundTrip, gpu: SimulatedGpu) -> None:
    graph = trip.cuda.capture(trip.stream, trip.copy)
    trip.sent[:] = 7
    trip.cuda.synchronize(trip.stream)
    assert not np.array_equal(trip.received, trip.sent), "capturing does nothing"
    for value in (7, 9):
        trip.sent[:] = value
        trip.cuda.launch_graph(graph, trip.stream)
        trip.cuda.synchronize(trip.stream)
        np.testing.assert_array_equal(trip.received, trip.sent)
    trip.cuda.destroy_graph(graph)
    trip.close()
    assert gpu.held == 0


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaGraphInstantiate"])
def test_a_capture_that_fails_is_an_error_that_leaves_no_graph(
    trip: RoundTrip, gpu: SimulatedGpu, function: str
) -> None:
    gpu.failures[function] = 901
    with pytest.raises(BackendError, match=rf"{function}\(.*\) failed with cudaErrorStreamCaptureInvalidated"):
        trip.cuda.capture(trip.stream, trip.copy)
    trip.close()
    assert gpu.held == 0


def test_work_that_fails_while_it_is_captured_leaves_a_stream_that_works(trip: RoundTrip, gpu: SimulatedGpu) -> None:
    def give_work() -> None:
        trip.copy()
        raise BackendError("TensorRT could not compute")

    with pytest.raises(BackendError, match="TensorRT could not compute"):
        trip.cuda.capture(trip.stream, give_work)
    trip.sent[:] = 5
    trip.copy()
    trip.cuda.synchronize(trip.stream)
    np.testing.assert_array_equal(trip.received, trip.sent)
    trip.close()
    assert gpu.held == 0


@pytest.mark.parametrize("function", ["cudaStreamEndCapture", "cudaStreamSynchronize", "cudaMalloc"])
def test_no_error_is_left_for_who_asks_cuda_next(trip: RoundTrip, gpu: SimulatedGpu, function: str) -> None:
    gpu.failures[function] = 901
    with pytest.raises(BackendError):
        trip.cuda.capture(trip.stream, lambda: trip.cuda.synchronize(trip.stream))
    trip.cuda.settle(trip.stream)
    with contextlib.suppress(BackendError):
        trip.cuda.allocate(8)
    assert gpu.take_last_error() == 0


def test_waiting_or_allocating_spoils_a_capture(trip: RoundTrip, gpu: SimulatedGpu) -> None:
    def allocate() -> None:
        trip.cuda.allocate(8)

    for forbidden in (lambda: trip.cuda.synchronize(trip.stream), allocate):
        with pytest.raises(BackendError, match="cudaErrorStreamCaptureUnsupported: operation not permitted"):
            trip.cuda.capture(trip.stream, forbidden)
    with pytest.raises(BackendError, match=r"cudaStreamEndCapture.*cudaErrorStreamCaptureInvalidated"):
        trip.cuda.capture(trip.stream, lambda: trip.cuda.settle(trip.stream))
    trip.close()
    assert gpu.held == 0


def test_another_threads_allocation_does_not_spoil_a_capture(trip: RoundTrip) -> None:
    def give_work() -> None:
        trip.copy()
        other = threading.Thread(target=lambda: trip.cuda.free(trip.cuda.allocate(8)))
        other.start()
        other.join()

    graph = trip.cuda.capture(trip.stream, give_work)
    trip.cuda.launch_graph(graph, trip.stream)
    trip.cuda.synchronize(trip.stream)
    np.testing.assert_array_equal(trip.received, trip.sent)
    trip.cuda.destroy_graph(graph)


def test_the_simulator_refuses_a_capture_of_the_default_stream(trip: RoundTrip) -> None:
    with pytest.raises(RuleBrokenError, match="default stream"):
        trip.cuda.capture(0, trip.copy)


def test_the_simulator_refuses_a_graph_whose_memory_was_freed(trip: RoundTrip) -> None:
    graph = trip.cuda.capture(trip.stream, trip.copy)
    trip.cuda.free(trip.device)
    with pytest.raises(RuleBrokenError, match=r"device memory at .* was freed"):
        trip.cuda.launch_graph(graph, trip.stream)


def test_the_simulator_refuses_a_graph_destroyed_twice_or_launched_afterwards(trip: RoundTrip) -> None:
    graph = trip.cuda.capture(trip.stream, trip.copy)
    trip.cuda.destroy_graph(graph)
    with pytest.raises(RuleBrokenError, match="no executable graph"):
        trip.cuda.destroy_graph(graph)
    with pytest.raises(RuleBrokenError, match="no executable graph"):
        trip.cuda.launch_graph(graph, trip.stream)
