from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.__main__ import main
from export.engine import EngineOptions, build_engine
from export.triton import write_repository
from runtime.backends.engine_files import read_record, record_path
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.errors import BackendError, BundleError, OutputError
from runtime.files import sha256_of_file
from runtime.schema import MANIFEST_NAME, to_json
from tests.tensorrt_simulator.install import install
from tests.tiny_bundle import onnx_answers, some_cells, write_onnx, write_tiny_bundle

CONFIG = """\
name: "compact_fp16"
backend: "onnxruntime"
max_batch_size: 32
input [
  { name: "cells", data_type: TYPE_UINT8, dims: [ 12, 12, 3 ] }
]
output [
  { name: "p_all", data_type: TYPE_FP32, dims: [ 1 ], reshape: { shape: [ ] } }
]
dynamic_batching { max_queue_delay_microseconds: 2000 }
model_warmup [
  {
    name: "full_batch"
    batch_size: 32
    inputs {
      key: "cells"
      value: { data_type: TYPE_UINT8, dims: [ 12, 12, 3 ], zero_data: true }
    }
  }
]
"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> Path:
    """An fp16 engine in that bundle, for batches of 1 to 16."""
    install(monkeypatch, "10.13")
    return build_engine(tiny_bundle, EngineOptions("fp16", (1, 4, 16)))


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fail(bundle: Path, *precisions: str) -> None:
    """Write into the manifest that these variants do not decide like the Keras model."""
    manifest = Bundle.open(bundle).manifest
    variants = tuple(
        replace(variant, proof=replace(variant.proof, failures=("p_all differs",)))
        if variant.precision in precisions
        else variant
        for variant in manifest.variants
    )
    (bundle / MANIFEST_NAME).write_text(to_json(replace(manifest, variants=variants)), encoding="utf-8")


def test_each_variant_becomes_a_model(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    assert write_repository(tiny_bundle, out) == ["compact_fp32", "compact_fp16", "compact_int8"]
    assert files_of(out) == [
        "ALLNET_BUNDLE.txt",
        *sorted(
            f"compact_{precision}/{name}"
            for precision in ("fp32", "fp16", "int8")
            for name in ("1/model.onnx", "config.pbtxt")
        ),
    ]
    assert (out / "ALLNET_BUNDLE.txt").read_text() == "Written from the bundle bundle\n"
    for precision in ("fp32", "fp16", "int8"):
        copied = out / f"compact_{precision}" / "1" / "model.onnx"
        assert sha256_of_file(copied) == Bundle.open(tiny_bundle).variant(precision).sha256


def test_the_configuration_has_no_batch_dimension(tiny_bundle: Path, tmp_path: Path) -> None:
    write_repository(tiny_bundle, tmp_path / "repository")
    assert (tmp_path / "repository" / "compact_fp16" / "config.pbtxt").read_text() == CONFIG


def test_an_engine_becomes_a_model_with_its_own_largest_batch(engine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    assert write_repository(tiny_bundle, out) == [
        "compact_fp32",
        "compact_fp16",
        "compact_simulated-orin-fp16",
        "compact_int8",
    ]
    folder = out / "compact_simulated-orin-fp16"
    assert files_of(folder) == ["1/model.plan", "config.pbtxt"]
    assert sha256_of_file(folder / "1" / "model.plan") == sha256_of_file(engine)
    expected = CONFIG.replace("compact_fp16", folder.name).replace("32\n", "16\n").replace("FP16\n", "FP32\n")
    expected = expected.replace('backend: "onnxruntime"', 'platform: "tensorrt_plan"')
    assert (folder / "config.pbtxt").read_text() == expected


def test_an_engine_that_was_changed_is_refused(engine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    engine.write_bytes(engine.read_bytes() + b"more")
    with pytest.raises(BundleError, match=r"expected the engine that is recorded at .*fp16\.engine, found another"):
        write_repository(tiny_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_an_engine_that_takes_no_single_cell_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, tmp_path: Path
) -> None:
    install(monkeypatch, "10.13")
    build_engine(tiny_bundle, EngineOptions("fp16", (2, 4, 16)))
    with pytest.raises(BundleError, match=r"takes 2 at least, .* build it again with --batch 1 OPT MAX"):
        write_repository(tiny_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_an_engine_of_another_onnx_file_is_left_out(engine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    record = replace(read_record(engine), onnx_sha256="0" * 64)
    record_path(engine).write_text(to_json(record), encoding="utf-8")
    names = write_repository(tiny_bundle, tmp_path / "repository")
    assert names == ["compact_fp32", "compact_fp16", "compact_int8"]


def test_an_engine_without_its_record_is_refused(engine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    record_path(engine).unlink()
    with pytest.raises(BackendError, match="expected the engine's record"):
        write_repository(tiny_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_only_proved_variants_and_their_engines_are_served(engine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    fail(tiny_bundle, "fp16")
    names = write_repository(tiny_bundle, tmp_path / "repository")
    assert names == ["compact_fp32", "compact_int8"]
    assert sorted(path.name for path in (tmp_path / "repository").iterdir() if path.is_dir()) == sorted(names)


def test_a_bundle_without_a_proved_variant_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    fail(tiny_bundle, "fp32", "fp16", "int8")
    with pytest.raises(
        BundleError, match=r"expected a proved variant in .*, found none; prove one with `python -m export"
    ):
        write_repository(tiny_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_changed_onnx_file_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    write_onnx(tiny_bundle / "model.int8.onnx", "int8", seed=3)
    with pytest.raises(BundleError, match=r"model\.int8\.onnx to have the SHA-256"):
        write_repository(tiny_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_an_older_repository_is_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write_repository(tiny_bundle, out)
    other = write_tiny_bundle(tmp_path / "other", ("fp32",), seed=5)
    assert write_repository(other, out) == ["compact_fp32"]
    assert files_of(out) == ["ALLNET_BUNDLE.txt", "compact_fp32/1/model.onnx", "compact_fp32/config.pbtxt"]
    assert (out / "ALLNET_BUNDLE.txt").read_text() == "Written from the bundle other\n"
    cells = some_cells(3)
    served = onnx_answers(out / "compact_fp32" / "1" / "model.onnx", cells)
    np.testing.assert_array_equal(served, onnx_answers(other / "model.fp32.onnx", cells))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no bytes that are no text in a name")
def test_a_bundle_may_be_called_anything(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", ("fp32",)).rename(tmp_path / os.fsdecode(b"b\xff"))
    write_repository(bundle, tmp_path / "repository")
    assert (tmp_path / "repository" / "ALLNET_BUNDLE.txt").read_text() == "Written from the bundle b\\udcff\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.pbtxt", "expected a new folder, or one that holds a ALLNET_BUNDLE.txt to replace"),
        ("ALLNET_BUNDLE.txt", "found labels.txt; move it away, or choose another name"),
    ],
)
def test_any_other_folder_is_left_alone(tiny_bundle: Path, tmp_path: Path, name: str, message: str) -> None:
    out = tmp_path / "repository"
    out.mkdir()
    for file in (name, "labels.txt"):
        (out / file).write_text("mine")
    with pytest.raises(OutputError, match=message):
        write_repository(tiny_bundle, out)
    assert files_of(out) == sorted([name, "labels.txt"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "repository"]


def test_a_full_disk_leaves_no_repository(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.triton.copy_bundle_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*repository: No space left on device; choose a place"):
        write_repository(tiny_bundle, tmp_path / "repository")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_command_says_what_it_wrote_and_what_to_run_next(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a repository"
    assert main(["triton", str(tiny_bundle), "--out", str(out)]) == 0
    assert capsys.readouterr().out == (
        f"{out} holds compact_fp32, compact_fp16, compact_int8\nNext: tritonserver --model-repository '{out}'\n"
    )


@pytest.mark.parametrize("inside", ["repository", "engines/repository", ".", "other/../repository"])
def test_a_repository_inside_the_bundle_is_refused(tiny_bundle: Path, inside: str) -> None:
    before = files_of(tiny_bundle)
    with pytest.raises(OutputError, match=r"expected a place outside the bundle .*; name a folder beside it"):
        write_repository(tiny_bundle, tiny_bundle / inside)
    assert files_of(tiny_bundle) == before


def parsed(config: Path) -> Any:
    """Read a configuration by Triton's published schema; an unknown field is an error."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def check_config(config: Any, name: str, size: int, max_batch: int) -> None:
    """A configuration says what the bundle says."""
    assert (config.name, config.max_batch_size) == (name, max_batch)
    [cells], [p_all] = config.input, config.output
    uint8, fp32 = (
        config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[f"TYPE_{kind}"].number
        for kind in ("UINT8", "FP32")
    )
    assert (cells.name, cells.data_type, list(cells.dims)) == ("cells", uint8, [size, size, 3])
    assert (p_all.name, p_all.data_type, list(p_all.dims)) == ("p_all", fp32, [1])
    assert p_all.HasField("reshape")
    assert list(p_all.reshape.shape) == []
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    [warmup] = config.model_warmup
    given = warmup.inputs["cells"]
    assert (warmup.batch_size, given.data_type, list(given.dims)) == (max_batch, uint8, [size, size, 3])
    assert given.zero_data


def test_the_configurations_follow_the_published_schema(engine: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    for name in write_repository(tiny_bundle, tmp_path / "tiny"):
        config = parsed(tmp_path / "tiny" / name / "config.pbtxt")
        is_engine = name == f"compact_{engine.stem}"
        check_config(config, name, 12, 16 if is_engine else 32)
        assert (config.backend, config.platform) == (("", "tensorrt_plan") if is_engine else ("onnxruntime", ""))
    for name in write_repository(DEFAULT_BUNDLE, tmp_path / "default"):
        check_config(parsed(tmp_path / "default" / name / "config.pbtxt"), name, 128, 32)


def test_a_field_that_the_schema_does_not_know_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    from google.protobuf.text_format import ParseError

    write_repository(tiny_bundle, tmp_path / "repository")
    config = tmp_path / "repository" / "compact_fp32" / "config.pbtxt"
    config.write_text(config.read_text(encoding="utf-8").replace("max_batch_size", "max_batchsize"), encoding="utf-8")
    with pytest.raises(ParseError, match="max_batchsize"):
        parsed(config)
