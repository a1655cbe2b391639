"""Builds a TensorRT engine from a bundle's ONNX on the device that runs it; needs no Keras, onnx or ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from export.engine_layers import asked_share, count_precisions, engine_layers, refuse_mislabelled
from export.engine_proof import prove_answers
from runtime.backends.cuda_runtime import open_cuda
from runtime.backends.engine_files import Machine, engine_path, record_path
from runtime.backends.nvidia_driver import driver_version
from runtime.backends.tensorrt import TensorRTBackend, import_tensorrt, load_engine, make_logger, this_machine
from runtime.backends.tensorrt_slot import checked, started
from runtime.bundle import Bundle, refuse_unproved
from runtime.errors import BundleError, ConversionError, UsageError
from runtime.files import output_errors, refuse_unwritable, written_aside
from runtime.locks import locked_folder
from runtime.schema import INPUT_NAME, OUTPUT_NAME, EngineLayer, EngineRecord, ImageSpec, Variant, to_json

DEFAULT_BATCH = (1, 8, 32)
DEFAULT_WORKSPACE_MIB = 1024  # an 8 GB Jetson shares its memory between this, the weights and everything else
DEFAULT_OPTIMIZATION_LEVEL = 3  # TensorRT's own
OPTIMIZATION_LEVELS = range(6)
HARDWARE_LEVELS = ("same-compute-capability", "ampere-plus")
HASH_DIGITS = 12


@dataclass(frozen=True)
class EngineOptions:
    """What a user decides about an engine."""

    precision: str | None = None  # None: fp16
    batch: tuple[int, int, int] = DEFAULT_BATCH  # smallest, the one to optimize for, largest
    workspace_mib: int = DEFAULT_WORKSPACE_MIB
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL
    hardware_compatible: str = ""  # or one of HARDWARE_LEVELS
    version_compatible: bool = False
    timing_cache: Path | None = None  # None: a file in the bundle's folder of engines
    unproved: bool = False  # build from a variant that failed or is not proved, too


def build_engine(folder: Path, options: EngineOptions, tell: Callable[[str], None] = print) -> Path:
    """Build an engine of a bundle's variant, prove it, and write it with its record into the bundle.

    Nothing is written unless the engine loads here, computes in the precision that was asked for and answers the golden
    cells as the variant did. `tell` is given the lines for people.

    Returns the engine's path. Raises UsageError for options that cannot be, BundleError where the bundle lacks the
    variant or it is not proved, BackendError where TensorRT, CUDA or memory is missing or a build fails,
    ConversionError where TensorRT does not take the graph or the engine is not what was asked for, OutputError where it
    cannot be written.
    """
    _refuse_unfit_batch(options)
    bundle = Bundle.open(folder)
    variant = choose_variant(bundle, options.precision)
    if not options.unproved:
        refuse_unproved(bundle, variant)
    golden = bundle.golden()
    model = bundle.path(variant)
    trt = import_tensorrt()
    machine = this_machine(trt, open_cuda())
    path = engine_path(folder, machine.gpu.name, variant.precision)
    known = TimingCache(options.timing_cache or path.with_suffix(".timing"), is_ours=options.timing_cache is None)
    with _removed_where_empty(path.parent):
        refuse_unwritable(path)  # now, not after the minutes of a build
        known.read()
        refuse_unwritable(known.path)
        build = _Build(trt, options, bundle.manifest.image, known, tell)
        tell(f"{model.name} for {machine.gpu.name}: TensorRT tries its kernels on the GPU, which takes minutes")
        plan = build.plan_of(model, variant)
        layers = engine_layers(build.describe(plan))
        refuse_mislabelled(variant.precision, layers, build.asked)
        record = _record(machine, variant, options, plan, layers)
        with TensorRTBackend(plan, record, bundle.manifest.image, path) as backend:
            tell(prove_answers(backend, golden, variant.precision, options.batch))
        _write(path, plan, record, known)
    return path


@contextmanager
def _removed_where_empty(folder: Path) -> Iterator[None]:
    """Leave no folder of engines behind that a build has made and put nothing into."""
    try:
        yield
    finally:
        with suppress(OSError):  # it holds engines, or was never made
            folder.rmdir()


def refuse_no_tensorrt() -> None:
    """Raise BackendError where TensorRT or a GPU is missing: no engine can be built here."""
    this_machine(import_tensorrt(), open_cuda())


def choose_variant(bundle: Bundle, precision: str | None) -> Variant:
    """Return the variant of that precision, fp16 where none is named; raise BundleError where the bundle has none."""
    try:
        return bundle.variant(precision or "fp16")
    except BundleError as error:
        raise BundleError(
            f"{error}; export the run again with --precision {precision or 'fp16'}, or name one that the bundle holds"
        ) from error


def _refuse_unfit_batch(options: EngineOptions) -> None:
    smallest, best, largest = options.batch
    if not 1 <= smallest <= best <= largest:
        raise UsageError(f"expected 1 <= MIN <= OPT <= MAX for --batch, received {smallest} {best} {largest}")


def _record(
    machine: Machine, variant: Variant, options: EngineOptions, plan: bytes, layers: tuple[EngineLayer, ...]
) -> EngineRecord:
    smallest, best, largest = options.batch
    return EngineRecord(
        gpu=machine.gpu.name,
        compute_capability=machine.gpu.compute_capability,
        tensorrt=machine.tensorrt,
        driver_version=driver_version(),
        driver_cuda_version=machine.gpu.driver_cuda_version,
        onnx_sha256=variant.sha256,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        precision=variant.precision,
        min_batch=smallest,
        opt_batch=best,
        max_batch=largest,
        optimization_level=options.optimization_level,
        workspace_mib=options.workspace_mib,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        layer_precisions=count_precisions(layers),
        layers=layers,
    )


def _write(path: Path, plan: bytes, record: EngineRecord, known: TimingCache) -> None:
    """Put the engine, its record and what was learnt into place, one after the other, when all three are written.

    What is cut off between the engine and its record leaves an engine that the runtime refuses: it is built again.
    """
    record_file = record_path(path)
    with (
        _engines_alone(path.parent),
        known.written_last(),
        written_aside(record_file) as record_aside,
        written_aside(path) as engine_aside,
    ):
        with output_errors(path):
            engine_aside.write_bytes(plan)
        with output_errors(record_file):
            record_aside.write_text(to_json(record), encoding="utf-8")


@contextmanager
def _engines_alone(folder: Path) -> Iterator[None]:
    """Make the folder of engines, keep other builds out of it, and remove what killed ones left half-written."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, wait=True) as is_locked:
        for aside in folder.glob(".*-????????.*") if is_locked else ():
            aside.unlink(missing_ok=True)
        yield


