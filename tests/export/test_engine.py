from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.__main__ import main
from export.engine import EngineOptions, build_engine, make_progress
from export.engine_layers import asked_share, count_precisions, engine_layers, refuse_mislabelled
from runtime.backends.engine_files import read_record, record_path
from runtime.backends.tensorrt import import_tensorrt, make_logger
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import BackendError, BundleError, ConversionError, OutputError, UsageError
from runtime.files import sha256_of_file
from runtime.schema import SELF_TEST_TOLERANCES, EngineLayer, to_json
from tests.overflowing_graph import P_ALL_OF_WHITE, WHITE, write_overflowing_onnx
from tests.tensorrt_simulator.cuda import SimulatedGpu
from tests.tensorrt_simulator.graph import Graph, read_onnx_file
from tests.tensorrt_simulator.install import install
from tests.tensorrt_simulator.library import Library
from tests.tensorrt_simulator.rules import FULL_VERSIONS
from tests.tiny_bundle import fail_proof, put_golden_answers, record_hashes, write_onnx, write_tiny_bundle

ROOT = Path(__file__).parents[2]
OPTIONS = EngineOptions()


def engine_files(bundle: Path) -> list[str]:
    return sorted(path.name for path in (bundle / "engines").glob("*"))


def put_variant(bundle: Path, precision: str, content_of: str, **extra: Any) -> None:
    """Give the bundle a variant of that precision whose file is another graph, with its right hash."""
    file = bundle / f"model.{precision}.onnx"
    write_onnx(file, content_of, **extra)
    record_hashes(bundle)


def test_an_engine_and_its_record_tell_what_they_are(simulated: Library, tiny_bundle: Path) -> None:
    options = EngineOptions("fp16", (2, 4, 16), 512, 5, "ampere-plus", True)
    engine = build_engine(tiny_bundle, options)
    assert engine == tiny_bundle / "engines" / "simulated-orin-fp16.engine"
    assert engine.read_bytes().startswith(b"ftrt"), "a plain plan, with nothing put before it"
    record = read_record(engine)
    assert record.layer_precisions == {"float": 3, "half": 4}
    half = "Channel major FP16 format where channel % 8 == 0"
    assert EngineLayer("Conv_5", "CaskConvolution", "half", (half,), (half,), "Half") in record.layers
    assert json.loads(to_json(record)) | {"layer_precisions": {}, "layers": []} == {
        "gpu": "Simulated Orin",
        "compute_capability": "8.7",
        "tensorrt": FULL_VERSIONS[simulated.version],
        "driver_version": "540.4.0",
        "driver_cuda_version": "12.6",
        "onnx_sha256": sha256_of_file(tiny_bundle / "model.fp16.onnx"),
        "engine_sha256": sha256_of_file(engine),
        "precision": "fp16",
        "min_batch": 2,
        "opt_batch": 4,
        "max_batch": 16,
        "optimization_level": 5,
        "workspace_mib": 512,
        "hardware_compatible": "ampere-plus",
        "version_compatible": True,
        "layer_precisions": {},
        "layers": [],
    }


def test_the_plan_is_built_as_was_asked(simulated: Library, tiny_bundle: Path) -> None:
    engine = build_engine(tiny_bundle, EngineOptions("fp32"))
    plan = engine.read_bytes()
    header = json.loads(plan[12 : 12 + int.from_bytes(plan[4:12], "little")])
    sha256 = sha256_of_file(tiny_bundle / "model.fp32.onnx")
    assert header["name"] == f"allnet-edge fp32 {sha256[:12]}"
    assert header["profile"] == {"cells": [[1, 12, 12, 3], [8, 12, 12, 3], [32, 12, 12, 3]]}
    assert (header["typed"], header["tf32"], header["hardware"]) == (True, False, "NONE")
    assert header["workspace"] == 1 << 30


@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
def test_the_layers_precisions_are_counted(any_tensorrt: str, tiny_bundle: Path, precision: str) -> None:
    record = read_record(build_engine(tiny_bundle, EngineOptions(precision)))
    assert {"fp16": "half", "fp32": "float", "int8": "int8"}[precision] in record.layer_precisions


def test_a_graph_that_tensorrt_does_not_take_is_refused_with_every_reason(any_tensorrt: str, tiny_bundle: Path) -> None:
    put_variant(tiny_bundle, "fp16", "fp16", extra="Det")
    with pytest.raises(
        ConversionError, match=r"expected a graph that TensorRT takes, .*model\.fp16\.onnx is refused"
    ) as caught:
        build_engine(tiny_bundle, OPTIONS)
    if any_tensorrt != "real":
        assert "node 'Det_8' (Det): No importer registered for op: Det; no engine was written" in str(caught.value)
    assert engine_files(tiny_bundle) == []


