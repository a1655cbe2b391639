"""ONNX Runtime on memory that is bound by address: its CPU provider, on a simulated GPU's memory, in the place of CUDA.

What is real here: shapes, addresses, types, lifetimes and answers. What is not: CUDA's provider and its speed.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime.backends.onnxruntime
from runtime.backends.cuda_runtime import CudaRuntime, open_cuda
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.backends.onnxruntime_cuda import BoundSession
from runtime.backends.select import open_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from runtime.schema import SELF_TEST_TOLERANCES
from tests.tensorrt_simulator.cuda import SimulatedGpu
from tests.tensorrt_simulator.install import install_cuda
from tests.tiny_bundle import SIZE, onnx_answers, some_cells


@pytest.fixture
def gpu() -> SimulatedGpu:
    return SimulatedGpu()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGpu) -> CudaRuntime:
    install_cuda(monkeypatch, gpu, with_bindings=False)
    return open_cuda()


@pytest.fixture
def bound(cuda: CudaRuntime, gpu: SimulatedGpu, tiny_bundle: Path) -> Iterator[BoundSession]:
    """The fp32 graph of the tiny bundle, bound to the simulated GPU's memory, which must be empty afterwards."""
    session = onnxruntime.InferenceSession(tiny_bundle / "model.fp32.onnx", providers=["CPUExecutionProvider"])
    bound = BoundSession(session, cuda, "cpu")
    yield bound
    bound.close()
    assert gpu.held == 0


def test_any_batch_size_is_answered_as_without_binding(bound: BoundSession, tiny_bundle: Path) -> None:
    for seed, count in enumerate((1, 2, 4, 32, 7, 40, 1)):
        cells = some_cells(count, seed)
        p_all = bound.run(cells)
        assert p_all.dtype == np.float32
        assert p_all.shape == (count,)
        np.testing.assert_allclose(p_all, onnx_answers(tiny_bundle / "model.fp32.onnx", cells), atol=1e-6)


def test_the_callers_arrays_stay_the_callers(bound: BoundSession) -> None:
    cells = some_cells(3)
    first = bound.run(cells)
    kept = first.copy()
    cells[:] = 0
    assert np.abs(bound.run(cells) - kept).max() > 1e-3
    np.testing.assert_array_equal(first, kept)


def test_memory_is_taken_for_the_largest_batch_alone_and_only_its_own_cells_are_copied(
    monkeypatch: pytest.MonkeyPatch, bound: BoundSession, gpu: SimulatedGpu
) -> None:
    copied: list[int] = []
    copy = SimulatedGpu.cudaMemcpyAsync

    def noted(gpu: SimulatedGpu, to: int, origin: int, size: int, kind: int, stream: int) -> tuple[int, int | None]:
        copied.append(size)
        return copy(gpu, to, origin, size, kind, stream)

    monkeypatch.setattr(SimulatedGpu, "cudaMemcpyAsync", noted)
    for count in (8, 3, 8):
        bound.run(some_cells(count))
    assert gpu.calls.count("cudaMalloc") == gpu.calls.count("cudaMallocHost") == 2
    assert copied == [size for count in (8, 3, 8) for size in (count * SIZE * SIZE * 3, count * 4)]
    bound.run(some_cells(9))
    assert gpu.calls.count("cudaMalloc") == 4
    assert gpu.held == 5, "the smaller buffers were given back"


def test_too_little_memory_is_an_error_after_which_smaller_batches_still_run(
    bound: BoundSession, gpu: SimulatedGpu, tiny_bundle: Path
) -> None:
    gpu.memory = 10 * SIZE * SIZE * 3
    bound.run(some_cells(8))
    with pytest.raises(BackendError, match=r"cudaMalloc\(\d+\) failed with cudaErrorMemoryAllocation: out of memory"):
        bound.run(some_cells(11))
    cells = some_cells(4)
    np.testing.assert_allclose(bound.run(cells), onnx_answers(tiny_bundle / "model.fp32.onnx", cells), atol=1e-6)


def test_memory_outlives_the_arrays_that_python_drops(bound: BoundSession, tiny_bundle: Path) -> None:
    for seed in range(20):
        cells = some_cells(1 + seed, seed)
        expected = onnx_answers(tiny_bundle / "model.fp32.onnx", cells)
        p_all = bound.run(cells)
        del cells
        gc.collect()
        np.testing.assert_allclose(p_all, expected, atol=1e-6)


