"""ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.base import Backend
from runtime.backends.batch_parts import BatchParts
from runtime.backends.cuda_runtime import open_cuda
from runtime.backends.onnxruntime_cuda import BoundSession
from runtime.cpus import available_cpus
from runtime.errors import BackendError, one_line
from runtime.schema import HEAT_NAME, INPUT_NAME, OUTPUT_NAME, ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "arena_extend_strategy": "kSameAsRequested",  # otherwise each growth of its memory doubles the last one
        "cudnn_conv_algo_search": "HEURISTIC",  # the default tries all kernels again at each new batch size
        "use_tf32": "0",  # fp32 must mean float32, with which the bundle's answers were computed
    },
}
# It would give layers of an int8 graph that share an input one pair of rounding nodes; such layers are then not
# computed in int8.
DISABLED_OPTIMIZERS = ["CommonSubexpressionElimination"]
# A CPU without VNNI adds two products of int8 up in 16 bits and cuts a sum that does not fit: a layer then gives too
# little, in silence (oneDNN, "Nuances of int8 Computations"). With this ONNX Runtime computes exactly there, on slower
# instructions; where there is VNNI it changes nothing.
EXACT_INT8 = ("session.x64quantprecision", "1")
# Where the weights exceed any cache, batches that run in parallel hinder each other: all threads share one.
LARGE_MODEL_BYTES = 64 * 2**20
INSTALL_HINTS = {
    "cpu": "pip install onnxruntime",
    "cuda": 'pip install "onnxruntime-gpu[cuda,cudnn]"',
}


class OnnxRuntimeBackend(Backend):
    """An ONNX file in an ONNX Runtime session whose provider is the one asked for, never another."""

    def __init__(self, model: Path, image: ImageSpec, name: str, threads: int | None = None) -> None:
        """Load `model` for the backend `name`, "cpu" or "cuda", with so many threads on the CPU; None: one for each.

        Raises BackendError where ONNX Runtime or the provider is missing, where the session does not really run on
        the provider, or where the graph does not have the bundle's input and output.
        """
        threads = threads or available_cpus()
        is_small = name == "cpu" and _size(model) < LARGE_MODEL_BYTES
        super().__init__(image, runs_at_a_time=threads if is_small else 1)
        library = import_onnxruntime(name)
        self.name = name
        # Threads that share a small network's narrow layers mostly wait for each other: each computes cells of its own.
        self._session = _open_session(library, model, name, threads=1 if is_small else threads)
        self._parts = BatchParts(self._let_through, threads)
        self.gives_heat = self._check_contract(model)
        self.description = f"ONNX Runtime {library.__version__} {PROVIDERS[name]}"
        self._bound = self._bind() if name == "cuda" else None

    def _bind(self) -> BoundSession | None:
        try:
            return BoundSession(self._session, open_cuda())
        except BackendError as error:
            self.description += f", without page-locked memory ({error})"
            return None

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._bound is not None:
            bound = self._bound
            with self._failures(cells):
                return bound.run(cells)
        [p_all] = self._run([OUTPUT_NAME], cells)
        return p_all

    def _infer_alone(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._parts.run(self._infer, cells)

    def _infer_with_heat(self, cells: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        p_all, heat = self._run([OUTPUT_NAME, HEAT_NAME], cells)
        return p_all, heat

    def _run(self, outputs: list[str], cells: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with self._failures(cells):
            found: list[NDArray[np.float32]] = self._session.run(outputs, {INPUT_NAME: cells})
        return found

    @contextmanager
    def _failures(self, cells: NDArray[np.uint8]) -> Iterator[None]:
        try:
            yield
        except BackendError:
            raise
        except Exception as error:  # ONNX Runtime raises its own types, without a common base class
            raise BackendError(
                f"{self.description} failed on a batch of {len(cells)}: {one_line(error)}; try a smaller --batch-size"
            ) from error

    def close(self) -> None:
        """Drop the session, with which ONNX Runtime frees its memory, and free what was bound to it."""
        if self._bound is not None:
            self._bound.close()
        self._parts.close()
        del self._bound, self._session

    def _check_contract(self, model: Path) -> bool:
        """Say whether the graph gives a map too; raise BackendError where it is not one of a bundle."""

        def signature(nodes: Any) -> list[tuple[str, str, list[Any]]]:
            return [(node.name, node.type, node.shape[1:]) for node in nodes]

        inputs, (first, *others) = signature(self._session.get_inputs()), signature(self._session.get_outputs())
        expected_input = (INPUT_NAME, "tensor(uint8)", list(self._cell_shape))
        expected_output: tuple[str, str, list[Any]] = (OUTPUT_NAME, "tensor(float)", [])
        is_heat = [(name, kind, len(shape)) == (HEAT_NAME, "tensor(float)", 2) for name, kind, shape in others]
        if inputs != [expected_input] or first != expected_output or is_heat not in ([], [True]):
            raise BackendError(
                f"expected the graph {model} to take {[expected_input]} and to give {expected_output}, found that it "
                f"takes {inputs} and gives {[first, *others]}; export it again"
            )
        return bool(others)


def has_provider(name: str) -> bool:
    """Say whether an ONNX Runtime is installed that was built for the backend `name`; it may still not run."""
    try:
        return PROVIDERS[name] in _import_library(name).get_available_providers()
    except BackendError:
        return False


def import_onnxruntime(name: str) -> Any:
    """Import ONNX Runtime for the backend `name`; raise BackendError where it or its provider is missing."""
    library = _import_library(name)
    held = library.get_available_providers()
    if PROVIDERS[name] not in held:
        raise BackendError(
            f"expected the provider {PROVIDERS[name]} for the backend {name}, found {', '.join(held)}; "
            f"{INSTALL_HINTS[name]}"
        )
    if name == "cuda" and hasattr(library, "preload_dlls"):
        library.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
    return library


def _import_library(name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"expected ONNX Runtime for the backend {name}, found {error}; {INSTALL_HINTS[name]}"
        ) from error
    return onnxruntime


def _open_session(library: Any, model: Path, name: str, threads: int) -> Any:
    provider = PROVIDERS[name]
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(*EXACT_INT8)
    options.log_severity_level = 3  # errors only: what it warns of is checked here
    try:
        session = library.InferenceSession(
            str(model),
            options,
            providers=[(provider, PROVIDER_OPTIONS[name])],
            disabled_optimizers=DISABLED_OPTIMIZERS,
        )
    except Exception as error:  # ONNX Runtime raises its own types, without a common base class
        raise BackendError(f"ONNX Runtime cannot load {model}: {one_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"expected a session on {provider}, ONNX Runtime fell back to {session.get_providers()[0]}; "
            "check the driver and the CUDA libraries, or ask for the backend cpu"
        )
    return session


def _size(model: Path) -> int:
    """Return the bytes of a file; 0 for one that cannot be found, which opening it then reports."""
    try:
        return model.stat().st_size
    except OSError:
        return 0