def test_a_file_that_is_no_graph_is_refused(any_tensorrt: str, tiny_bundle: Path) -> None:
    (tiny_bundle / "model.fp16.onnx").write_bytes(b"no graph")
    record_hashes(tiny_bundle)
    with pytest.raises(ConversionError, match="expected a graph that TensorRT takes"):
        build_engine(tiny_bundle, OPTIONS)


def test_a_build_that_fails_is_an_error_with_what_tensorrt_said(simulated: Library, tiny_bundle: Path) -> None:
    simulated.failing["build"] = "Error Code 10: Could not find any implementation for node conv"
    with pytest.raises(
        BackendError,
        match=r"TensorRT could not build an engine of model\.fp16\.onnx; it said: Error Code 10: Could not find",
    ):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


@pytest.mark.parametrize("what", ["builder", "runtime"])
def test_a_cuda_that_does_not_fit_tensorrt_is_one_line(simulated: Library, tiny_bundle: Path, what: str) -> None:
    """The binding raises a TypeError where TensorRT gives no object; its reason goes to the logger alone."""
    simulated.failing[what] = "CUDA initialization failure with error: 35"
    with pytest.raises(
        BackendError,
        match=rf"TensorRT could not start its {what} .* it said: CUDA initialization failure with error: 35; check",
    ):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


def test_an_engine_that_does_not_load_here_is_never_written(simulated: Library, tiny_bundle: Path) -> None:
    simulated.failing["deserialize"] = "Error Code 1: no kernel image"
    with pytest.raises(
        BackendError, match="TensorRT could not read the engine; it said: Error Code 1: no kernel image"
    ):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


@pytest.mark.parametrize(
    ("asked", "graph", "reported"),
    [("fp16", "fp32", "7 float"), ("fp32", "fp16", "3 float, 4 half"), ("int8", "fp16", "3 float, 4 half")],
)
def test_an_engine_that_is_not_what_was_asked_for_is_refused_and_never_written(
    any_tensorrt: str, tiny_bundle: Path, asked: str, graph: str, reported: str
) -> None:
    put_variant(tiny_bundle, asked, graph)
    with pytest.raises(
        ConversionError, match=rf"expected an engine of precision {asked}, .* TensorRT reports"
    ) as caught:
        build_engine(tiny_bundle, EngineOptions(asked))
    if any_tensorrt != "real":
        assert f"layers that compute in: {reported}; no engine was written" in str(caught.value)
    assert engine_files(tiny_bundle) == []


def test_an_engine_that_silently_computes_in_float32_is_refused(simulated: Library, tiny_bundle: Path) -> None:
    simulated.reports_float = True
    with pytest.raises(
        ConversionError,
        match=r"expected an engine of precision fp16, in which the ONNX file has 100% of the layers with weights, "
        r"TensorRT reports 0 of 2 such layers, and layers that compute in: 7 float; no engine",
    ):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


@pytest.mark.parametrize("told", ["", "[]", '{"Bindings": []}', '{"Layers": ['])
def test_what_is_no_list_of_layers_is_refused(told: str) -> None:
    with pytest.raises(
        ConversionError, match="expected JSON with the engine's layers from TensorRT's inspector, found"
    ):
        engine_layers(told)


def test_an_engine_whose_datatypes_nobody_tells_is_refused(simulated: Library, tiny_bundle: Path) -> None:
    simulated.hides_datatypes = True
    with pytest.raises(ConversionError, match="layers that compute in: 7 unknown"):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


@pytest.mark.parametrize(
    ("layer", "counted"),
    [
        ("a name alone", {"unknown": 1}),
        ({"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Half"}]}, {}),
        ({"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Row major linear UInt8 format"}]}, {"uint8": 1}),
        ({"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Half(64,1:8,32,4)"}]}, {"half": 1}),
        ({"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]}, {"half": 1}),
        ({"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Float"}, {"Format/Datatype": "INT8"}]}, {"int8": 1}),
        ({"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Channel major FP32 format"}]}, {"float": 1}),
        ({"LayerType": "gemm", "Inputs": [], "Weights": {"Type": "Half", "Count": 8}}, {"half": 1}),
        ({"LayerType": "gemm", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]}, {"unknown": 1}),
    ],
)
def test_a_layers_precision_is_read_from_tensorrts_words(layer: Any, counted: dict[str, int]) -> None:
    assert count_precisions(engine_layers(json.dumps({"Layers": [layer]}))) == counted


