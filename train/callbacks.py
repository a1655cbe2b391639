"""What happens before and after each batch of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from runtime.errors import RunError
from train.allocator import keep_freed_memory

DIVERGED = "the run diverged; try a lower --learning-rate, --clip-norm 1, or another --seed"


def batch_callback(epoch: int, bar: Any, average: Any, momentum: float) -> Any:
    """Return a Keras callback that counts the batches of an epoch, from 0, on a tqdm bar.

    With a `momentum` above 0 it also moves the weights of the network `average` towards those of the trained one after
    each batch. It raises RunError where the loss is not finite.
    """

    def on_end(batch: int, logs: Mapping[str, float]) -> None:
        bar.update()
        if not math.isfinite(logs["loss"]):
            raise RunError(
                f"expected a finite loss, found {logs['loss']} in batch {batch + 1} of epoch {epoch + 1}: {DIVERGED}"
            )
        if momentum:
            # By `callback.model`: on JAX, asking for it is what brings the network's weights up to date.
            update_average(average, callback.model, momentum)

    callback = keras.callbacks.LambdaCallback(
        # Before every batch: TensorFlow's generator undoes it before the first.
        on_train_batch_begin=lambda batch, logs: keep_freed_memory(),
        on_train_batch_end=on_end,
    )
    return callback


def update_average(average: Any, network: Any, momentum: float) -> None:
    """Move the weights of `average` towards those of `network`: momentum * own + (1 - momentum) * the other's."""
    for own, other in zip(average.weights, network.weights, strict=True):
        if keras.backend.is_float_dtype(other.dtype):
            own.assign(own + (1 - momentum) * (other - own))


def seed_dropout(network: Any, seed: int, epoch: int) -> None:
    """Let the dropped units of an epoch depend on seed and epoch alone: Keras does not save the generators' state."""
    for index, layer in enumerate(network.layers):
        if hasattr(layer, "seed_generator"):
            drawn = np.random.default_rng([seed, epoch, index]).integers(2**31, size=2)
            layer.seed_generator.state.assign(drawn)
