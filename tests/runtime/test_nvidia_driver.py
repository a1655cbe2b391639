from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runtime.backends.nvidia_driver
from runtime.backends.nvidia_driver import driver_version
from tests.tensorrt_simulator.cuda import SimulatedGpu
from tests.tensorrt_simulator.install import install_cuda


@pytest.fixture
def kernel_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the kernel module would tell its version, on a machine without NVML."""

    def no_library(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    path = tmp_path / "version"
    monkeypatch.setattr(runtime.backends.nvidia_driver, "KERNEL_MODULE", path)
    return path


def test_the_management_library_tells_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, SimulatedGpu(), with_bindings=False)
    assert driver_version() == "540.4.0"


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@host)", "540.4.0"),
    ],
)
def test_else_the_kernel_module_tells_it(kernel_module: Path, line: str, version: str) -> None:
    kernel_module.write_text(f"NVRM version: {line}\nGCC version:  gcc version 11.4.0 (Ubuntu)\n", encoding="utf-8")
    assert driver_version() == version


def test_a_management_library_with_half_its_functions_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, kernel_module: Path
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    kernel_module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu\n", encoding="utf-8")
    assert driver_version() == "535.129.03"


def test_where_neither_tells_it_there_is_none(kernel_module: Path) -> None:
    assert driver_version() is None
    kernel_module.write_text("something else\n", encoding="utf-8")
    assert driver_version() is None
