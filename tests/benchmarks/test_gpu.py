"""That every part of the GPU's script runs, on the CPU and small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import card, flops, gpu, training
from benchmarks.peers import resident_session
from runtime.command_line import DONE, PARTLY_DONE
from runtime.errors import BackendError
from runtime.schema import Recipe
from tests.tiny_bundle import onnx_answers, some_cells

SMALL = [
    *("--device", "cpu", "--models", "compact", "--image-size", "40", "--batch-sizes", "2", "--training-batch", "2"),
    *("--steps", "1", "--cells", "6", "--copied-mb", "1"),
]


def small_network(recipe: Recipe) -> Any:
    """In place of compact, which takes TensorFlow half a minute to compile."""
    cells = keras.Input((40, 40, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255, dtype="float32")(cells)
    x = layers.Conv2D(4, 3, strides=4, dtype=recipe.precision)(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    network = keras.Model(cells, layers.Dense(1, activation="sigmoid", dtype="float32")(x))
    network.compile("sgd", "binary_crossentropy", jit_compile=False)
    return network


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "LARGEST_SIDE", 256)
    flops.matrix_flops_per_second.cache_clear()
    monkeypatch.setattr(training.Training, "network", lambda _, recipe: small_network(recipe))
    monkeypatch.setattr(gpu, "network_flops", lambda model, size: 1000)  # no network takes the tiny bundle's cells


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


def test_no_tensor_is_copied_to_the_host_twice_and_nothing_else_is_copied_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: list[Any] = []
    back: list[Any] = []

    def noted(seen: list[Any], convert: Any) -> Any:
        def converted(value: Any) -> Any:
            seen.append(value)
            return convert(value)

        return converted

    monkeypatch.setattr(keras.ops, "convert_to_tensor", noted(there, keras.ops.convert_to_tensor))
    monkeypatch.setattr(keras.ops, "convert_to_numpy", noted(back, keras.ops.convert_to_numpy))
    card.limit_rows(2**20)
    whole = [tensor for tensor in back if tensor.shape == (2**18,)]
    assert len({id(tensor) for tensor in whole}) == len(whole) == 1 + card.REPEATS
    assert len({id(array) for array in there if array.shape == (2**18,)}) == 1


def test_without_a_gpu_it_refuses_and_says_what_to_do() -> None:
    with pytest.raises(BackendError, match=r"expected a GPU for Keras on .*, found .*; install JAX or Torch"):
        gpu.main([])


def test_a_part_that_fails_is_a_row_and_the_exit_code(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError("the card is full")

    monkeypatch.setattr(card, "_inference", full)
    assert gpu.main([*SMALL, "--precisions", "float32", "--bundles", str(tiny_bundle)]) == PARTLY_DONE
    assert "MemoryError: the card is full" in capsys.readouterr().out


def test_a_resident_run_gives_the_graphs_own_answers(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession
    cells = some_cells(3)
    bound = []
    run_with_iobinding = real.run_with_iobinding

    def run(self: Any, binding: Any) -> None:
        bound.append(binding)
        run_with_iobinding(self, binding)

    monkeypatch.setattr(real, "run_with_iobinding", run)
    resident_session(tiny_bundle / "model.fp32.onnx", "CPUExecutionProvider", "cpu")(cells)()
    [answers] = bound[0].copy_outputs_to_cpu()
    np.testing.assert_allclose(answers, onnx_answers(tiny_bundle / "model.fp32.onnx", cells), atol=1e-6)


def test_a_machines_name_can_be_a_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "nvidia_gpus", lambda: ({"name": "NVIDIA A100-SXM4 (40GB)"},))
    assert gpu.machine_name("gpu") == "nvidia-a100-sxm4-40gb"
    assert gpu.machine_name("cpu") == "cpu"
