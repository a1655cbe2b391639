"""Trains on all GPUs, of one machine or of several, by the framework's own strategy.

The only file of train that names a framework.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from runtime.command_line import INTERRUPTED, REFUSED
from runtime.errors import UsageError
from runtime.schema import Recipe
from train.processes import ADDRESSES, Crew, assembled, free_port, place_of

JOIN_SECONDS = 60  # for the framework, when all processes are there


@contextmanager
def all_processes() -> Iterator[Crew]:
    """Yield this process' crew, as the environment names it; before anything is computed.

    Raises UsageError where the environment is contradictory or the framework trains in one process alone, RunError
    where others are missing.
    """
    place = place_of(os.environ)
    if place and keras.backend.backend() != "jax":
        raise UsageError(
            f"expected KERAS_BACKEND=jax for training in several processes, found {keras.backend.backend()}; set it, "
            f"or leave {ADDRESSES} unset"
        )
    with assembled(place) as crew:
        if not place:
            yield crew
            return
        with _exit_without_farewell():
            _join_framework(crew)
            yield crew
            _leave_framework()


def _join_framework(crew: Crew) -> None:
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    port = crew.told_by_first(str(free_port()) if crew.is_first else "")
    jax.distributed.initialize(f"{crew.host}:{port}", crew.count, crew.number, initialization_timeout=JOIN_SECONDS)


def _leave_framework() -> None:
    import jax

    jax.distributed.shutdown()


@contextmanager
def _exit_without_farewell() -> Iterator[None]:
    """After an error, end the process when it has said so: JAX would wait for the others, who end as well."""
    try:
        yield
    except BaseException as error:
        atexit.register(_exit_at_once, _code_of(error))
        raise


def _code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else REFUSED


def _exit_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def training_devices(processes: int = 1) -> list[str]:
    """Return the names of the devices that train, such as "gpu:0": all GPUs, or the CPU where there is none.

    On Torch it is one alone: its strategy needs a process for each GPU, which Keras does not start. The devices of all
    processes are named, those of the first at first.
    """
    if keras.backend.backend() == "torch":
        return [str(keras.ops.zeros(()).device)]
    devices: list[str] = keras.distribution.list_devices()
    gpus = [name for name in devices if not name.startswith("cpu")]
    return gpus or (devices if processes > 1 else devices[:1])


def check_compiled(recipe: Recipe, devices: Sequence[str]) -> None:
    """Raise UsageError where the strategy for several devices cannot run a step that XLA compiled."""
    if recipe.compiled and len(devices) > 1 and keras.backend.backend() == "tensorflow":
        raise UsageError(
            f"expected no --compiled with {len(devices)} GPUs on TensorFlow, which cannot share out a compiled step; "
            "leave it away, or let CUDA_VISIBLE_DEVICES name one GPU"
        )


@contextmanager
def shared_among(devices: Sequence[str]) -> Iterator[None]:
    """Let the networks that are built and fitted inside work on all `devices` at once, each on its share of a batch.

    Each device holds the weights, and the gradients are summed: tf.distribute.MirroredStrategy on TensorFlow, whose
    batch norms see their own device's share; keras.distribution.DataParallel on JAX, whose batch norms see the whole
    batch, so that one device or process computes what several do. One device changes nothing.
    """
    if len(devices) < 2:
        yield
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy([name.upper() for name in devices]).scope():
            yield
    else:
        before = keras.distribution.distribution()
        # Each process reads its share of a batch itself.
        shared = keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False)
        keras.distribution.set_distribution(shared)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


@contextmanager
def predicting_together(network: Any, crew: Crew) -> Iterator[None]:
    """Let `network.predict` inside return in each process what all of them predict, each on its share of a batch."""
    if crew.count < 2:
        yield
        return
    from jax.experimental.multihost_utils import process_allgather

    network.make_predict_function()
    own = network.predict_function

    def gathered(state: Any, batch: Any) -> tuple[Any, Any]:
        p_all, state = own(state, batch)
        return process_allgather(p_all, tiled=True), state

    network.predict_function = gathered
    try:
        yield
    finally:
        network.predict_function = own


@contextmanager
def alone() -> Iterator[None]:
    """Let one process work inside without the others: Keras makes variables while it saves, which all would share."""
    if keras.backend.backend() != "jax":
        yield
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