def test_names_parted_by_a_control_character_are_read() -> None:
    """As TensorRT 8.6 wrote them (NVIDIA/TensorRT, issue 2779)."""
    layers = engine_layers('{"Layers": [{"Name": "conv", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]"}]}')
    assert [layer.name for layer in layers] == ["conv"]


def some_layers(**counts: int) -> list[EngineLayer]:
    """Layers of an engine: "half" are convolutions, "half_pointwise" something else."""
    return [
        EngineLayer(f"{name}{index}", "kgen" if "_" in name else "CaskConvolution", name.split("_")[0], (), (), "")
        for name, count in counts.items()
        for index in range(count)
    ]


def test_what_the_file_asks_for_is_read_from_the_network(simulated: Library, tiny_bundle: Path) -> None:
    """Its convolution is int8, and its matrix product, as in most files, is not."""
    trt = import_tensorrt()
    log = make_logger(trt)
    network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse_from_file(str(tiny_bundle / "model.int8.onnx"))
    assert [asked_share(trt, network, precision) for precision in ("int8", "fp32", "fp16")] == [0.5, 0.5, 0.0]


MOSTLY_OTHERS = [
    ("fp16", 0.9, {"float": 93, "half": 1}),
    ("int8", 0.9, {"float": 93, "int8": 1}),
    ("int8", 0.9, {"float": 60, "int8": 40}),
    ("fp16", 0.9, {"half": 1, "unknown": 93}),
    ("fp16", 0.9, {"half": 80, "unknown_pointwise": 20}),
    ("fp32", 1.0, {"float": 80, "unknown_pointwise": 20}),
    ("fp32", 1.0, {"float": 93, "half_pointwise": 1}),
    ("fp16", 0.9, {"half_pointwise": 50, "float": 93}),
    ("fp16", 0.0, {"half": 40, "float": 60}),
    ("fp16", 0.9, {}),
]


@pytest.mark.parametrize(("precision", "asked", "counts"), MOSTLY_OTHERS)
def test_an_engine_that_is_mostly_not_what_was_asked_for_is_refused(
    precision: str, asked: float, counts: dict[str, int]
) -> None:
    with pytest.raises(ConversionError, match=f"expected an engine of precision {precision}, "):
        refuse_mislabelled(precision, some_layers(**counts), asked)


AS_ASKED = [
    ("fp16", 0.9, {"half": 74, "float": 10, "float_pointwise": 30}),
    ("int8", 0.9, {"int8": 45, "float": 10, "float_pointwise": 60}),  # each pair became one layer
    ("int8", 0.3, {"int8": 15, "float": 70}),  # most layers are kept in float32 in the file too
    ("fp16", 0.9, {"half": 80, "float": 8, "unknown_pointwise": 5}),
    ("fp16", 0.9, {"half_pointwise": 80, "float_pointwise": 8}),  # a version that calls convolutions otherwise
    ("fp32", 1.0, {"float": 90, "uint8_pointwise": 1}),
    ("fp16", 0.0, {"half": 60, "float": 40}),  # a version that does not tell what the file asks for
]


@pytest.mark.parametrize(("precision", "asked", "counts"), AS_ASKED)
def test_fusion_and_layers_kept_in_float32_cost_no_engine(precision: str, asked: float, counts: dict[str, int]) -> None:
    refuse_mislabelled(precision, some_layers(**counts), asked)


def test_an_unproved_variant_is_refused_before_the_build(
    capsys: pytest.CaptureFixture[str], simulated: Library, tiny_bundle: Path
) -> None:
    fail_proof(tiny_bundle, "int8")
    with pytest.raises(BundleError, match=r"int8 of .* is not: 1 cell of 10 flips .* with --unproved"):
        main(["engine", str(tiny_bundle), "--precision", "int8"])
    assert simulated.known_tactics == []
    assert engine_files(tiny_bundle) == []
    assert main(["engine", str(tiny_bundle), "--precision", "int8", "--unproved"]) == 0
    assert "--backend tensorrt --unproved\n" in capsys.readouterr().out


