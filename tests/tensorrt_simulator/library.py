"""The module tensorrt of one version: its classes show only what that version has, and report as TensorRT does.

TensorRT raises almost nothing: a call gives None or False, and the reason goes to the logger alone.
"""

from __future__ import annotations

import enum
import json
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from tests.tensorrt_simulator.cuda import ERRORS, SimulatedGpu, Work
from tests.tensorrt_simulator.graph import Graph, Layer, Source, read_onnx, read_onnx_file
from tests.tensorrt_simulator.rules import API, FULL_VERSIONS, RuleBrokenError, members

PLAN_MAGIC = b"ftrt"
CACHE_MAGIC = b"time"
LENGTH_BYTES = 8
ITEM_SIZES = {"UINT8": 1, "FLOAT": 4, "HALF": 2, "INT8": 1}
SHORT_FORMATS = {"HALF": "Half", "FLOAT": "Float", "INT8": "Int8", "UINT8": "UInt8"}
LONG_FORMATS = {
    "HALF": "Channel major FP16 format where channel % 8 == 0",
    "FLOAT": "Row major linear FP32 format",
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "UINT8": "Row major linear UInt8 format",
}
NO_FORMAT = "N/A due to dynamic shapes"
AMPERE = (8, 0)
LONGEST_NAME = 128
WORKING_BYTES = 4096  # of each execution context

Made = TypeVar("Made")


