"""That benchmarks.training measures what it says; where a time is asserted, the clock is a fake one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import epochs, flops, record, steps, training
from benchmarks.peak_memory import run_measured
from benchmarks.training_input import paper_batches
from benchmarks.training_memory import SIZE, memory_row, write_noise
from runtime.command_line import DONE, PARTLY_DONE
from runtime.errors import MeasurementError, UsageError
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec, Recipe
from tests.small_compact import small_compact
from train.dataset import find_cells
from train.standardization import Standardization

SMALL = ["--cells", "12", "--batch-size", "6", "--image-size", "40", "--rounds", "1", "--epoch-steps", "4"]
FLOAT32 = Recipe("adam", 1e-3, "constant")
needs_peak_memory = pytest.mark.skipif(os.name == "nt", reason="Windows does not tell a process's peak memory")


def test_the_input_is_compared_with_the_papers_and_the_step_with_its_epoch(tmp_path: Path) -> None:
    with small_compact():
        assert training.main([*SMALL, "--memory-cells", "--out", str(tmp_path)]) == DONE
    content = json.loads((tmp_path / "training.json").read_text())
    paper, *prepared = content["input"]
    assert paper["times_the_papers"] == 1
    assert len(prepared) == 3
    assert all(row["cells_per_second"] > 0 for row in content["input"])
    [epoch] = content["epoch"]
    assert epoch["steps"] == 4
    assert 0 < epoch["steps_s"] + epoch["waiting_s"] < epoch["epoch_s"]
    assert 0 < epoch["lowest"] <= epoch["step_share"] <= epoch["highest"] < 1
    assert content["devices"][0] == keras.distribution.list_devices()[0]
    assert "memory" not in content


def test_a_size_that_the_network_cannot_take_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UsageError, match="expected an image size from 32 to 450 px for compact, received 31"):
        training.main(["--model", "compact", "--image-size", "31", "--cells", "4", "--memory-cells"])
    assert capsys.readouterr().out == ""


def test_the_papers_generator_standardizes_what_the_runtime_reads(drawn: Path) -> None:
    cells = find_cells(drawn)[:5]
    standardization = Standardization((10.0, 20.0, 30.0), (2.0, 4.0, 5.0))
    [first, second] = paper_batches(cells, 40, standardization, 2)
    assert (len(first), len(second)) == (3, 2)
    raw = load_cell(cells[4].path, ImageSpec(40, 40)).astype(np.float32)
    np.testing.assert_allclose(second[1], (raw - [10, 20, 30]) / [2, 4, 5], rtol=1e-6)


class Clock:
    """A clock that stands until it is moved; what a batch takes it takes of a processor, too."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    thread_time = perf_counter


class Made:
    """Three batches that take 2 seconds each to be made."""

    workers, use_multiprocessing, max_queue_size = 1, False, 10

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> str:
        self._clock.now += 2
        return f"batch {index}"


def network_that(clock: Clock, order: str) -> Any:
    """A network whose `fit` does what `order` says: m0 makes batch 0, b0 begins it, 7 lets seconds pass, e0 ends it."""

    def fit(batches: Any, *, callbacks: list[Any], **_: Any) -> None:
        for word in order.split():
            if word[0] == "m":
                assert batches[int(word[1:])] == f"batch {word[1:]}"
            elif word[0] == "b":
                callbacks[0].on_train_batch_begin(int(word[1:]))
            elif word[0] == "e":
                callbacks[0].on_train_batch_end(int(word[1:]))
            else:
                clock.now += float(word)

    return SimpleNamespace(fit=fit)


