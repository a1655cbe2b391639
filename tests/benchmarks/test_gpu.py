"""That every part of the GPU's script runs, on the CPU and small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import card, flops, gpu
from benchmarks.peers import resident_run
from runtime.command_line import DONE, PARTLY_DONE
from runtime.errors import BackendError
from tests.tiny_bundle import onnx_answers, some_cells

SMALL = [
    *("--device", "cpu", "--models", "compact", "--image-size", "40", "--batch-sizes", "2", "--training-batch", "2"),
    *("--steps", "1", "--cells", "6", "--copied-mb", "1"),
]


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "LARGEST_SIDE", 256)
    monkeypatch.setattr(card, "_rates", {})


def test_every_part_is_measured_and_kept_under_the_machines_name(tiny_bundle: Path, tmp_path: Path) -> None:
    precisions = ["--precisions", "float32", "mixed_float16"]
    command = [*SMALL, *precisions, "--bundles", str(tiny_bundle), "--out", str(tmp_path / "out")]
    assert gpu.main(command) == DONE
    record = json.loads((tmp_path / "out" / "gpu-cpu.json").read_text())
    assert [row["limit"] for row in record["limits"]] == [
        "matrix product float32",
        "matrix product bfloat16",
        "matrix product float16",
        "copy host to device",
        "copy device to host",
        "copy on the device",
    ]
    assert all(row["rate"] > 0 for row in record["limits"])
    assert [row["precision"] for row in record["compact training"]] == ["float32", "mixed_float16"]
    for row in record["compact inference"]:
        assert row["share_of_matrix"] > 0
    [parity] = record["compact parity"]
    assert 0 < parity["max_difference"] < 0.01
    rows = {row["variant"]: row for row in record["bundle in ONNX Runtime"]}
    assert rows["fp32"]["max_difference"] == rows["fp32"]["flipped"] == 0
    assert 0 < rows["fp16"]["max_difference"] < 0.01
    assert rows["int8"]["share_of_matrix"] == ""


def test_without_a_gpu_it_refuses_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="expected a GPU for Keras on .*, found .*; install JAX or Torch"):
        gpu.main(["--out", str(tmp_path)])


def test_a_part_that_fails_is_a_row_and_the_exit_code(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError("the card is full")

    monkeypatch.setattr(card, "_inference", full)
    command = [*SMALL, "--precisions", "float32", "--bundles", str(tiny_bundle), "--out", str(tmp_path / "out")]
    assert gpu.main(command) == PARTLY_DONE
    assert "MemoryError: the card is full" in capsys.readouterr().out


def test_a_resident_run_gives_the_graphs_own_answers(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    opened = []

    def session(*arguments: Any, **options: Any) -> Any:
        opened.append(real(*arguments, **options))
        return opened[-1]

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    cells = some_cells(3)
    bound = []
    run_with_iobinding = real.run_with_iobinding
    monkeypatch.setattr(
        real, "run_with_iobinding", lambda self, binding: (bound.append(binding), run_with_iobinding(self, binding))
    )
    resident_run(tiny_bundle / "model.fp32.onnx", cells, "CPUExecutionProvider", "cpu")()
    [answers] = bound[0].copy_outputs_to_cpu()
    np.testing.assert_allclose(answers, onnx_answers(tiny_bundle / "model.fp32.onnx", cells), atol=1e-6)


def test_a_machines_name_can_be_a_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "nvidia_gpus", lambda: ({"name": "NVIDIA A100-SXM4 (40GB)"},))
    assert gpu.machine_name("gpu") == "nvidia-a100-sxm4-40gb"
    assert gpu.machine_name("cpu") == "cpu"