@dataclass
class TimingCache:
    """The file with what earlier builds have learnt about this GPU's kernels."""

    path: Path
    is_ours: bool  # kept in the bundle, not named by a user
    is_usable: bool = True
    learnt: bytes = b""  # by this build

    def read(self) -> bytes:
        """Return the file's content, nothing where there is no file; raise UsageError where it cannot be read."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise UsageError(
                f"expected a timing cache that can be read at {self.path}, found: {error.strerror}; name another file"
            ) from error

    @contextmanager
    def written_last(self) -> Iterator[None]:
        """Keep what was learnt, unless what is done inside fails.

        A user's file that TensorRT could not use is left as it is.
        """
        if not (self.is_usable or self.is_ours):
            yield
            return
        with written_aside(self.path) as aside:
            with output_errors(self.path):
                aside.write_bytes(self.learnt)
            yield


class _Build:
    """One build: TensorRT's objects need each other in a fixed order, and one logger throughout."""

    def __init__(
        self, trt: Any, options: EngineOptions, image: ImageSpec, known: TimingCache, tell: Callable[[str], None]
    ) -> None:
        self._trt = trt
        self._options = options
        self._shapes = [(count, image.height, image.width, 3) for count in options.batch]
        self._log = make_logger(trt)
        self._known = known
        self._tell = tell
        self.asked = 0.0  # the share of the network's layers with weights that it has in the variant's precision

    def plan_of(self, model: Path, variant: Variant) -> bytes:
        """Return the serialized engine of an ONNX file; Ctrl-C cancels the build."""
        trt = self._trt
        builder = started(lambda: trt.Builder(self._log), "builder", self._log)
        # Types as the graph has them: the one way in which TensorRT 10 and 11 build the same engine.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        network.name = f"allnet-edge {variant.precision} {variant.sha256[:HASH_DIGITS]}"
        self._parse(network, model)
        self.asked = asked_share(trt, network, variant.precision)
        config = self._configure(builder)
        with make_progress(trt) as progress:
            config.progress_monitor = progress
            plan = _build_cancellable(builder, network, config, progress)
        checked(plan, f"build an engine of {model.name}", self._log)
        self._known.learnt = bytes(config.get_timing_cache().serialize())
        return bytes(plan)

    def describe(self, plan: bytes) -> str:
        """Load the engine and return what TensorRT's inspector says of its layers, as JSON."""
        engine = load_engine(self._trt, self._log, plan, host_code=self._options.version_compatible)
        context = checked(engine.create_execution_context(), "create an execution context", self._log)
        # Without shapes the inspector gives no datatypes for an engine whose batch is free.
        checked(context.set_input_shape(INPUT_NAME, self._shapes[1]), "take the batch to optimize for", self._log)
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        text: str = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return text

    def _parse(self, network: Any, model: Path) -> None:
        parser = self._trt.OnnxParser(network, self._log)
        if parser.parse_from_file(str(model)):
            _keep_answers_alone(network)
            return
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = [f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" for error in errors]
        raise ConversionError(
            f"expected a graph that TensorRT takes, {model} is refused: "
            f"{'; '.join(said) or self._log.said()}; no engine was written"
        )

    def _configure(self, builder: Any) -> Any:
        trt, options = self._trt, self._options
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        config.builder_optimization_level = options.optimization_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector tells datatypes only then
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and float32 with a mantissa of 10 bits is not float32
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = _hardware_level(trt, options.hardware_compatible)
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT_NAME, *self._shapes)
        index = config.add_optimization_profile(profile)  # -1 where TensorRT refuses it
        checked(index >= 0, f"take the batch sizes {options.batch}", self._log)
        self._set_timing_cache(config)
        return config

    def _set_timing_cache(self, config: Any) -> None:
        """Give the build what an earlier one has learnt; a cache of another machine costs its time, never the build."""
        cache = config.create_timing_cache(self._known.read())
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return
        self._known.is_usable = False
        self._tell(f"{self._known.path} is not a timing cache of this GPU and TensorRT: building without it")
        cache = config.create_timing_cache(b"")
        checked(config.set_timing_cache(cache, ignore_mismatch=False), "start a timing cache", self._log)


