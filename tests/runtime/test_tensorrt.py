from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import runtime.backends.onnxruntime
import runtime.backends.select
import runtime.backends.tensorrt_slot
from export.engine import EngineOptions, build_engine
from runtime.backends.engine_files import read_record, record_path
from runtime.backends.select import open_backend, open_model
from runtime.backends.tensorrt import TensorRTBackend, find_engine, import_tensorrt, make_logger
from runtime.backends.tensorrt import open_engine as open_engine_of_size
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.classify import main as classify
from runtime.errors import BackendError
from runtime.files import sha256_of_file
from runtime.schema import CLASSES, SELF_TEST_TOLERANCES, ImageSpec, to_json
from tests.tensorrt_simulator.cuda import SimulatedGpu
from tests.tensorrt_simulator.install import install
from tests.tensorrt_simulator.library import Library
from tests.tensorrt_simulator.rules import VERSIONS, RuleBrokenError
from tests.tiny_bundle import SIZE, move_golden_answers, onnx_answers, some_cells, write_tiny_bundle

IMAGE = ImageSpec(SIZE, SIZE)
REAL_TOLERANCE = SELF_TEST_TOLERANCES["fp16"]  # of p_all, for float16 kernels of a real GPU


def open_engine(folder: Path, precision: str = "fp16") -> TensorRTBackend:
    bundle = Bundle.open(folder)
    backend = open_backend(bundle, "tensorrt", bundle.variant(precision))
    assert isinstance(backend, TensorRTBackend)
    return backend


def rewrite_record(engine: Path, **changes: object) -> None:
    record = json.loads(record_path(engine).read_text(encoding="utf-8"))
    record_path(engine).write_text(json.dumps({**record, **changes}), encoding="utf-8")


@pytest.fixture
def engine(simulated: Library, tiny_bundle: Path) -> Path:
    """An fp16 engine in the tiny bundle, built by the simulated TensorRT."""
    return build_engine(tiny_bundle, EngineOptions())


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
def test_an_engine_answers_like_onnx_runtime_at_any_batch_size(
    any_tensorrt: str, tiny_bundle: Path, precision: str
) -> None:
    build_engine(tiny_bundle, EngineOptions(precision))
    cells = some_cells(70)
    expected = onnx_answers(tiny_bundle / f"model.{precision}.onnx", cells)
    assert np.ptp(expected) > 0.05, "cells that all get one answer would prove nothing"
    with open_engine(tiny_bundle, precision) as backend:
        for count in (1, 3, 32, 70, 3, 3):  # the last ones are replayed
            p_all = backend.infer(cells[:count])
            assert p_all.dtype == np.float32
            assert p_all.shape == (count,)
            tolerance = REAL_TOLERANCE if any_tensorrt == "real" else 1e-6
            np.testing.assert_allclose(p_all, expected[:count], atol=tolerance)


def test_what_fills_up_the_smallest_batch_is_never_an_answer(any_tensorrt: str, tiny_bundle: Path) -> None:
    build_engine(tiny_bundle, EngineOptions(batch=(4, 4, 8)))
    cells = some_cells(9)
    expected = onnx_answers(tiny_bundle / "model.fp16.onnx", cells)
    with open_engine(tiny_bundle) as backend:
        np.testing.assert_allclose(backend.infer(cells), expected, atol=REAL_TOLERANCE)
        np.testing.assert_allclose(backend.infer(cells[:1]), expected[:1], atol=REAL_TOLERANCE)


def test_the_callers_arrays_stay_the_callers(simulated: Library, engine: Path) -> None:
    cells = some_cells(3)
    with open_engine(engine.parent.parent) as backend:
        first = backend.infer(cells)
        kept = first.copy()
        cells[:] = 0
        assert np.abs(backend.infer(cells) - kept).max() > 1e-3
        np.testing.assert_array_equal(first, kept)


def test_an_engine_for_another_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    for gpu in (SimulatedGpu("Simulated H100", (9, 0)), SimulatedGpu("Simulated Thor", (8, 7))):
        install(monkeypatch, simulated.version, gpu)
        with pytest.raises(
            BackendError,
            match=rf"expected an engine for {gpu.name} \(compute capability \d\.\d\), "
            r"found simulated-orin-fp16\.engine for Simulated Orin \(compute capability 8\.7\); "
            r"python -m export engine .*bundle --precision fp16 builds one on this device",
        ):
            open_engine(tiny_bundle)