@dataclass
class Library:
    """What all objects of one simulated TensorRT share, and what a test makes fail."""

    version: str
    gpu: SimulatedGpu
    read_file: Callable[[str], Graph] = read_onnx_file
    read_content: Callable[[bytes], Graph] = read_onnx
    enums: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)  # by what fails: what the logger is told
    known_tactics: list[int] = field(default_factory=list)  # of each build: how many its timing cache brought
    host_code_allowed: list[bool] = field(default_factory=list)  # of each plan that was read
    reports_float: bool = False  # the inspector calls every layer Float
    at_each_step: Callable[[], None] = lambda: None  # called before a build's progress is told
    was_cancelled: bool = False
    falsify: Callable[[Any], Any] = lambda answers: answers  # what an engine makes of the right answers
    hides_datatypes: bool = False  # the inspector gives no datatype even when it knows the shapes
    bears_capture: bool = True  # whether engines can be captured as CUDA graphs
    memory_to_stream: dict[int, int] = field(default_factory=dict)  # working memory that a stream's work will use

    @property
    def full_version(self) -> str:
        """The version as the module gives it."""
        return FULL_VERSIONS[self.version]

    def say(self, logger: Any, severity: str, text: str) -> None:
        """Tell the logger."""
        logger.log(getattr(self.enums["ILogger.Severity"], severity), text)

    def fails(self, what: str, logger: Any) -> bool:
        """Whether a test wants `what` to fail; the logger is told why."""
        if what not in self.failing:
            return False
        self.say(logger, "ERROR", self.failing[what])
        return True

    def require_object(self, what: str, logger: Any) -> None:
        """Raise what pybind11 does where a test wants the library to give no object."""
        if self.fails(what, logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")


class Visible:
    """Base of the simulated classes: only what the version of TensorRT has can be read, written or called."""

    library: ClassVar[Library]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            _require_member(type(self), name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            kind = _require_member(type(self), name)["type"]
            if kind not in ("property rw", "property write-only"):
                raise AttributeError(f"{type(self).__name__}.{name} is {kind}")
        object.__setattr__(self, name, value)

    @property
    def _library(self) -> Library:
        return type(self).library

    def _require_enum(self, name: str, value: Any) -> None:
        if not isinstance(value, self._library.enums[name]):
            raise TypeError(f"incompatible function arguments: {value!r} is no {name}")


def _require_member(cls: Any, name: str) -> Any:
    visible = members(cls.__name__, cls.library.version)
    if name not in visible:
        raise AttributeError(f"tensorrt {cls.library.full_version}: {cls.__name__!r} has no attribute {name!r}")
    return visible[name]


class ILogger:
    """To be subclassed in Python; its own __init__ must have run."""

    Severity: ClassVar[Any]

    def __init__(self) -> None:
        self._is_started = True


class IProgressMonitor:
    """To be subclassed in Python; its own __init__ must have run."""

    def __init__(self) -> None:
        self._is_started = True


def _require_started(value: Any, cls: type) -> None:
    if not isinstance(value, cls) or not getattr(value, "_is_started", False):
        raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")


class Dims:
    """A shape: not a tuple, but read like one."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dims | tuple | list) and list(self._shape) == [*other[:]]

    __hash__ = None  # type: ignore[assignment]


class IHostMemory(bytearray):
    """Bytes that can be read through the buffer protocol and have no length."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("nbytes", "dtype"):
            raise AttributeError(f"'IHostMemory' has no attribute {name!r}")
        return super().__getattribute__(name)

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return memoryview(self).nbytes

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")

    def __bool__(self) -> bool:
        return True


class INetworkDefinition(Visible):
    """What a parser fills."""

    def __init__(self, flags: int) -> None:
        enums = self._library.enums["NetworkDefinitionCreationFlag"]
        opted_in = bool(flags & 1 << int(enums.STRONGLY_TYPED))
        self._is_strongly_typed = opted_in or self._library.version == "11"
        self._graph: Graph | None = None
        self.name = ""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "name" and len(value) > LONGEST_NAME:
            raise RuleBrokenError(f"a network's name of {len(value)} characters")
        super().__setattr__(name, value)

    @property
    def num_layers(self) -> int:
        return len(self._graph.sources) if self._graph else 0

    def get_layer(self, index: int) -> ILayer:
        return _instance(self._library, ILayer, self._graph.sources[index])  # type: ignore[union-attr]

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def _outputs(self) -> list[Any]:
        return self._graph.outputs if self._graph else []

    def get_output(self, index: int) -> ITensor | None:
        if not 0 <= index < len(self._outputs):
            return None
        return _instance(self._library, ITensor, self._outputs[index].name, self._outputs[index].datatype)

    def unmark_output(self, tensor: ITensor) -> None:
        names = [output.name for output in self._outputs]
        if self._graph is None or tensor.name not in names:
            raise RuleBrokenError("unmark_output of a tensor that is no output")
        self._graph = self._graph.with_outputs([name for name in names if name != tensor.name])


class ITensor(Visible):
    """What a layer of a network takes or gives."""

    def __init__(self, name: str, datatype: str) -> None:
        self.name = name
        self._datatype = datatype

    @property
    def dtype(self) -> Any:
        return getattr(self._library.enums["DataType"], self._datatype)


class ILayer(Visible):
    """One layer of a network."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.name

    @property
    def type(self) -> Any:
        return getattr(self._library.enums["LayerType"], self._source.kind)

    @property
    def num_inputs(self) -> int:
        return len(self._source.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._source.outputs)

    def get_input(self, index: int) -> ITensor:
        return self._tensor(self._source.inputs, index)

    def get_output(self, index: int) -> ITensor:
        return self._tensor(self._source.outputs, index)

    def _tensor(self, tensors: dict[str, str], index: int) -> ITensor:
        return _instance(self._library, ITensor, *list(tensors.items())[index])


class ParserError(Visible):
    """Why a node is refused."""

    def __init__(self, refusal: Any) -> None:
        self._refusal = refusal

    def code(self) -> Any:
        return getattr(self._library.enums["ErrorCode"], self._refusal.code)

    def desc(self) -> str:
        return str(self._refusal.text)

    def node_name(self) -> str:
        return str(self._refusal.node)

    def node_operator(self) -> str:
        return str(self._refusal.operator)


class OnnxParser(Visible):
    """Fills a network from a file; what it cannot take is counted as errors."""

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        _require_started(logger, ILogger)
        self._network, self._logger = network, logger
        self._refusals: list[Any] = []

    def parse_from_file(self, model: str) -> bool:
        if type(model) is not str:
            raise TypeError("parse_from_file(): incompatible function arguments")
        graph = self._library.read_file(model)
        self._refusals = graph.refusals
        for refusal in graph.refusals:
            self._library.say(self._logger, "ERROR", refusal.text)
        if not graph.refusals:
            self._network._graph = graph
        return not graph.refusals

    @property
    def num_errors(self) -> int:
        return len(self._refusals)

    def get_error(self, index: int) -> ParserError:
        return _instance(self._library, ParserError, self._refusals[index])


class IOptimizationProfile(Visible):
    """The range of shapes of each input."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = (tuple(min), tuple(opt), tuple(max))
        if any(not small <= mid <= large for small, mid, large in zip(*shapes, strict=True)):
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self._shapes[input] = shapes


class ITimingCache(Visible):
    """What builds have learnt about one GPU and version."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def _fits(self) -> bool:
        return self._content in (b"", self._own_header) or self._content.startswith(self._own_header)

    @property
    def _own_header(self) -> bytes:
        return CACHE_MAGIC + f"{self._library.full_version} {self._library.gpu.name}|".encode()

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content or self._own_header)


class IBuilderConfig(Visible):
    """How to build."""

    def __init__(self) -> None:
        self._pools: dict[str, int] = {}
        self._flags = {"TF32"}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self.builder_optimization_level = 3
        self.progress_monitor = None
        self.profiling_verbosity = self._library.enums["ProfilingVerbosity"].LAYER_NAMES_ONLY
        self.hardware_compatibility_level = self._library.enums["HardwareCompatibilityLevel"].NONE

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._require_enum("MemoryPoolType", pool)
        self._pools[pool.name] = pool_size

    def set_flag(self, flag: Any) -> None:
        self._require_enum("BuilderFlag", flag)
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._require_enum("BuilderFlag", flag)
        self._flags.discard(flag.name)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if not profile._shapes:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return _instance(self._library, ITimingCache, bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not (cache._fits or ignore_mismatch):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(Visible):
    """Builds engines for the GPU that is there."""

    def __init__(self, logger: Any) -> None:
        _require_started(logger, ILogger)
        self._library.require_object("builder", logger)
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        if type(flags) is not int:
            raise TypeError("create_network(): incompatible function arguments")
        return _instance(self._library, INetworkDefinition, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return _instance(self._library, IBuilderConfig)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return _instance(self._library, IOptimizationProfile)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if self._library.fails("build", self._logger):
            return None
        problem = self._problem(network, config)
        if problem:
            self._library.say(self._logger, "ERROR", problem)
            return None
        if not self._ran_through(config.progress_monitor):
            self._library.was_cancelled = True
            return None
        if config._cache is not None:
            self._learn(config._cache)
        return IHostMemory(self._plan(network, config))

    def _problem(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
        if network._graph is None:
            return "Network must have at least one output"
        if not config._profiles:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        if {tensor.name for tensor in network._graph.inputs} != config._profiles[0]._shapes.keys():
            return "Optimization profile is missing values for an input"
        if not 0 <= config.builder_optimization_level <= 5:
            return f"builder optimization level {config.builder_optimization_level} is out of range"
        if network._is_strongly_typed and config._flags & {"FP16", "BF16", "INT8", "FP8"}:
            return "Precision flags are not allowed for a strongly typed network"
        if config._pools.get("WORKSPACE", 1 << 40) < 1 << 20:
            return "Could not find any implementation for node conv due to insufficient workspace"
        return ""

    def _ran_through(self, monitor: Any) -> bool:
        """Report a build's phases; False where the monitor cancels it."""
        if monitor is None:
            return True
        _require_started(monitor, IProgressMonitor)
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Tactic Selection", "Building Engine", 3)
        for step in range(3):
            self._library.at_each_step()
            if monitor.step_complete("Tactic Selection", step) is not True:
                return False
        monitor.phase_finish("Tactic Selection")
        monitor.step_complete("Building Engine", 0)
        monitor.phase_finish("Building Engine")
        return True

    def _learn(self, cache: ITimingCache) -> None:
        learnt = cache._content[len(cache._own_header) :]
        self._library.known_tactics.append(len(learnt))
        cache._content = cache._own_header + (learnt or b"conv")

    def _plan(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes:
        graph: Any = network._graph
        header = {
            "version": self._library.full_version,
            "gpu": self._library.gpu.name,
            "capability": list(self._library.gpu.capability),
            "hardware": config.hardware_compatibility_level.name,
            "version_compatible": "VERSION_COMPATIBLE" in config._flags,
            "name": network.name,
            "profile": config._profiles[0]._shapes,
            "verbosity": config.profiling_verbosity.name,
            "typed": network._is_strongly_typed,
            "tf32": "TF32" in config._flags,
            "workspace": config._pools.get("WORKSPACE"),
            "outputs": [output.name for output in graph.outputs],
            "content": len(graph.content),
        }
        text = json.dumps(header).encode()
        return b"".join((PLAN_MAGIC, len(text).to_bytes(LENGTH_BYTES, "little"), text, graph.content))


class Runtime(Visible):
    """Reads plans."""

    def __init__(self, logger: Any) -> None:
        _require_started(logger, ILogger)
        self._library.require_object("runtime", logger)
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        if self._library.fails("deserialize", self._logger):
            return None
        self._library.host_code_allowed.append(self.engine_host_code_allowed)
        header, content = _opened(bytes(serialized_engine))
        problem = self._problem(header, content)
        if problem:
            self._library.say(self._logger, "ERROR", problem)
            return None
        graph = self._library.read_content(content).with_outputs(header["outputs"])
        return _instance(self._library, ICudaEngine, self._logger, header, graph)

    def _problem(self, header: dict[str, Any], content: bytes) -> str:
        if not header or header["content"] != len(content):
            return "Serialization assertion failed: stream is truncated or has no magic tag"
        if header["version_compatible"] and not self.engine_host_code_allowed:
            return "Plan contains host code, which is not allowed: set engine_host_code_allowed"
        if not header["version_compatible"] and header["version"] != self._library.full_version:
            return f"Version tag does not match: {header['version']} is not {self._library.full_version}"
        here, built = self._library.gpu.capability, tuple(header["capability"])
        fits = here >= AMPERE if header["hardware"] == "AMPERE_PLUS" else here == built
        return "" if fits else f"The engine plan file is generated on an incompatible device: {built} is not {here}"


def _opened(plan: bytes) -> tuple[dict[str, Any], bytes]:
    start = len(PLAN_MAGIC) + LENGTH_BYTES
    end = start + int.from_bytes(plan[len(PLAN_MAGIC) : start], "little")
    if not plan.startswith(PLAN_MAGIC) or end > len(plan):
        return {}, b""
    return json.loads(plan[start:end]), plan[end:]


class ICudaEngine(Visible):
    """A plan that was read."""

    def __init__(self, logger: Any, header: dict[str, Any], graph: Graph) -> None:
        self._logger, self._header, self._graph = logger, header, graph
        self._tensors = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
        self._inputs = {tensor.name for tensor in graph.inputs}

    @property
    def name(self) -> str:
        return str(self._header["name"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._library.enums["TensorIOMode"]
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._library.enums["DataType"], self._tensors[name].datatype)

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if name not in self._inputs or profile_index != 0:
            raise RuleBrokenError(f"profile {profile_index} of {name}: only inputs have one, and there is only one")
        return [Dims(shape) for shape in self._header["profile"][name]]

    @property
    def device_memory_size_v2(self) -> int:
        return WORKING_BYTES

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
        if strategy is not None:
            self._require_enum("ExecutionContextAllocationStrategy", strategy)
        if self._library.fails("context", self._logger):
            return None
        is_given_memory = strategy is not None and strategy.name == "USER_MANAGED"
        return _instance(self._library, IExecutionContext, self, is_given_memory)

    def create_engine_inspector(self) -> EngineInspector:
        return _instance(self._library, EngineInspector, self)


class IExecutionContext(Visible):
    """Runs an engine: shapes first, then every address, then the work on a stream of one's own."""

    def __init__(self, engine: ICudaEngine, is_given_memory: bool) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._is_given_memory = is_given_memory
        self._working_memory = 0
        self._shapes_run: dict[str, tuple[int, ...]] = {}  # of the last work that was no capture

    def set_device_memory(self, memory: int, size: int) -> None:
        if not self._is_given_memory:
            raise RuleBrokenError("working memory given to a context that has its own")
        if size < self._engine.device_memory_size_v2 or self._library.gpu.device_bytes(memory, size) is None:
            raise RuleBrokenError(f"{size} bytes at {memory:#x} are no working memory")
        self._working_memory = memory

    def set_input_shape(self, name: str, shape: Any) -> bool:
        shapes = self._engine._header["profile"].get(name)
        wanted = tuple(shape)
        is_inside = shapes and len(wanted) == len(shapes[0])
        if not is_inside or any(
            not low <= size <= high for low, size, high in zip(shapes[0], wanted, shapes[2], strict=True)
        ):
            return self._refused(f"Static dimension mismatch or outside the profile: {name} {wanted}")
        self._shapes[name] = wanted
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if type(memory) is not int:
            raise TypeError("set_tensor_address(): incompatible function arguments")
        if name not in self._engine._tensors:
            return self._refused(f"Given invalid tensor name: {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._library.fails("enqueue", self._engine._logger):
            return False
        left = self._library.gpu.take_last_error()
        if left:
            return self._refused(f"Error Code 1: Cuda Runtime ({ERRORS[left][1]})")
        for name in self._engine._inputs - self._shapes.keys():
            return self._refused(f"Not all shapes are specified: {name}")
        for name in self._engine._tensors.keys() - self._addresses.keys():
            return self._refused(f"Address is not set for the tensor {name}")
        if self._is_given_memory and not self._working_memory:
            return self._refused("Working memory is not set")
        if self._library.gpu.is_capturing(stream_handle):
            self._begin_capture(stream_handle)
        else:
            self._shapes_run = dict(self._shapes)
            self._claim_working_memory(stream_handle)
        if not self._library.gpu.enqueue(stream_handle, self._work(stream_handle)):
            return self._refused(f"Invalid stream {stream_handle}")
        return True

    def _begin_capture(self, stream: int) -> None:
        if self._shapes_run != self._shapes:
            raise RuleBrokenError("a shape captured for which the context has not run yet")
        if not self._library.bears_capture:
            self._library.gpu.spoil_capture(stream)

    def _work(self, stream: int) -> Work:
        shapes, addresses, context = dict(self._shapes), dict(self._addresses), weakref.ref(self)
        name_to_bytes = {name: self._memory(name) for name in self._engine._tensors}

        def require_unchanged() -> None:
            found = context()
            if found is None or (found._shapes, found._addresses) != (shapes, addresses):
                raise RuleBrokenError("a graph launched whose context is gone or was given another shape or address")
            found._claim_working_memory(stream)

        def compute() -> None:
            running = context()
            if running is None:
                raise RuleBrokenError("a context dropped while its work was still to be done")
            running._compute(name_to_bytes, shapes)

        return Work(compute, require_unchanged)

    def _claim_working_memory(self, stream: int) -> None:
        """Note that work on a stream will use the working memory; contexts may share it only on one stream."""
        if self._library.memory_to_stream.setdefault(self._working_memory, stream) != stream and self._working_memory:
            raise RuleBrokenError("working memory used on two streams at a time")

    def _refused(self, text: str) -> bool:
        self._library.say(self._engine._logger, "ERROR", f"IExecutionContext: {text}")
        return False

    def _memory(self, name: str) -> Any:
        batch = next(iter(self._shapes.values()))[0]
        tensor = self._engine._tensors[name]
        size = math.prod((batch, *tensor.shape[1:])) * ITEM_SIZES[tensor.datatype]
        memory = self._library.gpu.device_bytes(self._addresses[name], size)
        if memory is None:
            raise RuleBrokenError(f"{name} needs {size} bytes of device memory at {self._addresses[name]:#x}")
        return memory

    def _compute(self, name_to_bytes: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
        inputs = {name: name_to_bytes[name].reshape(shape).copy() for name, shape in shapes.items()}
        for name, right in self._engine._graph.run(inputs).items():
            array = self._library.falsify(right)
            name_to_bytes[name][:] = array.view("uint8").reshape(-1)
        self._library.memory_to_stream.pop(self._working_memory, None)


class EngineInspector(Visible):
    """Tells what an engine's layers are; datatypes only for a detailed engine with known shapes."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context = None

    def get_engine_information(self, format: Any) -> str:
        self._require_enum("LayerInformationFormat", format)
        layers = self._engine._graph.layers
        if self._engine._header["verbosity"] != "DETAILED":
            return json.dumps({"Layers": [layer.name for layer in layers]})
        return json.dumps({"Layers": [self._told(layer) for layer in layers], "Bindings": list(self._engine._tensors)})

    def _told(self, layer: Layer) -> dict[str, Any]:
        told: dict[str, Any] = {"Name": layer.name, "LayerType": layer.kind}
        formats = LONG_FORMATS if layer.kind == "CaskConvolution" else SHORT_FORMATS
        for side, tensors in (("Inputs", layer.inputs), ("Outputs", layer.outputs)):
            told[side] = [
                {"Name": name, "Format/Datatype": self._format(formats, datatype)} for name, datatype in tensors.items()
            ]
        if layer.weights and not self._library.hides_datatypes:
            told["Weights"] = {"Type": SHORT_FORMATS[self._computed(layer.weights)], "Count": 1}
        return told

    def _format(self, formats: dict[str, str], datatype: str) -> str:
        context = self.execution_context
        if self._library.hides_datatypes or context is None or not context._shapes:
            return NO_FORMAT
        return formats.get(self._computed(datatype), datatype)

    def _computed(self, datatype: str) -> str:
        """A network that is not strongly typed computes in float32 where no flag says otherwise."""
        is_typed = self._engine._header["typed"] and not self._library.reports_float
        return datatype if is_typed or datatype not in ("HALF", "INT8") else "FLOAT"


class _EnumMember(enum.Enum):
    """A member of one of TensorRT's enumerations: an integer only when asked, and in no order."""

    def __int__(self) -> int:
        return int(self.value)


SIMULATED = (
    INetworkDefinition,
    ITensor,
    ILayer,
    ParserError,
    OnnxParser,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    Builder,
    Runtime,
    ICudaEngine,
    IExecutionContext,
    EngineInspector,
)


class SimulatedModule(ModuleType):
    """The module tensorrt; `library` is for the tests alone."""

    library: Library

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"module 'tensorrt' {self.library.full_version} has no attribute {name!r}")


def tensorrt_module(library: Library) -> SimulatedModule:
    """Return the module tensorrt of the library's version."""
    module: Any = SimulatedModule("tensorrt")
    module.library = library
    module.__version__ = library.full_version
    functional: Any = _EnumMember  # called with names, an enumeration without members makes one
    for name, described in API["classes"].items():
        if described["kind"] == "enum":
            names = members(name, library.version)
            library.enums[name] = functional(name.rsplit(".")[-1], {key: place for place, key in enumerate(names)})
            if "." not in name:
                setattr(module, name, library.enums[name])
    module.ILogger = type("ILogger", (ILogger,), {"Severity": library.enums["ILogger.Severity"]})
    module.IProgressMonitor = IProgressMonitor
    for cls in SIMULATED:
        setattr(module, cls.__name__, type(cls.__name__, (cls,), {"library": library}))
        library.classes[cls.__name__] = getattr(module, cls.__name__)
    simulated: SimulatedModule = module
    return simulated


def _instance(library: Library, cls: type[Made], *arguments: Any) -> Made:
    """Make an object of the class as this library shows it."""
    made: Made = library.classes[cls.__name__](*arguments)
    return made