@pytest.mark.parametrize(
    ("order", "steps_s", "waiting_s"),
    [
        ("m0 b0 7 e0 m1 b1 7 e1", 14, 0),  # made between the steps: neither step nor waiting, but of the epoch
        ("b0 m0 7 e0 b1 m1 7 e1", 14, 4),  # made when the network is free and waits
        ("m0 m1 b0 7 e0 b1 7 e1", 14, 0),  # made ahead
        ("m0 m1 1 b0 m0 7 m1 e0 b1 7 e1", 16, 2),  # made twice, of which the later is used; batch 1 during step 0
    ],
    ids=["between", "waited for", "ahead", "again"],
)
def test_an_epoch_is_divided_into_steps_waiting_and_the_rest(
    monkeypatch: pytest.MonkeyPatch, order: str, steps_s: float, waiting_s: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(epochs, "time", clock)
    epoch = epochs.timed_epoch(network_that(clock, f"3 {order} 5"), Made(clock))
    made = order.count("m")
    assert epoch["steps_s"] == steps_s
    assert epoch["waiting_s"] == waiting_s
    assert epoch["input_cpu_s"] == 2 * made
    assert epoch["epoch_s"] == 3 + 14 + 2 * made + order.split().count("1") + 5


def test_the_share_is_that_of_all_epochs_and_the_first_is_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(epochs, "time", clock)
    orders = iter(["m0 b0 1000 e0", "m0 b0 6 e0", "m0 b0 6 e0 16"])
    network = SimpleNamespace(fit=lambda *args, **options: network_that(clock, next(orders)).fit(*args, **options))
    [row] = epochs.epoch_rows(network, Made(clock), 2)
    assert (row["epochs"], row["epoch_s"], row["steps_s"]) == (2, 16, 6)
    assert (row["step_share"], row["lowest"], row["highest"]) == (0.375, 0.25, 0.75)


@needs_peak_memory
def test_the_peak_is_the_processes_own() -> None:
    done = run_measured([sys.executable, "-c", "b'.' * (300 * 2**20)"])
    assert 300 < done.peak_mb < 400
    with pytest.raises(MeasurementError, match="failed with exit code 3; its message stands above"):
        run_measured([sys.executable, "-c", "import sys; sys.exit(3)"])


def test_noise_is_of_both_classes_and_never_twice_the_same(tmp_path: Path) -> None:
    write_noise(tmp_path / "cells", 40)
    cells = find_cells(tmp_path / "cells")
    assert len({cell.sha256 for cell in cells}) == 40
    assert sum(cell.label == 0 for cell in cells) == 13
    assert load_cell(cells[0].path, ImageSpec(SIZE, SIZE)).std() > 50


@needs_peak_memory
def test_the_memory_of_a_real_training_is_measured(tmp_path: Path) -> None:
    row = memory_row(tmp_path / "training", 60)
    assert row["cells"] == 60
    assert row["peak_mb"] > 200, "TensorFlow alone takes more"
    assert (tmp_path / "training" / "run" / "best.keras").exists()


def small_network(recipe: Recipe) -> Any:
    cells = keras.Input((12, 10, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255, dtype="float32")(cells)
    x = layers.Conv2D(4, 3, strides=2, padding="same", dtype=recipe.precision)(x)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(5)(x)
    network = keras.Model(cells, layers.Dense(1, activation="sigmoid")(x))
    network.compile("sgd", "binary_crossentropy", jit_compile=recipe.compiled)
    return network


def test_flops_are_those_of_the_kernels_at_each_place_of_the_output() -> None:
    convolution = 2 * (3 * 3 * 3 * 4) * (6 * 5)
    separable = 2 * (3 * 3 * 4) * (6 * 5) + 2 * (4 * 8) * (6 * 5)
    depthwise = 2 * (3 * 3 * 8) * (4 * 3)
    dense = 2 * 8 * 5 + 2 * 5 * 1
    assert flops.forward_flops(small_network(FLOAT32)) == convolution + separable + depthwise + dense


def test_the_flops_of_vgg16_are_the_published_ones() -> None:
    """15.5 billion multiplications with additions at 224 px, for example in arXiv 1810.00736."""
    network = keras.applications.VGG16(weights=None)
    assert flops.forward_flops(network) == pytest.approx(2 * 15.5e9, rel=0.01)


def test_the_rate_of_matrix_products_is_the_best_of_growing_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {256: 0.01, 512: 0.02, 1024: 0.1, 2048: 0.9}
    monkeypatch.setattr(flops, "_product_seconds", lambda side, dtype: seconds[side])
    assert flops.matrix_flops_per_second.__wrapped__("float32") == 2 * 1024**3 / 0.1
    monkeypatch.setattr(flops, "LONG_ENOUGH_S", 0.5)
    assert flops.matrix_flops_per_second.__wrapped__("float32") == 2 * 1024**3 / 0.1


def test_a_matrix_product_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "LARGEST_SIDE", 256)
    assert 1e6 < flops.matrix_flops_per_second.__wrapped__("float32") < 1e15


def test_a_step_that_fails_is_a_row_that_says_why_beside_those_that_do_not() -> None:
    def build(recipe: Recipe) -> Any:
        if recipe.precision == "mixed_float16":
            raise ValueError("no such thing\n  on this device" + 1000 * "!")
        return small_network(recipe)

    recipes = [FLOAT32, Recipe("adam", 1e-3, "constant", precision="mixed_float16", compiled=True)]
    batch = np.zeros((8, 12, 10, 3), np.uint8), np.zeros((8, 1), np.float32)
    good, failed = steps.step_rows(build, recipes, batch, 2)
    assert list(good) == list(failed)
    assert (good["precision"], good["xla"], good["status"], good["reason"]) == ("float32", False, "ok", "")
    assert good["images_per_second"] > 0
    assert good["paper_hours"] == pytest.approx(40 * 6414 / good["images_per_second"] / 3600, rel=0.01)
    assert good["share_of_matrix"] == pytest.approx(good["step_tflops"] / good["matrix_tflops"], abs=1e-3)
    assert (failed["precision"], failed["xla"], failed["status"]) == ("mixed_float16", True, "failed")
    assert failed["images_per_second"] == ""
    assert failed["reason"].startswith("ValueError: no such thing on this device!!!")
    assert len(failed["reason"]) == record.LONGEST_REASON


def test_a_failed_step_makes_the_exit_code_another_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool]] = []

    def rows(_: Any, recipes: list[Recipe], batch: Any, count: int) -> list[dict[str, Any]]:
        asked.extend((recipe.precision, recipe.compiled) for recipe in recipes)
        assert (batch[0].dtype, batch[1].shape, count) == (np.uint8, (6, 1), 4)
        return [{"status": "failed", "reason": "the card caught fire"}]

    monkeypatch.setattr(epochs, "epoch_rows", lambda *_: [{"steps": 4}])
    monkeypatch.setattr(steps, "step_rows", rows)
    command = [*SMALL, "--memory-cells", "--steps", "4", "--precisions", "float32", "mixed_bfloat16"]
    assert training.main(command) == PARTLY_DONE
    assert asked == [(p, compiled) for p in ("float32", "mixed_bfloat16") for compiled in (False, True)]
    assert "the card caught fire" in capsys.readouterr().out