def test_closing_twice_frees_once(bound: BoundSession, gpu: SimulatedGpu) -> None:
    bound.run(some_cells(2))
    for _ in range(2):
        bound.close()
        assert gpu.held == 0


@pytest.fixture
def cuda_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime's CPU provider stand in for its CUDA provider, with the memory where it can reach it."""
    module = runtime.backends.onnxruntime
    monkeypatch.setitem(module.PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(module.PROVIDER_OPTIONS, "cuda", {})
    monkeypatch.setattr(module, "BoundSession", lambda session, cuda: BoundSession(session, cuda, "cpu"))


def open_on_cuda(folder: Path) -> OnnxRuntimeBackend:
    bundle = Bundle.open(folder)
    backend = open_backend(bundle, "cuda", bundle.variant("fp16"))
    assert isinstance(backend, OnnxRuntimeBackend)
    return backend


def test_the_backend_runs_on_bound_memory_and_gives_it_back(
    cuda_on_cpu: None, cuda: CudaRuntime, gpu: SimulatedGpu, tiny_bundle: Path
) -> None:
    cells = some_cells(5)
    with open_on_cuda(tiny_bundle) as backend:
        expected = onnx_answers(tiny_bundle / "model.fp16.onnx", cells)
        np.testing.assert_allclose(backend.infer(cells), expected, atol=1e-6)
        assert gpu.held == 5
        assert "page-locked" not in backend.description
    assert gpu.held == 0


def test_an_error_of_cudas_keeps_its_words(
    cuda_on_cpu: None, cuda: CudaRuntime, gpu: SimulatedGpu, tiny_bundle: Path
) -> None:
    with open_on_cuda(tiny_bundle) as backend:
        gpu.failures["cudaMemcpyAsync"] = 719
        with pytest.raises(BackendError, match=r"^cudaMemcpyAsync\(.*\) failed with cudaErrorLaunchFailure"):
            backend.infer(some_cells(2))


def test_without_a_cuda_runtime_the_session_runs_as_it_is_and_the_description_says_so(
    monkeypatch: pytest.MonkeyPatch, cuda_on_cpu: None, tiny_bundle: Path
) -> None:
    def no_cuda() -> None:
        raise BackendError("expected the library libcudart.so.13 on this machine, found none")

    monkeypatch.setattr(runtime.backends.onnxruntime, "open_cuda", no_cuda)
    cells = some_cells(5)
    with open_on_cuda(tiny_bundle) as backend:
        assert "without page-locked memory (expected the library libcudart" in backend.description
        expected = onnx_answers(tiny_bundle / "model.fp16.onnx", cells)
        np.testing.assert_allclose(backend.infer(cells), expected, atol=1e-6)


def test_cuda_is_asked_for_with_float32_and_little_memory(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    asked: list[Any] = []

    def refuse(path: str, options: Any, providers: Any, **_: Any) -> None:
        asked.extend(providers)
        raise RuntimeError("no GPU")

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(BackendError, match="ONNX Runtime cannot load"):
        open_on_cuda(tiny_bundle)
    ((name, options),) = asked
    assert name == "CUDAExecutionProvider"
    assert (options["use_tf32"], options["arena_extend_strategy"]) == ("0", "kSameAsRequested")


def test_a_closed_backend_keeps_no_session(
    cuda_on_cpu: None, cuda: CudaRuntime, gpu: SimulatedGpu, tiny_bundle: Path
) -> None:
    backend = open_on_cuda(tiny_bundle)
    session = weakref.ref(backend._session)
    backend.close()
    gc.collect()
    assert session() is None


@pytest.mark.cuda
def test_real_cuda_answers_like_the_cpu_at_any_batch_size(tiny_bundle: Path) -> None:
    try:
        backend = open_on_cuda(tiny_bundle)
    except BackendError as error:
        pytest.skip(f"no real CUDA provider here: {error}")
    with backend:
        assert "page-locked" not in backend.description
        for count in (1, 3, 32, 40, 3):
            cells = some_cells(count, seed=count)
            expected = onnx_answers(tiny_bundle / "model.fp16.onnx", cells)
            np.testing.assert_allclose(backend.infer(cells), expected, atol=SELF_TEST_TOLERANCES["fp16"])
