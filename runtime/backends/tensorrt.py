"""TensorRT: an engine that was built on this kind of device, with several batches in flight."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.base import Backend
from runtime.backends.cuda_runtime import CudaRuntime, open_cuda
from runtime.backends.engine_files import (
    Machine,
    build_hint,
    built_engines,
    engine_path,
    read_plan,
    read_record,
    refuse_unfit,
)
from runtime.backends.tensorrt_slot import Slot, checked, started
from runtime.errors import BackendError
from runtime.schema import ENGINES_FOLDER, INPUT_NAME, OUTPUT_NAME, EngineRecord, ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

INSTALL_HINT = "pip install tensorrt cuda-bindings (a Jetson brings it as the system package python3-libnvinfer)"
KEPT_MESSAGES = 3  # of TensorRT's log, to say why a call failed
DYNAMIC = -1  # how TensorRT writes a free dimension
RUNS_AT_A_TIME = 2  # while one batch is computed, the next is copied to the device


class TensorRTBackend(Backend):
    """A TensorRT engine with as many slots as batches may be in flight.

    Batches larger than the engine's largest are split. Sizes that come again are replayed as CUDA graphs; where the
    engine cannot be captured, `description` says so and why.
    """

    name = "tensorrt"

    def __init__(self, plan: bytes, record: EngineRecord, image: ImageSpec, path: Path) -> None:
        """Load an engine that fits this machine; `open_engine` opens one of a bundle.

        Args:
            plan: The serialized engine.
            record: What it is.
            image: The image preparation of the bundle.
            path: Where its file stands in the bundle's folder of engines, or will stand.

        Raises BackendError where TensorRT, CUDA or memory is missing, where TensorRT cannot read the engine, or where
        it does not take and give what the bundle says.
        """
        super().__init__(image, RUNS_AT_A_TIME)
        self._held = ExitStack()  # frees in reverse order what opening took
        try:
            self._open(plan, record, path)
        except BaseException:
            self.close()
            raise

    def _open(self, plan: bytes, record: EngineRecord, path: Path) -> None:
        trt = import_tensorrt()
        self._cuda = open_cuda()
        machine = this_machine(trt, self._cuda)
        self._log = make_logger(trt)
        engine = load_engine(trt, self._log, plan, host_code=record.version_compatible)
        self._refuse_another_contract(trt, engine, path)
        self._min_batch, _, self._max_batch = (shape[0] for shape in engine.get_tensor_profile_shape(INPUT_NAME, 0))
        self.description = f"TensorRT {machine.tensorrt} on {machine.gpu.name}, {path.name}"
        self._idle = [self._open_slot(trt, engine) for _ in range(RUNS_AT_A_TIME)]
        self._held.callback(delattr, self, "_idle")
        for slot in self._idle:
            self._held.callback(slot.settle)  # all of them, before anything is freed
        self._prove_capture()

    def _open_slot(self, trt: Any, engine: Any) -> Slot:
        slot = Slot(trt, engine, self._cuda, self._log, self._cell_shape)
        self._held.callback(slot.close)
        return slot

    def _prove_capture(self) -> None:
        """Capture the smallest batch, so that `description` says from the start whether there are CUDA graphs."""
        self._captures = True
        self._capturing = threading.Lock()
        for slot in self._idle:
            self._capture(slot, self._min_batch)

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(cells), self._max_batch)
        with self._taken_slot() as slot:
            return np.concatenate([self._infer_part(slot, cells[at : at + self._max_batch]) for at in starts])

    @contextmanager
    def _taken_slot(self) -> Iterator[Slot]:
        """Lend the slot that was given back last: a single worker always uses the same one, and its graphs."""
        slot = self._idle.pop()
        try:
            yield slot
        finally:
            self._idle.append(slot)

    def _infer_part(self, slot: Slot, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute one batch of at most the profile's size; one that is too small is filled up."""
        count = max(len(cells), self._min_batch)
        p_all = slot.infer(cells, count)
        if slot.has_come_again(count):
            self._capture(slot, count)
        return p_all

    def _capture(self, slot: Slot, count: int) -> None:
        with self._capturing:
            if not self._captures:
                return
            try:
                slot.capture(count)
            except BackendError as error:  # not every engine can be captured: continue without, for good
                self._captures = False
                self.description += f", without further CUDA graphs ({error})"

    def close(self) -> None:
        """Free contexts, engine, buffers and streams; harmless a second time."""
        self._held.close()

    def _refuse_another_contract(self, trt: Any, engine: Any, path: Path) -> None:
        names = sorted(engine.get_tensor_name(index) for index in range(engine.num_io_tensors))
        found = [
            (
                name,
                engine.get_tensor_mode(name),
                engine.get_tensor_dtype(name),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        ]
        expected = [
            (INPUT_NAME, trt.TensorIOMode.INPUT, trt.DataType.UINT8, (DYNAMIC, *self._cell_shape)),
            (OUTPUT_NAME, trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (DYNAMIC,)),
        ]
        if found != expected:
            raise BackendError(f"expected {path} to take and give {expected}, found {found}; {build_hint(path)}")


def open_engine(bundle: Path, precision: str, image: ImageSpec, onnx_sha256: str) -> TensorRTBackend:
    """Open the engine of that precision in a bundle's folder that fits this machine.

    Args:
        bundle: The folder.
        precision: One of ENGINE_PRECISIONS.
        image: The image preparation of the bundle.
        onnx_sha256: Of the ONNX file that the engine must have been built from.

    Raises BackendError as `find_engine` does, where the engine cannot be loaded, and where it is damaged.
    """
    path, record = find_engine(bundle, precision, onnx_sha256)
    return TensorRTBackend(read_plan(path, record), record, image, path)


def import_tensorrt() -> Any:
    """Import TensorRT; raise BackendError where it is missing."""
    try:
        import tensorrt
    except ImportError as error:
        raise BackendError(f"expected TensorRT for the backend tensorrt, found {error}; {INSTALL_HINT}") from error
    return tensorrt


def make_logger(trt: Any) -> Any:
    """Return a logger for TensorRT whose `said` gives its last errors, or its last warnings where there are none."""

    class Log(trt.ILogger):  # type: ignore[misc]  # TensorRT may be missing where the types are checked
        """TensorRT says only here why a call failed, and may do so from several threads."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._warnings: list[str] = []
            self._errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            """Keep what is a warning or worse."""
            line = " ".join(msg.split())
            if severity == trt.ILogger.Severity.WARNING:
                self._warnings = [*self._warnings[1 - KEPT_MESSAGES :], line]
            elif severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors = [*self._errors[1 - KEPT_MESSAGES :], line]

        def said(self) -> str:
            """Return the last messages in one line."""
            return "; ".join(self._errors or self._warnings) or "nothing"

    return Log()


def load_engine(trt: Any, log: Any, plan: bytes, *, host_code: bool) -> Any:
    """Return the engine of a plan; raise BackendError where TensorRT refuses it.

    A version-compatible plan carries code that runs on the CPU; only for such a plan is `host_code` allowed.
    """
    runtime = started(lambda: trt.Runtime(log), "runtime", log)
    if host_code:
        runtime.engine_host_code_allowed = True
    return checked(runtime.deserialize_cuda_engine(plan), "read the engine", log)


def this_machine(trt: Any, cuda: CudaRuntime) -> Machine:
    """Return what an engine that is built here is tied to."""
    return Machine(cuda.gpu(), trt.__version__)


def find_engine(bundle: Path, precision: str, onnx_sha256: str) -> tuple[Path, EngineRecord]:
    """Return the engine of that precision that fits this machine, its own first, and its record.

    Raises BackendError where TensorRT or CUDA is missing, where none was built, or where none fits.
    """
    engines = built_engines(bundle, precision)
    if not engines:
        raise BackendError(
            f"expected an engine of precision {precision} in {bundle / ENGINES_FOLDER}, found none; "
            f"python -m export engine {bundle} --precision {precision} builds one on this device"
        )
    machine = this_machine(import_tensorrt(), open_cuda())
    own = engine_path(bundle, machine.gpu.name, precision)
    reasons = []
    for path in sorted(engines, key=lambda engine: engine != own):
        try:
            record = read_record(path)
            refuse_unfit(record, path, machine, onnx_sha256)
        except BackendError as error:
            reasons.append(error)
        else:
            return path, record
    raise reasons[0]
