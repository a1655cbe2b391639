"""VGG16, ResNet50 and InceptionV3 without their tops, from keras.applications."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import keras
from keras.applications import VGG16, InceptionV3, ResNet50

from runtime.errors import UsageError, one_line

_Layer = tuple[str, list[tuple[int, ...]]]  # a name and the shapes of its weights
NO_LAYER: _Layer = ("", [])
BACKBONES: dict[str, Callable[..., Any]] = {"vgg16": VGG16, "resnet50": ResNet50, "inception_v3": InceptionV3}
OFFICIAL_PLACE = "storage.googleapis.com/tensorflow/keras-applications"
OFFICIAL_FOLDERS = {"vgg16": "vgg16", "resnet50": "resnet", "inception_v3": "inception_v3"}
OFFICIAL_SUFFIX = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
MOMENTUM = 0.9  # of the batch norms' running statistics; Keras' 0.99 needs some 500 steps to settle


def backbone(name: str, cells: Any, weights: str) -> Any:
    """Build a backbone on the tensor `cells`; a keras.Model whose last activation is its output.

    Args:
        name: A key of BACKBONES.
        cells: Standardized cells [N, size, size, 3].
        weights: "none" for random ones, "imagenet", Keras' official file for this backbone, or a folder with its
            `<name>_weights*notop*.h5`.

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
            f"the ImageNet weights of {name} cannot be fetched ({one_line(error)}); "
            f"download {name}{OFFICIAL_SUFFIX} from {OFFICIAL_PLACE}/{OFFICIAL_FOLDERS[name]}, put the file into a "
            "folder and give it to --weights, or use --weights none"
        ) from error


def _load(model: Any, name: str, weights: Path) -> None:
    file = weights if weights.is_file() else _file_in(weights, name)
    misfit = _first_misfit(model, file)
    if misfit:
        raise UsageError(
            f"{file} does not fit {name}: {misfit}; expected Keras' official weights of {name} without top"
        )
    model.load_weights(file)


def _file_in(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UsageError(f"expected --weights imagenet, none, or a file or folder, found nothing at {folder}")
    found = sorted(folder.glob(f"{name}_weights*notop*.h5"))  # resnet50v2_weights_... may lie beside it
    if len(found) != 1:
        raise UsageError(
            f"expected one file {name}_weights*notop*.h5 in {folder}, found {len(found)}; give --weights the folder "
            f"that holds Keras' official files, such as {name}{OFFICIAL_SUFFIX}"
        )
    return found[0]


def _first_misfit(model: Any, file: Path) -> str:
    """Say where the first layer of the file differs from the model's; empty where all fit.

    Layers are matched by their order, as Keras does: it numbers those of InceptionV3 anew in each process.
    """
    try:
        with h5py.File(file) as content:
            saved = [(_text(name), _shapes(content[name])) for name in content.attrs["layer_names"]]
    except (OSError, KeyError) as error:
        return f"it is not a file of that layout ({one_line(error)})"
    own = [(layer.name, _own_shapes(layer)) for layer in model.layers]
    pairs: Iterable[tuple[_Layer, _Layer]] = zip_longest(_with_weights(own), _with_weights(saved), fillvalue=NO_LAYER)
    for (own_name, own_shapes), (saved_name, saved_shapes) in pairs:
        if not own_shapes:
            return f"the file has a further layer {saved_name}"
        if not saved_shapes:
            return f"the file lacks the layer {own_name}"
        if own_shapes != saved_shapes:
            return f"the layer {own_name} has weights of {own_shapes}, in the file {saved_name} has {saved_shapes}"
    return ""


def _own_shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in (*layer.trainable_weights, *layer.non_trainable_weights)]


def _shapes(group: Any) -> list[tuple[int, ...]]:
    return [tuple(group[name].shape) for name in group.attrs["weight_names"]]


def _with_weights(layers: list[_Layer]) -> list[_Layer]:
    return [(name, shapes) for name, shapes in layers if shapes]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