@pytest.mark.parametrize("batch", [1, 8, 32, 7])
def test_an_engine_that_answers_otherwise_in_some_batches_is_never_written(
    simulated: Library, tiny_bundle: Path, batch: int
) -> None:
    def falsify(answers: Any) -> Any:
        return answers + np.float32(2 * SELF_TEST_TOLERANCES["fp16"]) if len(answers) == batch else answers

    simulated.falsify = falsify
    found = 39 if batch == 7 else batch
    with pytest.raises(
        ConversionError,
        match=rf"expected an engine that answers the 6 golden cells as fp16 did .* by 0\.01 in batches of {found} ",
    ):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


def test_an_engine_whose_answers_are_no_numbers_is_never_written(simulated: Library, tiny_bundle: Path) -> None:
    simulated.falsify = lambda answers: answers * np.float32("nan")
    with pytest.raises(
        ConversionError, match=r"batches of 1 with numbers, found values that are not finite; no engine"
    ):
        build_engine(tiny_bundle, OPTIONS)
    assert engine_files(tiny_bundle) == []


@pytest.mark.parametrize("suffix", [".engine", ".json", ".timing"])
def test_a_full_disk_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, tiny_bundle: Path, suffix: str
) -> None:
    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_for_one(method: str) -> None:
        real = getattr(Path, method)
        monkeypatch.setattr(
            Path, method, lambda path, *given, **named: (full if path.suffix == suffix else real)(path, *given, **named)
        )

    full_for_one("write_bytes")
    full_for_one("write_text")
    with pytest.raises(OutputError, match=rf"cannot write .*simulated-orin-fp16\{suffix}: No space left on device"):
        build_engine(tiny_bundle, OPTIONS)
    assert not (tiny_bundle / "engines").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_minutes_of_a_build(
    simulated: Library, tiny_bundle: Path
) -> None:
    simulated.failing["build"] = "it was begun"
    (tiny_bundle / "engines").touch()
    with pytest.raises(OutputError, match=r"cannot write .*simulated-orin-fp16\.engine: "):
        build_engine(tiny_bundle, OPTIONS)


def test_the_record_of_an_older_engine_does_not_vouch_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, tiny_bundle: Path
) -> None:
    engine = build_engine(tiny_bundle, OPTIONS)
    old = read_record(engine)
    put_in_place = Path.replace

    def refuse_records(path: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise OSError(errno.EIO, "Input/output error")
        return put_in_place(path, target)

    monkeypatch.setattr(Path, "replace", refuse_records)
    with pytest.raises(OutputError, match="Input/output error"):
        build_engine(tiny_bundle, replace(OPTIONS, batch=(1, 1, 1)))
    assert read_record(engine).engine_sha256 == old.engine_sha256 != sha256_of_file(engine)


def test_a_build_that_is_interrupted_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, simulated: Library, tiny_bundle: Path
) -> None:
    is_building, is_cancelled = threading.Event(), threading.Event()

    def watched_progress(trt: Any) -> Any:
        progress = make_progress(trt)
        cancel = progress.cancel

        def cancel_and_tell() -> None:
            cancel()
            is_cancelled.set()

        progress.cancel = cancel_and_tell
        monkeypatch.setattr("concurrent.futures.Future.result", press_control_c)
        return progress

    def press_control_c(_: object) -> None:
        assert is_building.wait(60), "TensorRT builds while the main thread waits"
        signal.raise_signal(signal.SIGINT)

    def build_until_cancelled() -> None:
        is_building.set()
        assert is_cancelled.wait(60)

    monkeypatch.setattr("export.engine.make_progress", watched_progress)
    simulated.at_each_step = build_until_cancelled
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny_bundle, OPTIONS)
    assert simulated.was_cancelled, "TensorRT was told to give up, not left to finish"
    assert engine_files(tiny_bundle) == []


def test_progress_counts_the_steps_of_every_phase_and_cancels(simulated: Library) -> None:
    with make_progress(import_tensorrt()) as progress:
        progress.phase_start("Building Engine", None, 2)
        progress.phase_start("Tactics", "Building Engine", 5)
        assert progress._bar.total == 7
        assert progress.step_complete("Tactics", 0) is True
        progress.cancel()
        assert progress.step_complete("Tactics", 1) is False
        progress.phase_finish("Tactics")


def test_a_second_build_starts_from_what_the_first_has_learnt(any_tensorrt: str, tiny_bundle: Path) -> None:
    engine = build_engine(tiny_bundle, OPTIONS)
    cache = engine.with_suffix(".timing")
    assert cache.stat().st_size > 0
    build_engine(tiny_bundle, OPTIONS)
    if any_tensorrt != "real":
        assert import_tensorrt().library.known_tactics == [0, 4]