def test_an_engine_of_another_tensorrt_is_refused(
    monkeypatch: pytest.MonkeyPatch, engine: Path, simulated: Library, tiny_bundle: Path
) -> None:
    other = next(version for version in VERSIONS if version != simulated.version)
    install(monkeypatch, other)
    with pytest.raises(
        BackendError, match=rf"expected an engine for TensorRT {other}\S*, found simulated-orin-fp16\.engine built by "
    ):
        open_engine(tiny_bundle)


def test_an_engine_of_another_onnx_file_is_refused(engine: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", seed=1)
    engine.parent.rename(other / "engines")
    with pytest.raises(
        BackendError, match=r"expected an engine of the ONNX file with the SHA-256 .*the bundle was exported again"
    ):
        open_engine(other)


def test_a_tampered_engine_is_refused(engine: Path, tiny_bundle: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(BackendError, match=r"to have the SHA-256 .* the file was changed or damaged; python -m export"):
        open_engine(tiny_bundle)


def test_an_engine_without_its_record_is_refused(engine: Path, tiny_bundle: Path) -> None:
    record_path(engine).unlink()
    with pytest.raises(BackendError, match=r"expected the engine's record .*\.json, found none that can be read"):
        open_engine(tiny_bundle)


def test_a_record_with_a_key_too_many_is_refused(engine: Path, tiny_bundle: Path) -> None:
    rewrite_record(engine, note="mine")
    with pytest.raises(BackendError, match=r"unknown \['note'\]; build the engine again"):
        open_engine(tiny_bundle)


def test_a_record_of_an_earlier_version_says_to_build_it_again(engine: Path, tiny_bundle: Path) -> None:
    record = json.loads(record_path(engine).read_text(encoding="utf-8"))
    for key in ("driver_version", "driver_cuda_version", "layers"):
        del record[key]
    record_path(engine).write_text(json.dumps({**record, "driver": "12.6"}), encoding="utf-8")
    with pytest.raises(BackendError, match=r"unknown \['driver'\]; build the engine again"):
        open_engine(tiny_bundle)


def test_an_engine_that_tensorrt_cannot_read_is_refused_with_what_it_said(any_tensorrt: str, tiny_bundle: Path) -> None:
    engine = build_engine(tiny_bundle, EngineOptions())
    engine.write_bytes(engine.read_bytes()[:-200])
    rewrite_record(engine, engine_sha256=sha256_of_file(engine))
    with pytest.raises(BackendError, match=r"TensorRT could not read the engine; it said: .") as caught:
        open_engine(tiny_bundle)
    if any_tensorrt != "real":
        assert "stream is truncated" in str(caught.value)


def test_an_engine_for_cells_of_another_size_is_refused(simulated: Library, engine: Path, tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"expected .* to take and give .*99, 99.*found .*12, 12"):
        open_engine_of_size(tiny_bundle, "fp16", ImageSpec(99, 99), read_record(engine).onnx_sha256)
    assert simulated.gpu.held == 0


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [("10.3", "10.13", True), ("10.3", "11", True), ("10.16", "10.3", False), ("11", "10.16", False)],
)
def test_a_version_compatible_engine_runs_on_newer_tensorrt_alone(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, built: str, here: str, fits: bool
) -> None:
    install(monkeypatch, built)
    build_engine(tiny_bundle, EngineOptions(version_compatible=True))
    install(monkeypatch, here)
    if fits:
        with open_engine(tiny_bundle) as backend:
            assert len(backend.infer(some_cells(2))) == 2
    else:
        with pytest.raises(BackendError, match="expected an engine for TensorRT"):
            open_engine(tiny_bundle)


def test_an_engines_own_code_is_allowed_for_a_version_compatible_engine_alone(
    simulated: Library, tiny_bundle: Path
) -> None:
    for version_compatible in (False, True):
        build_engine(tiny_bundle, EngineOptions(version_compatible=version_compatible))
        simulated.host_code_allowed.clear()
        open_engine(tiny_bundle).close()
        assert simulated.host_code_allowed == [version_compatible]


@pytest.mark.parametrize(
    ("level", "capability", "fits"),
    [
        ("ampere-plus", (9, 0), True),
        ("ampere-plus", (7, 5), False),
        ("same-compute-capability", (8, 7), True),
        ("same-compute-capability", (8, 9), False),
    ],
)
def test_a_hardware_compatible_engine_runs_on_the_gpus_that_it_was_built_for(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, level: str, capability: tuple[int, int], fits: bool
) -> None:
    install(monkeypatch, "10.13")
    build_engine(tiny_bundle, EngineOptions(hardware_compatible=level))
    install(monkeypatch, "10.13", SimulatedGpu("Another GPU", capability))
    if fits:
        open_engine(tiny_bundle).close()
    else:
        with pytest.raises(BackendError, match="expected an engine for Another GPU"):
            open_engine(tiny_bundle)


def test_the_machines_own_engine_comes_before_a_compatible_one(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    for name in ("A GPU", "Simulated Orin"):
        install(monkeypatch, "10.13", SimulatedGpu(name))
        build_engine(tiny_bundle, EngineOptions(hardware_compatible="ampere-plus"))
    sha256 = Bundle.open(tiny_bundle).variant("fp16").sha256
    assert find_engine(tiny_bundle, "fp16", sha256)[0].name == "simulated-orin-fp16.engine"


OPENING_CALLS = ["cudaDeviceGetAttribute", "cudaStreamCreateWithFlags", "cudaMalloc", "cudaMallocHost"]


@pytest.mark.parametrize("function", OPENING_CALLS)
def test_a_cuda_error_while_opening_is_named_and_leaves_nothing(
    simulated: Library, engine: Path, tiny_bundle: Path, function: str
) -> None:
    simulated.gpu.failures[function] = 2
    with pytest.raises(
        BackendError,
        match=rf"{function}\(.*\) failed with cudaErrorMemoryAllocation: out of memory; end other programs on this GPU",
    ):
        open_engine(tiny_bundle)
    assert simulated.gpu.held == 0


def test_too_little_memory_for_the_second_buffer_frees_the_first(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    simulated.gpu.memory = 32 * SIZE * SIZE * 3 + 4
    with pytest.raises(BackendError, match=r"cudaMalloc\(128\) failed with cudaErrorMemoryAllocation"):
        open_engine(tiny_bundle)
    assert simulated.gpu.held == 0


def test_a_context_that_tensorrt_cannot_make_leaves_nothing(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    simulated.failing["context"] = "OutOfMemory: requested 1 GiB\nfor the context"
    with pytest.raises(
        BackendError,
        match="TensorRT could not create an execution context; it said: OutOfMemory: requested 1 GiB for the context",
    ):
        open_engine(tiny_bundle)
    assert simulated.gpu.held == 0


def test_a_failing_enqueue_is_an_error_with_what_tensorrt_said(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle) as backend:
        simulated.failing["enqueue"] = "Cuda Runtime: unspecified launch failure"
        with pytest.raises(
            BackendError,
            match="TensorRT could not compute a batch of 3; it said: Cuda Runtime: unspecified launch",
        ):
            backend.infer(some_cells(3))
    assert simulated.gpu.held == 0


def test_what_a_failed_batch_left_in_flight_is_waited_for_before_anything_is_freed(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    for position in (0, -1):
        with open_engine(tiny_bundle) as backend:
            simulated.failing["enqueue"] = "Cuda Runtime: unspecified launch failure"
            with pytest.raises(BackendError, match="could not compute"):
                backend._idle[position].infer(some_cells(3), 3)
            simulated.failing.clear()
        assert simulated.gpu.held == 0


@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_a_cuda_error_while_computing_is_named(
    simulated: Library, engine: Path, tiny_bundle: Path, function: str
) -> None:
    with open_engine(tiny_bundle) as backend:
        simulated.gpu.failures[function] = 719
        with pytest.raises(BackendError, match=rf"{function}\(.*\) failed with cudaErrorLaunchFailure: unspecified"):
            backend.infer(some_cells(3))
        simulated.gpu.failures.clear()
    assert simulated.gpu.held == 0


def test_closing_twice_frees_once(any_tensorrt: str, tiny_bundle: Path) -> None:
    build_engine(tiny_bundle, EngineOptions())
    backend = open_engine(tiny_bundle)
    backend.infer(some_cells(1))
    backend.close()
    backend.close()
    with pytest.raises(AttributeError):
        backend.infer(some_cells(1))


def test_closing_gives_everything_back(simulated: Library, engine: Path, tiny_bundle: Path) -> None:
    backend = open_engine(tiny_bundle)
    assert simulated.gpu.held == 2 * (1 + 4 + 1 + 1), "a stream, two buffers on both sides, working memory, a graph"
    backend.close()
    assert simulated.gpu.held == 0


def test_the_simulator_shows_garbage_to_whoever_reads_too_early(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle) as backend:
        monkeypatch.setattr(backend._cuda, "synchronize", lambda stream: None)
        with pytest.raises(BackendError, match="found values that are not finite"):
            backend.infer(some_cells(3))


def test_the_simulator_refuses_the_default_stream(simulated: Library, engine: Path, tiny_bundle: Path) -> None:
    with open_engine(tiny_bundle) as backend:
        slot = backend._idle[-1]
        own, slot._stream = slot._stream, 0
        with pytest.raises(RuleBrokenError, match="default stream"):
            backend.infer(some_cells(1))
        slot._stream = own


def test_the_simulator_refuses_a_graph_whose_context_was_changed_or_dropped(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle) as backend:
        changed, dropped = backend._idle
        changed._set_batch(changed._contexts[-1], 2)
        dropped._contexts.pop()
        for slot in (changed, dropped):
            with pytest.raises(RuleBrokenError, match="context is gone or was given another shape"):
                slot.infer(some_cells(1), 1)
            backend._cuda.settle(slot._stream)


def test_the_simulator_refuses_to_capture_a_shape_that_has_not_run(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle) as backend:
        slot = backend._idle[-1]
        context = slot._create_context()
        slot._set_batch(context, 2)
        with pytest.raises(RuleBrokenError, match="has not run yet"):
            backend._cuda.capture(slot._stream, lambda: slot._begin(context, 2))


def test_the_simulator_refuses_working_memory_that_two_streams_share(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle) as backend:
        for slot in backend._idle:
            slot._set_batch(slot._context, 2)
            slot._context.set_device_memory(backend._idle[0]._working_memory, slot._working_size)
        backend._idle[0]._begin(backend._idle[0]._context, 2)
        with pytest.raises(RuleBrokenError, match="working memory used on two streams"):
            backend._idle[1]._begin(backend._idle[1]._context, 2)
        for slot in backend._idle:
            backend._cuda.settle(slot._stream)


def test_two_batches_are_in_flight_at_a_time(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    both = [some_cells(3), some_cells(5, seed=1)]
    with open_engine(tiny_bundle) as backend, ThreadPoolExecutor(2) as pool:
        meeting, synchronize = threading.Barrier(2, timeout=20), backend._cuda.synchronize

        def wait_for_the_other(stream: int) -> None:
            meeting.wait()
            synchronize(stream)

        monkeypatch.setattr(backend._cuda, "synchronize", wait_for_the_other)
        for cells, p_all in zip(both, pool.map(backend.infer, both), strict=True):
            np.testing.assert_allclose(p_all, onnx_answers(tiny_bundle / "model.fp16.onnx", cells), atol=1e-6)


def test_threads_that_share_a_backend_get_their_own_answers(any_tensorrt: str, tiny_bundle: Path) -> None:
    build_engine(tiny_bundle, EngineOptions())
    batches = [some_cells(1 + seed % 5, seed) for seed in range(60)]
    with open_engine(tiny_bundle) as backend, ThreadPoolExecutor(4) as pool:
        for cells, p_all in zip(batches, pool.map(backend.infer, batches), strict=True):
            expected = onnx_answers(tiny_bundle / "model.fp16.onnx", cells)
            np.testing.assert_allclose(p_all, expected, atol=REAL_TOLERANCE)


def test_a_batch_size_that_comes_again_is_replayed_with_new_cells(
    simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with open_engine(tiny_bundle) as backend:
        for seed in range(2):
            backend.infer(some_cells(3, seed))
        simulated.failing["enqueue"] = "a replay gives TensorRT no work"
        cells = some_cells(3, seed=2)
        np.testing.assert_allclose(
            backend.infer(cells), onnx_answers(tiny_bundle / "model.fp16.onnx", cells), atol=1e-6
        )
        with pytest.raises(BackendError, match="could not compute a batch of 4"):
            backend.infer(some_cells(4))


def test_batch_sizes_that_come_once_are_not_captured(simulated: Library, engine: Path, tiny_bundle: Path) -> None:
    with open_engine(tiny_bundle) as backend:
        simulated.gpu.calls.clear()
        for count in (2, 4, 8, 16, 32, 7):
            backend.infer(some_cells(count))
        assert "cudaStreamBeginCapture" not in simulated.gpu.calls


def test_no_more_graphs_are_kept_than_the_bound(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    monkeypatch.setattr(runtime.backends.tensorrt_slot, "MOST_GRAPHS", 3)
    with open_engine(tiny_bundle) as backend:
        simulated.gpu.calls.clear()
        for count in 3 * [2, 3, 4, 5]:
            backend.infer(some_cells(count))
        assert simulated.gpu.calls.count("cudaStreamBeginCapture") == 2, "one more stands for the smallest batch"
    assert simulated.gpu.held == 0


@pytest.mark.parametrize("is_known_at_once", [True, False])
def test_an_engine_that_cannot_be_captured_runs_without_graphs_and_says_so_once(
    simulated: Library, engine: Path, tiny_bundle: Path, is_known_at_once: bool
) -> None:
    simulated.bears_capture = not is_known_at_once
    simulated.gpu.calls.clear()  # the build's
    cells = some_cells(3)
    with open_engine(tiny_bundle) as backend:
        simulated.bears_capture = False
        for _ in range(4):
            p_all = backend.infer(cells)
            np.testing.assert_allclose(p_all, onnx_answers(tiny_bundle / "model.fp16.onnx", cells), atol=1e-6)
        assert backend.description.count("without further CUDA graphs (cudaStreamEndCapture(") == 1
        captures = simulated.gpu.calls.count("cudaStreamBeginCapture")
        assert captures == (1 if is_known_at_once else 3), "none after the one that failed"
    assert simulated.gpu.held == 0


def test_the_last_errors_are_told_and_warnings_where_there_are_none(simulated: Library) -> None:
    log = make_logger(import_tensorrt())
    assert log.said() == "nothing"
    simulated.say(log, "VERBOSE", "trying a kernel")
    simulated.say(log, "WARNING", "a cache\nwas not found")
    assert log.said() == "a cache was not found"
    for number in range(5):
        simulated.say(log, "ERROR", f"error {number}")
    for _ in range(5):
        simulated.say(log, "WARNING", "cleaning up")
    assert log.said() == "error 2; error 3; error 4"


def test_without_tensorrt_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tiny_bundle: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendError, match=r"expected TensorRT for the backend tensorrt, found .*; pip install tensorrt"
    ):
        open_engine(tiny_bundle)


def test_tensorrt_asked_for_by_name_without_an_engine_says_what_builds_one(
    simulated: Library, tiny_bundle: Path
) -> None:
    with pytest.raises(
        BackendError,
        match=r"expected an engine of precision fp16 in .*engines, found none; "
        r"python -m export engine .*bundle --precision fp16 builds one on this device",
    ):
        open_model(Bundle.open(tiny_bundle), "tensorrt", "auto")


def test_tensorrt_asked_for_by_name_takes_the_precision_that_was_built(engine: Path, tiny_bundle: Path) -> None:
    backend, variant = open_model(Bundle.open(tiny_bundle), "tensorrt", "auto")
    with backend:
        assert (backend.name, variant.precision) == ("tensorrt", "fp16")
        assert backend.description.endswith("on Simulated Orin, simulated-orin-fp16.engine")


def test_auto_takes_an_engine_that_fits(engine: Path, tiny_bundle: Path) -> None:
    backend, variant = open_model(Bundle.open(tiny_bundle), "auto", "auto")
    with backend:
        assert (backend.name, variant.precision) == ("tensorrt", "fp16")


def test_auto_leaves_tensorrt_alone_where_no_engine_was_built(simulated: Library, tiny_bundle: Path) -> None:
    backend, variant = open_model(Bundle.open(tiny_bundle), "auto", "auto")
    with backend:
        assert (backend.name, variant.precision) == ("cpu", "fp32")
        assert "TensorRT" not in backend.description
    assert simulated.gpu.calls == []


def test_auto_says_why_an_engine_that_is_there_was_not_used(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    def break_gpu() -> None:
        install(monkeypatch, simulated.version, SimulatedGpu("Another GPU"))

    def break_library() -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)

    reasons: list[tuple[Callable[[], None], str]] = [
        (break_gpu, "(not on tensorrt: expected an engine for Another GPU"),
        (break_library, "(not on tensorrt: expected TensorRT for the backend tensorrt"),
    ]
    for break_it, reason in reasons:
        break_it()
        backend, variant = open_model(Bundle.open(tiny_bundle), "auto", "auto")
        with backend:
            assert (backend.name, variant.precision) == ("cpu", "fp32")
            assert reason in backend.description


def test_a_device_with_tensorrt_alone_needs_no_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runtime.backends.select, "OnnxRuntimeBackend", None)
        patch.setattr(runtime.backends.onnxruntime, "_import_library", missing_library)
        backend, _ = open_model(Bundle.open(tiny_bundle), "auto", "auto")
        with backend:
            assert backend.name == "tensorrt"


def missing_library(name: str) -> None:
    raise BackendError(f"expected ONNX Runtime for the backend {name}, found none")


def test_auto_tells_all_reasons_where_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, engine: Path, tiny_bundle: Path
) -> None:
    install(monkeypatch, simulated.version, SimulatedGpu("Another GPU"))
    monkeypatch.setattr(runtime.backends.onnxruntime, "_import_library", missing_library)
    with pytest.raises(
        BackendError, match=r"expected ONNX Runtime .* \(not on tensorrt: expected an engine for Another"
    ):
        open_model(Bundle.open(tiny_bundle), "auto", "auto")


def test_a_precision_that_no_engine_has_is_an_error_by_name_and_the_cpu_by_auto(
    engine: Path, tiny_bundle: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BackendError, match="expected an engine of precision fp32"):
        open_model(bundle, "tensorrt", "fp32")
    backend, _ = open_model(bundle, "auto", "fp32")
    with backend:
        assert backend.name == "cpu"


def test_the_classifier_proves_an_engine_on_the_golden_cells(any_tensorrt: str, tiny_bundle: Path) -> None:
    build_engine(tiny_bundle, EngineOptions())
    options = ClassifierOptions(tiny_bundle, backend="tensorrt")
    with Classifier(options) as classifier:
        assert classifier.precision == "fp16"
    move_golden_answers(tiny_bundle, "fp16", 2 * REAL_TOLERANCE)
    with pytest.raises(BackendError, match=r"self-test failed: .* try --backend cpu, or export"):
        Classifier(options)


def test_classify_runs_on_an_engine(
    capsys: pytest.CaptureFixture[str],
    any_tensorrt: str,
    tiny_bundle: Path,
    cell_file: Callable[[str], Path],
) -> None:
    build_engine(tiny_bundle, EngineOptions())
    assert classify([str(cell_file("cell.png")), "--bundle", str(tiny_bundle), "--backend", "tensorrt"]) == 0
    printed = capsys.readouterr()
    assert "fp16 on TensorRT" in printed.err
    assert printed.out.splitlines()[-1].split(",")[1] in CLASSES


def test_a_record_survives_its_round_trip(engine: Path) -> None:
    record = read_record(engine)
    record_path(engine).write_text(to_json(replace(record, layer_precisions={"half": 3})), encoding="utf-8")
    assert read_record(engine) == replace(record, layer_precisions={"half": 3})
