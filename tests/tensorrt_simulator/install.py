"""Puts a simulated TensorRT and GPU where the project looks for the real ones."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.tensorrt_simulator.cuda import (
    SimulatedGpu,
    bindings_module,
    driver_library,
    management_library,
    runtime_library,
)
from tests.tensorrt_simulator.library import Library, tensorrt_module


def install(
    monkeypatch: pytest.MonkeyPatch, version: str, gpu: SimulatedGpu | None = None, *, with_bindings: bool = True
) -> Library:
    """Install TensorRT of that version on a GPU; without cuda-bindings, ctypes finds a libcudart."""
    library = Library(version, gpu or SimulatedGpu())
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module(library))
    install_cuda(monkeypatch, library.gpu, with_bindings=with_bindings)
    return library


def install_cuda(monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGpu, *, with_bindings: bool) -> None:
    """Install the CUDA runtime and driver of a GPU."""
    package: Any = ModuleType("cuda")
    package.bindings = ModuleType("cuda.bindings")
    package.bindings.runtime = bindings_module(gpu)
    monkeypatch.setitem(sys.modules, "cuda", package if with_bindings else None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", package.bindings if with_bindings else None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", package.bindings.runtime)
    real = ctypes.CDLL

    def load(name: Any, *arguments: Any, **options: Any) -> Any:
        ours = {
            **dict.fromkeys(("libcuda.so.1", "nvcuda.dll"), driver_library),
            **dict.fromkeys(("libnvidia-ml.so.1", "nvml.dll"), management_library),
            "libcudart.so.12": runtime_library,
        }
        if name == "libcudart.so.13":
            raise OSError(f"{name}: cannot open shared object file")
        return ours[name](gpu) if name in ours else real(name, *arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", load)