def _keep_answers_alone(network: Any) -> None:
    """Leave out the map of a graph, for which memory would have to be bound at every batch."""
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for output in outputs:
        if output.name != OUTPUT_NAME:
            network.unmark_output(output)


def _hardware_level(trt: Any, level: str) -> Any:
    if level == "ampere-plus":
        return trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if not hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"):
        raise UsageError(
            f"expected a TensorRT that knows the hardware compatibility {level}, found {trt.__version__}; "
            "use --hardware-compatible ampere-plus"
        )
    return trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def _build_cancellable(builder: Any, network: Any, config: Any, progress: Any) -> Any:
    """Build in a thread of its own: while TensorRT holds the main thread, Python would see no Ctrl-C."""
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(builder.build_serialized_network, network, config).result()
        except BaseException:
            progress.cancel()
            raise


def make_progress(trt: Any) -> Any:
    """Return a progress monitor for TensorRT, a context manager, that shows one bar and can cancel the build."""

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT may be missing where the types are checked
        """Phases lie inside each other, and TensorRT may report from several threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._bar = tqdm(desc="building", unit="step", total=0, leave=False, disable=None)
            self._steps = 0
            self._is_cancelled = False

        def __enter__(self) -> Progress:
            return self

        def __exit__(self, *_: object) -> None:
            self._bar.close()

        def cancel(self) -> None:
            """Make TensorRT give up at its next step."""
            self._is_cancelled = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Add the phase's steps to the bar."""
            self._steps += num_steps
            self._bar.total = self._steps
            self._bar.set_description(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Count one step; False asks TensorRT to give up."""
            self._bar.update()
            return not self._is_cancelled

        def phase_finish(self, phase_name: str) -> None:
            """Nothing to tell."""

    return Progress()