def test_a_timing_cache_of_another_machine_costs_its_time_and_no_more(
    capsys: pytest.CaptureFixture[str], any_tensorrt: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.timing"
    foreign.write_bytes(b"time10.0.0 Another GPU|conv")
    build_engine(tiny_bundle, replace(OPTIONS, timing_cache=foreign))
    assert f"{foreign} is not a timing cache of this GPU and TensorRT: building without it" in capsys.readouterr().out
    assert foreign.read_bytes() == b"time10.0.0 Another GPU|conv", "a file that a user named is not overwritten"


def test_the_bundles_own_timing_cache_is_replaced_where_it_does_not_fit(any_tensorrt: str, tiny_bundle: Path) -> None:
    cache = build_engine(tiny_bundle, OPTIONS).with_suffix(".timing")
    cache.write_bytes(b"old")
    build_engine(tiny_bundle, OPTIONS)
    assert cache.read_bytes() != b"old"


def test_a_timing_cache_can_be_kept_elsewhere(simulated: Library, tiny_bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        build_engine(tiny_bundle, replace(OPTIONS, timing_cache=tmp_path / "kept.timing"))
    assert simulated.known_tactics == [0, 4]
    assert engine_files(tiny_bundle) == ["simulated-orin-fp16.engine", "simulated-orin-fp16.json"]


def test_a_timing_cache_that_cannot_be_read_is_refused(simulated: Library, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a timing cache that can be read at .*; name another file"):
        build_engine(tiny_bundle, replace(OPTIONS, timing_cache=tmp_path))
    assert engine_files(tiny_bundle) == []


def test_a_level_that_a_version_does_not_know_is_refused(simulated: Library, tiny_bundle: Path) -> None:
    options = replace(OPTIONS, hardware_compatible="same-compute-capability")
    if simulated.version == "10.3":
        with pytest.raises(UsageError, match=r"found 10\.3\.0; use --hardware-compatible ampere-plus"):
            build_engine(tiny_bundle, options)
    else:
        assert read_record(build_engine(tiny_bundle, options)).hardware_compatible == "same-compute-capability"


def test_a_bundle_without_fp16_says_how_to_get_it(simulated: Library, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "fp32", ("fp32",))
    with pytest.raises(
        BundleError,
        match=r"expected a variant of precision fp16 in .*, found fp32; export the run again with --precision fp16, "
        "or name one that the bundle holds",
    ):
        build_engine(bundle, OPTIONS)
    assert build_engine(bundle, EngineOptions("fp32")).exists()


@pytest.mark.parametrize("batch", [(0, 1, 2), (4, 2, 8), (1, 9, 8)])
def test_batches_out_of_order_are_refused(simulated: Library, tiny_bundle: Path, batch: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="expected 1 <= MIN <= OPT <= MAX for --batch, received"):
        build_engine(tiny_bundle, replace(OPTIONS, batch=batch))


def test_without_tensorrt_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendError, match=r"expected TensorRT .* pip install tensorrt cuda-bindings \(a Jetson brings"
    ):
        build_engine(tiny_bundle, OPTIONS)


def test_a_changed_onnx_file_is_never_built(simulated: Library, tiny_bundle: Path) -> None:
    write_onnx(tiny_bundle / "model.fp16.onnx", "fp16", seed=3)
    with pytest.raises(BundleError, match="the file was changed or damaged"):
        build_engine(tiny_bundle, OPTIONS)


def test_the_shipped_model_becomes_an_engine_that_passes_its_self_test(any_tensorrt: str, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))
    assert main(["engine", str(bundle), "--precision", "fp32"]) == 0
    with Classifier(ClassifierOptions(bundle, backend="tensorrt")) as classifier:
        assert classifier.backend.name == "tensorrt"


def test_the_simulated_gpu_adds_int8_exactly_on_a_cpu_without_vnni_too(tmp_path: Path) -> None:
    """Else engines of graphs whose layers are all int8 are refused, by CPU."""
    graph = read_onnx_file(str(write_overflowing_onnx(tmp_path / "model.onnx", np.int8)))
    assert graph.run({"cells": WHITE})["p_all"] == pytest.approx(P_ALL_OF_WHITE, abs=1e-5)


def test_an_engine_goes_with_the_bundle_that_is_exported_anew(
    monkeypatch: pytest.MonkeyPatch, finished_run: Path, bundle: Path, tmp_path: Path
) -> None:
    from export.bundle_writer import ExportOptions, write_bundle
    from export.finished_run import find_run

    install(monkeypatch, "10.13", SimulatedGpu())
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    build_engine(copied, EngineOptions("fp32"))
    assert Bundle.open(copied).golden() is not None, "a bundle with engines opens as before"
    assert (copied / "engines").exists()
    # Converting from Keras takes long, and gives this graph.
    fp32 = bundle / "model.fp32.onnx"
    monkeypatch.setattr("export.to_onnx.KerasModel.write_onnx", lambda _, target: shutil.copy(fp32, target))
    write_bundle(find_run(finished_run), copied, ExportOptions(source="drawn cells"))
    assert not (copied / "engines").exists()


def test_the_command_says_what_it_wrote_and_what_to_run_next(
    capsys: pytest.CaptureFixture[str], simulated: Library, tiny_bundle: Path
) -> None:
    arguments = "--batch 1 2 4 --workspace 256 --optimization-level 1 --hardware-compatible --version-compatible"
    assert main(["engine", str(tiny_bundle), *arguments.split()]) == 0
    printed = capsys.readouterr().out
    engine = tiny_bundle / "engines" / "simulated-orin-fp16.engine"
    assert f"{engine} written in " in printed
    assert f"Next: python -m runtime.classify FOLDER --bundle {tiny_bundle} --backend tensorrt\n" in printed
    record = read_record(engine)
    assert (record.min_batch, record.opt_batch, record.max_batch) == (1, 2, 4)
    assert (record.workspace_mib, record.optimization_level) == (256, 1)
    assert (record.hardware_compatible, record.version_compatible) == ("ampere-plus", True)


def test_an_engine_is_built_and_run_where_nothing_else_is_installed(tmp_path: Path) -> None:
    """No TensorFlow, Keras, onnx or ONNX Runtime can be imported; the simulator computes with numpy."""
    bundle = write_tiny_bundle(tmp_path / "bundle", ("fp16",))
    cells = Bundle.open(bundle).golden().cells
    put_golden_answers(bundle, "fp16", Graph().run({"cells": cells})["p_all"])
    code = f"""
import ctypes, pathlib, sys
for name in ("tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "scipy", "sklearn", "cv2", "h5py"):
    sys.modules[name] = None
sys.modules["cuda"] = None
from tests.tensorrt_simulator.cuda import SimulatedGpu, driver_library, management_library, runtime_library
from tests.tensorrt_simulator.graph import Graph, read_onnx_file
from tests.tensorrt_simulator.library import Library, tensorrt_module
gpu = SimulatedGpu()
libraries = {{"libcuda.so.1": driver_library(gpu), "libcudart.so.13": runtime_library(gpu)}}
libraries["libnvidia-ml.so.1"] = management_library(gpu)
ctypes.CDLL = lambda name: libraries[name]
sys.modules["tensorrt"] = tensorrt_module(Library("10.3", gpu, lambda path: Graph(), Graph))
from export.__main__ import main
status = main(["engine", {str(bundle)!r}])
from runtime.backends.tensorrt import open_engine
from runtime.bundle import Bundle
import numpy as np
opened = Bundle.open(pathlib.Path({str(bundle)!r}))
with open_engine(opened.folder, "fp16", opened.manifest.image, opened.variant("fp16").sha256) as backend:
    print(backend.infer(np.full((40, 12, 12, 3), 255, np.uint8)).sum())
raise SystemExit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "40.0"
    assert record_path(bundle / "engines" / "simulated-orin-fp16.engine").exists()


def test_the_command_for_the_real_tensorrt_needs_no_training_libraries() -> None:
    files = ["tests/export/test_engine.py", "tests/runtime/test_tensorrt.py"]
    command = f"`python -m pytest -m tensorrt {' '.join(files)}`"
    for document in ("README.md", "pyproject.toml"):
        assert command in (ROOT / document).read_text(encoding="utf-8")
    code = f"""
import sys
for name in ("tensorflow", "keras", "tf2onnx", "scipy", "sklearn", "cv2", "h5py", "matplotlib", "ray", "jax"):
    sys.modules[name] = None
import pytest
raise SystemExit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-m", "tensorrt", *{files}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    chosen = [line for line in done.stdout.splitlines() if "::" in line]
    assert {line.split("::")[0] for line in chosen} == set(files)
    assert all("real" in line for line in chosen)
