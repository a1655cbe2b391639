"""VGG16, ResNet50 and InceptionV3 without their tops, from keras.applications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras.applications import VGG16, InceptionV3, ResNet50

from runtime.errors import UsageError

BACKBONES: dict[str, Callable[..., Any]] = {"vgg16": VGG16, "resnet50": ResNet50, "inception_v3": InceptionV3}
MOMENTUM = 0.9  # of the batch norms' running statistics; Keras' 0.99 needs some 500 steps to settle


def backbone(name: str, cells: Any, weights: str) -> Any:
    """Build a backbone on the tensor `cells`; a keras.Model whose last activation is its output.

    Args:
        name: A key of BACKBONES.
        cells: Standardized cells [N, size, size, 3].
        weights: "none" for random ones, "imagenet", or a folder with Keras' official `<name>*notop*.h5` files.

    Raises UsageError where the weights cannot be had or do not fit.
    """
    model = _build(name, cells, "imagenet" if weights == "imagenet" else None)
    if weights not in ("none", "imagenet"):
        _load(model, name, Path(weights))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return model


def _build(name: str, cells: Any, weights: str | None) -> Any:
    try:
        return BACKBONES[name](include_top=False, weights=weights, input_tensor=cells)
    except Exception as error:  # keras wraps what its download raises into a bare Exception
        if weights is None:
            raise
        raise UsageError(
            f"the ImageNet weights of {name} cannot be fetched ({' '.join(str(error).split())}); "
            "give --weights the folder that holds them, or --weights none"
        ) from error


def _load(model: Any, name: str, folder: Path) -> None:
    found = sorted(folder.glob(f"{name}*notop*.h5"))
    if len(found) != 1:
        raise UsageError(
            f"expected one file {name}*notop*.h5 in {folder}, found {len(found)}; give --weights the folder that "
            "holds Keras' official files"
        )
    try:
        model.load_weights(found[0])
    except (ValueError, OSError) as error:
        raise UsageError(f"{found[0]} does not fit {name}: {' '.join(str(error).split())}") from error
