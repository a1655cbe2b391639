"""Builds a network by name, from uint8 cells to the probability of ALL."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from runtime.errors import RunError, UsageError, one_line
from runtime.schema import DEFAULT_THRESHOLD, INPUT_NAME, OUTPUT_NAME, Recipe
from train.models.allnet import allnet_features
from train.models.baselines import baseline_features
from train.models.compact import compact_features, weigh_streams
from train.standardization import Standardization

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_SIZE = 450  # pixels: the release's own
PAPER_RECIPE = Recipe("adam", 1e-4, "constant")
OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}


@dataclass(frozen=True)
class NetworkKind:
    """What sets a network apart from the others; the paper's four differ in their features alone."""

    features: Callable[[Any, Any, str], Any]  # of the cells, the standardized cells and the weights to start from
    size: int = 250  # pixels: what it is meant for
    smallest_size: int = 75  # pixels: InceptionV3's
    weights: str = "imagenet"  # it starts from; "none" where it has no others
    recipe: Recipe = PAPER_RECIPE  # how it is optimized
    used_kernel: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda kernel: kernel  # of the last layer


NETWORKS = {
    "allnet": NetworkKind(lambda _, x, weights: allnet_features(x, weights)),
    "vgg": NetworkKind(lambda _, x, weights: baseline_features("vgg16", x, weights)),
    "resnet": NetworkKind(lambda _, x, weights: baseline_features("resnet50", x, weights)),
    "inception": NetworkKind(lambda _, x, weights: baseline_features("inception_v3", x, weights)),
    "compact": NetworkKind(
        lambda cells, x, _: compact_features(cells, x),
        size=128,
        smallest_size=32,  # its last stage then has one pixel
        weights="none",
        recipe=Recipe("adam", 2e-3, "cosine", weight_decay=0.01, class_weights=True, turn=True),
        used_kernel=weigh_streams,
    ),
}


def refuse_unfit_size(model: str, size: int) -> None:
    """Raise UsageError for an image size in pixels that a network cannot take."""
    smallest = NETWORKS[model].smallest_size
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
    refuse_unfit_size(model, size)
    if NETWORKS[model].weights == "none" and weights != "none":
        raise UsageError(f"expected --weights none for {model}, which has no others, received {weights}")
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
    features = NETWORKS[model].features(cells, x, weights)
    p_all = layers.Dense(1, activation="sigmoid", dtype="float32", name=OUTPUT_NAME)(features)
    return keras.Model(cells, p_all, name=model)


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
    last = network.get_layer(OUTPUT_NAME)
    learnt = last.get_weights()
    last.set_weights([NETWORKS[network.name].used_kernel(learnt[0]), *learnt[1:]])
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
        raise RunError(f"expected a saved network at {file}, found: {one_line(error)}; {hint}") from error
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
    # Without XLA, JAX is far too slow.
    is_compiled = recipe.compiled or keras.backend.backend() == "jax"
    network.compile(optimizer, "binary_crossentropy", metrics=[accuracy], jit_compile=is_compiled)
    _build_measures(network)


def _build_measures(network: Any) -> None:
    """Let the loss and the metrics of a compiled network know the shape of a batch before it is fitted.

    Otherwise Keras on JAX and Torch reads a batch to find out, and deals those that its threads have read meanwhile
    before the first one: in the first epoch some cells come twice and others never (seen with Keras 3.15).
    """
    one = np.ones((1, 1), np.float32)
    network.compute_loss(None, one, one, one[0])
    network.compute_metrics(None, one, one, one[0])
    network.reset_metrics()


@keras.saving.register_keras_serializable("allnet_edge")  # type: ignore[untyped-decorator]  # keras has no types
def accuracy(targets: Any, p_all: Any) -> Any:
    """Return for each cell, [N, 1], whether p_all is on its target's side of 0.5; a target may lie between labels."""
    return ops.equal(targets >= DEFAULT_THRESHOLD, p_all >= DEFAULT_THRESHOLD)
