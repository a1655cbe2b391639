"""Trains on all GPUs by the framework's own strategy: with processes.py, the only file of train that names one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from runtime.errors import UsageError
from runtime.schema import Recipe
from train.processes import ALONE, Process


def training_devices(process: Process = ALONE) -> list[str]:
    """Return the names of the devices that train, such as "gpu:0": all GPUs, or the CPU where there is none.

    Where several processes train together, the devices are those of all of them. On Torch there is only one: its
    strategy needs a process for each GPU, which Keras does not start.
    """
    if keras.backend.backend() == "torch":
        return [str(keras.ops.zeros(()).device)]
    devices: list[str] = keras.distribution.list_devices()
    gpus = [name for name in devices if not name.startswith("cpu")]
    return gpus or (devices if process.count > 1 else devices[:1])


def refuse_compiled_on_several(recipe: Recipe, devices: Sequence[str]) -> None:
    """Raise UsageError where the strategy for several devices cannot run a step that XLA compiled."""
    if recipe.compiled and len(devices) > 1 and keras.backend.backend() == "tensorflow":
        raise UsageError(
            f"expected no --compiled with {len(devices)} GPUs on TensorFlow, which cannot share out a compiled step; "
            "omit it, or let CUDA_VISIBLE_DEVICES name one GPU"
        )


@contextmanager
def shared_among(devices: Sequence[str]) -> Iterator[None]:
    """Let the networks that are built and fitted inside work on all `devices` at once, each on its share of a batch.

    Each device holds the weights, and the gradients are summed: tf.distribute.MirroredStrategy on TensorFlow,
    keras.distribution.DataParallel on JAX. Batch norms see their own device's share on TensorFlow, the whole batch on
    JAX. One device changes nothing.
    """
    if len(devices) < 2:
        yield
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy([name.upper() for name in devices]).scope():
            yield
    else:
        # Without auto_shard_dataset: what a process reads is its own share already.
        with _distributed_by(keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False)):
            yield


@contextmanager
def unshared(process: Process) -> Iterator[None]:
    """Let each of several processes compute by itself inside what all of them compute, with the weights they share.

    Keras cannot gather what several processes predict, and would distribute again what it saves.
    """
    if process.count == 1:
        yield
        return
    with _distributed_by(None):
        yield


@contextmanager
def _distributed_by(distribution: Any) -> Iterator[None]:
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
