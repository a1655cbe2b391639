"""Times training steps by precision, with and without XLA, beside the matrix products of the device; loads keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.environment import nvidia_gpus
from benchmarks.epochs import ClockedBatches, StepClock
from benchmarks.flops import STEP_TO_FORWARD, forward_flops, matrix_flops_per_second
from benchmarks.record import OK, Row, tried
from runtime.schema import Recipe
from train.devices import training_devices

PAPER_EPOCHS, PAPER_IMAGES = 40, 6414  # of the paper's training; images in an epoch
WARM_UP_STEPS = 3  # the first compiles
TERA = 1e12
FIGURES = ("images_per_second", "step_tflops", "matrix_tflops", "share_of_matrix", "paper_hours")


class HeldBatch(keras.utils.PyDataset):  # type: ignore[misc]
    """One batch that is held in memory, as often as there are steps."""

    def __init__(self, batch: Any, steps: int) -> None:
        super().__init__()
        self._batch = batch
        self._steps = steps

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._steps

    def __getitem__(self, index: int) -> Any:
        """Return the batch."""
        return self._batch


def has_gpu() -> bool:
    """Say whether keras computes on a GPU."""
    return any(name.startswith(("gpu", "cuda")) for name in training_devices())


def device_names() -> list[str]:
    """Return what keras computes on, such as "gpu:0", then the names of the machine's NVIDIA cards."""
    return [*training_devices(), *(gpu["name"] for gpu in nvidia_gpus())]


def step_rows(build: Callable[[Recipe], Any], recipes: Sequence[Recipe], batch: Any, steps: int) -> list[Row]:
    """Time the training step of each recipe; a step that fails is a row that says why.

    Args:
        build: Returns the network of a recipe, compiled.
        recipes: Alike but for precision and compilation.
        batch: As train.batches.Batches gives it.
        steps: How many are timed.
    """
    rows: list[Row] = []
    for recipe in recipes:
        row = {"precision": recipe.precision, "xla": recipe.compiled, **dict.fromkeys(FIGURES, "")}
        keras.utils.clear_session()  # frees the network before
        rows.append(tried(row | {"status": OK, "reason": ""}, partial(_figures, build, recipe, batch, steps)))
    return rows


def _figures(build: Callable[[Recipe], Any], recipe: Recipe, batch: Any, steps: int) -> Row:
    network = build(recipe)
    seconds = step_seconds(network, batch, steps)
    rate = STEP_TO_FORWARD * forward_flops(network) * len(batch[0]) / seconds
    matrix_rate = matrix_flops_per_second(keras.dtype_policies.get(recipe.precision).compute_dtype)
    hours = PAPER_EPOCHS * PAPER_IMAGES * seconds / len(batch[0]) / 3600
    figures = (len(batch[0]) / seconds, rate / TERA, matrix_rate / TERA, rate / matrix_rate, hours)
    return {name: round(value, 4) for name, value in zip(FIGURES, figures, strict=True)}


def step_seconds(network: Any, batch: Any, steps: int) -> float:
    """Return the median time of `steps` training steps on one batch, from the batch in memory to its loss."""
    batches = ClockedBatches(HeldBatch(batch, WARM_UP_STEPS + steps))
    clock = StepClock(batches)
    network.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
    return float(np.median(clock.step_seconds[WARM_UP_STEPS:]))
