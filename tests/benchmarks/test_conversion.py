from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from benchmarks import conversion
from benchmarks.conversion import Exported
from benchmarks.peak_memory import Finished
from runtime.bundle import Bundle
from runtime.command_line import DONE, PARTLY_DONE
from runtime.errors import MeasurementError
from runtime.schema import INPUT_NAME, PRECISIONS


@pytest.fixture
def exports(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The command lines of the exports that were asked for; each copies a bundle instead, in 90, 180 and 270 s."""
    commands: list[Sequence[str]] = []

    def copy(command: Sequence[str], *, quiet: bool = False) -> Finished:
        commands.append(command)
        if "--out" in command:
            shutil.copytree(full_bundle, command[command.index("--out") + 1])
        return Finished(seconds=90.0 * len(commands), peak_mb=100.0 * len(commands))

    monkeypatch.setattr(conversion, "run_measured", copy)
    return commands


def test_exports_are_told_with_their_seconds_and_files_are_timed_beside_keras(
    exports: list[Sequence[str]], finished_run: Path, full_bundle: Path, tmp_path: Path
) -> None:
    arguments = ["--run", str(finished_run), "--rounds", "2", "--batch-size", "3", "--cells", "9"]
    assert conversion.main([*arguments, "--data", "cells", "--out", str(tmp_path)]) == DONE
    content = json.loads((tmp_path / "conversion.json").read_text())
    assert content["exports"] == [
        {"export": "fp32", "gate_cells": 12, "seconds": 90, "peak_mb": 100, "status": "ok"},
        {"export": "fp32, the graph alone", "gate_cells": 0, "seconds": 180, "peak_mb": 200, "status": "ok"},
        {"export": "fp32 fp16 int8 int8_cpu", "gate_cells": 12, "seconds": 270, "peak_mb": 300, "status": "ok"},
    ], "what was compared, of a validation part of 12"
    first, _, last = exports
    assert [command[command.index("--cells") + 1] for command in (first, last)] == ["64", "9"], (
        "whatever the batch size"
    )
    assert all(command[-2:] == ["--data", "cells"] for command in (first, last))
    names = [row["candidate"] for row in content["speeds"] if not row["candidate"].startswith("openvino")]
    assert names == [*(f"onnxruntime {precision}" for precision in PRECISIONS), "keras predict"]
    assert content["speeds"][0]["ratio"] == 1


def test_a_precision_that_fails_is_a_row_and_the_others_are_measured(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(command: Sequence[str], *, quiet: bool = False) -> Finished:
        if "--out" not in command:
            raise MeasurementError("-c failed with exit code 1; no memory")
        if "int8" in command[command.index("--precision") + 1 : command.index("--cells")]:
            raise MeasurementError("-m export failed with exit code 1; error: int8 flips 9 of 12 cells")
        shutil.copytree(tiny_bundle, command[command.index("--out") + 1])
        return Finished(seconds=90.0, peak_mb=100.0)

    monkeypatch.setattr(conversion, "run_measured", export)
    arguments = ["--run", str(tmp_path / "gone"), "--rounds", "2", "--batch-size", "3", "--out", str(tmp_path)]
    assert conversion.main(arguments) == PARTLY_DONE
    content = json.loads((tmp_path / "conversion.json").read_text())
    assert {row["export"]: row["status"] for row in content["exports"]} == {
        "fp32": "ok",
        "fp32, the graph alone": "failed",
        "fp32 fp16 int8 int8_cpu": "failed",
        "fp32 fp16": "ok",
        "fp32 int8": "failed",
        "fp32 int8_cpu": "ok",
    }
    assert [row["variant"] for row in content["sizes"]] == ["fp32", "fp16", "int8"]
    speeds = {row["candidate"]: row["status"] for row in content["speeds"] if "openvino" not in row["candidate"]}
    assert speeds == {**{f"onnxruntime {name}": "ok" for name in ("fp32", "fp16", "int8")}, "keras predict": "failed"}
    said = capsys.readouterr().out
    assert "fp32 int8 failed: -m export failed with exit code 1; error: int8 flips 9 of 12 cells\n" in said


def test_the_graph_alone_is_converted_quietly_in_a_process_of_its_own(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = conversion.graph_row(finished_run, tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].name == INPUT_NAME
    assert row["seconds"] > 0
    assert row["peak_mb"] > 100, "TensorFlow's"
    assert "oneDNN" not in capfd.readouterr().err


def test_sizes_are_shares_of_fp32(full_bundle: Path) -> None:
    bundle = Bundle.open(full_bundle)
    rows = conversion.size_rows({one.precision: Exported(bundle, one) for one in bundle.manifest.variants})
    assert [row["variant"] for row in rows] == list(PRECISIONS)
    whole = (full_bundle / "model.fp32.onnx").stat().st_size
    for row in rows:
        size = (full_bundle / f"model.{row['variant']}.onnx").stat().st_size
        assert row["share_of_fp32"] == pytest.approx(size / whole, abs=0.001)
        assert row["layers_kept_in_fp32"] == len(bundle.variant(row["variant"]).kept_in_fp32)


def test_an_export_that_fails_ends_the_benchmark_and_leaves_no_record(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MeasurementError, match=r"-m export failed with exit code 1; its message stands above"):
        conversion.main(["--run", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert "expected" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
