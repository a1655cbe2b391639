"""Builds a network by name, from uint8 cells to the probability of ALL."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from runtime.errors import RunError, UsageError
from runtime.schema import DEFAULT_THRESHOLD, INPUT_NAME, OUTPUT_NAME, Recipe
from train.models.allnet import allnet_features
from train.models.baselines import baseline_features
from train.models.compact import compact_features, weigh_streams
from train.standardization import Standardization

BACKBONE_OF_BASELINE = {"vgg": "vgg16", "resnet": "resnet50", "inception": "inception_v3"}
SMALLEST_SIZE, LARGEST_SIZE = 75, 450  # pixels: InceptionV3's smallest, the release's own
SMALLEST_SIZE_OF_COMPACT = 32  # pixels: its last stage then has one
SIZE_OF_MODEL = {"compact": 128}
PAPER_SIZE = 250

PAPER_RECIPE = Recipe("adam", 1e-4, "constant")
COMPACT_RECIPE = Recipe("adam", 2e-3, "cosine", weight_decay=0.01, class_weights=True, turn=True)
OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}


def default_size(model: str) -> int:
    """Return the image size in pixels that a network is meant for."""
    return SIZE_OF_MODEL.get(model, PAPER_SIZE)


def default_weights(model: str) -> str:
    """Return the weights that a network starts from: ImageNet's for the paper's four, random ones for compact."""
    return "none" if model == "compact" else "imagenet"


def recipe_of(model: str) -> Recipe:
    """Return how a network is optimized."""
    return COMPACT_RECIPE if model == "compact" else PAPER_RECIPE


def check_size(model: str, size: int) -> None:
    """Raise UsageError for an image size in pixels that a network cannot take."""
    smallest = SMALLEST_SIZE_OF_COMPACT if model == "compact" else SMALLEST_SIZE
    if not smallest <= size <= LARGEST_SIZE:
        raise UsageError(f"expected an image size from {smallest} to {LARGEST_SIZE} px for {model}, received {size}")


def build_network(
    model: str, size: int, standardization: Standardization, weights: str, precision: str = "float32"
) -> Any:
    """Build a keras.Model from uint8 RGB cells [N, size, size, 3] to p_all, float32 [N, 1].

    The first layer standardizes, so that the file of the model is complete: no other code has to know the mean.
    `precision` is what its layers compute in; the first and the last always compute in float32, and so do all weights.

    Raises UsageError for a size or weights that the network cannot take.
    """
    check_size(model, size)
    with _computing_in(precision):
        return _build(model, size, standardization, weights)


@contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    """Let the networks that are built or loaded inside compute in a precision where their layers have none."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _build(model: str, size: int, standardization: Standardization, weights: str) -> Any:
    cells = keras.Input((size, size, 3), dtype="uint8", name=INPUT_NAME)
    # (x - mean) / std as x * scale + offset: Rescaling keeps its numbers in the file and exports as constants.
    scale = [1 / std for std in standardization.std]
    offset = [-mean / std for mean, std in zip(standardization.mean, standardization.std, strict=True)]
    x = layers.Rescaling(scale, offset, dtype="float32", name="standardize")(cells)
    features = _compact_features(cells, x, weights) if model == "compact" else _features(model, x, weights)
    p_all = layers.Dense(1, activation="sigmoid", dtype="float32", name=OUTPUT_NAME)(features)
    return keras.Model(cells, p_all, name=model)


def _features(model: str, cells: Any, weights: str) -> Any:
    if model == "allnet":
        return allnet_features(cells, weights)
    return baseline_features(BACKBONE_OF_BASELINE[model], cells, weights)


def _compact_features(cells: Any, standardized: Any, weights: str) -> Any:
    if weights != "none":
        raise UsageError(f"expected --weights none for compact, which has no others, received {weights}")
    return compact_features(layers.Rescaling(1 / 255, dtype="float32", name="brightness")(cells), standardized)


def ending_in_logit(network: Any) -> Any:
    """Return a network from the same cells to the logit of p_all, float32 [N, 1].

    A float32 sigmoid is 1 from a logit of 17 on, where a temperature still tells cells apart.
    """
    last = network.get_layer(OUTPUT_NAME)
    logit = layers.Dense(1, dtype="float32", name="logit")
    outputs = logit(last.input)
    logit.set_weights(last.get_weights())
    return keras.Model(network.inputs, outputs)


@contextmanager
def as_used(network: Any) -> Iterator[None]:
    """Give a network inside the weights that it is validated, kept and used with, where training has others."""
    if network.name != "compact":
        yield
        return
    last = network.get_layer(OUTPUT_NAME)
    learnt = last.get_weights()
    last.set_weights([weigh_streams(learnt[0]), *learnt[1:]])
    try:
        yield
    finally:
        last.set_weights(learnt)


def load_network(file: Path, hint: str, *, to_train_in: str = "") -> Any:
    """Load a saved network, with its optimizer where a precision is named `to_train_in`: that of the run's recipe.

    Raises RunError with `hint` where there is none, it is damaged, or its optimizer's state does not fit.
    """
    if not file.is_file():
        raise RunError(f"expected a saved network at {file}, found none; {hint}")
    try:
        # Keras scales the loss of a network that is loaded under mixed_float16 alone, whatever its layers compute in,
        # and leaves a state that does not fit unread with no more than a warning.
        with warnings.catch_warnings(), _computing_in(to_train_in or "float32"):
            warnings.filterwarnings("error", "Skipping variable loading")
            network = keras.models.load_model(file, compile=bool(to_train_in))
    except (OSError, ValueError, KeyError, UserWarning, zipfile.BadZipFile) as error:
        raise RunError(f"expected a saved network at {file}, found: {' '.join(str(error).split())}; {hint}") from error
    if to_train_in:
        _build_measures(network)
    return network


def compile_network(network: Any, recipe: Recipe, steps: int) -> None:
    """Give the network its loss, its optimizer and the accuracy that checkpoints are chosen by.

    Args:
        network: As built by `build_network`.
        recipe: How to optimize.
        steps: Batches in all epochs together, over which a cosine schedule falls to zero.
    """
    rate: Any = recipe.learning_rate
    if recipe.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=steps)
    optimizer = OPTIMIZERS[recipe.optimizer](
        rate, weight_decay=recipe.weight_decay or None, global_clipnorm=recipe.clip_norm or None
    )
    # JAX has no other way than XLA to run a step at a tolerable speed.
    is_compiled = recipe.compiled or keras.backend.backend() == "jax"
    network.compile(optimizer, "binary_crossentropy", metrics=[accuracy], jit_compile=is_compiled)
    _build_measures(network)


def _build_measures(network: Any) -> None:
    """Let the loss and the metrics of a compiled network know the form of a batch before it is fitted.

    On JAX and Torch, Keras else looks at a batch for it, and deals those that its threads have read meanwhile before
    the first one: in the first epoch some cells come twice and others never (seen with Keras 3.15).
    """
    one = np.ones((1, 1), np.float32)
    network.compute_loss(None, one, one, one[0])
    network.compute_metrics(None, one, one, one[0])
    network.reset_metrics()


@keras.saving.register_keras_serializable("allnet_edge")  # type: ignore[untyped-decorator]  # keras has no types
def accuracy(targets: Any, p_all: Any) -> Any:
    """Return for each cell, [N, 1], whether p_all is on its target's side of 0.5; a target may lie between labels."""
    return ops.equal(targets >= DEFAULT_THRESHOLD, p_all >= DEFAULT_THRESHOLD)
