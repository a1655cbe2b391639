"""What happens round each batch of training."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from runtime.errors import RunError
from train.allocator import keep_freed_memory

DIVERGED = "the run diverged; try a lower --learning-rate, --clip-norm 1, or another --seed"


class Average(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves another network's weights towards those of the trained one: momentum * own + (1 - momentum) * trained."""

    def __init__(self, average: Any, momentum: float) -> None:
        super().__init__()
        self._average = average
        self._momentum = momentum

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the weights."""
        update_average(self._average, self.model, self._momentum)


def update_average(average: Any, network: Any, momentum: float) -> None:
    """Move the weights of `average` towards those of `network`: momentum * own + (1 - momentum) * the other's."""
    for own, other in zip(average.weights, network.weights, strict=True):
        if keras.backend.is_float_dtype(other.dtype):
            own.assign(own + (1 - momentum) * (other - own))


class RaiseOnNonFiniteLoss(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a run that diverged."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Raise RunError that names batch and epoch where the loss is not finite."""
        if logs and not math.isfinite(logs["loss"]):
            raise RunError(
                f"expected a finite loss, found {logs['loss']} in batch {batch + 1} of epoch {self._epoch + 1}: "
                f"{DIVERGED}"
            )


class ProgressBar(keras.callbacks.Callback):  # type: ignore[misc]
    """Counts the batches on a tqdm bar."""

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar = bar

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the batch."""
        self._bar.update()


class KeepFreedMemory(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets the C library keep what is freed: TensorFlow's generator undoes that before its first batch."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set it again."""
        keep_freed_memory()


def seed_dropout(network: Any, seed: int, epoch: int) -> None:
    """Let the dropped units of an epoch depend on seed and epoch alone: Keras does not save the generators' state."""
    for index, layer in enumerate(network.layers):
        if hasattr(layer, "seed_generator"):
            drawn = np.random.default_rng([seed, epoch, index]).integers(2**31, size=2)
            layer.seed_generator.state.assign(drawn)
