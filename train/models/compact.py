"""A small network for devices and PCs without a GPU: 564 thousand weights in two streams.

The fine stream sees the whole image. Within a training set it tells more cells apart than anything else, but part of
what it learns is how sharp the slides of those few subjects are. The coarse stream sees an image without fine texture
and measures the cell; it is the better one on subjects that it has never seen. Each is now and then switched off while
the network learns, so that neither relies on the other, and in use the fine one counts less than it learnt to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from keras import layers

from train.models.shape import shape_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINE_STEM, FINE_STAGES = 32, (64, 128, 192, 256)  # channels
BLOCKS_PER_STAGE = 2
COARSE_STEM, COARSE_STAGES = 16, (32, 64, 96)  # channels
COARSE_SIDE = 48  # pixels at least, where the image has as many
FINE_WEIGHT = 0.3  # in use: of 0.2 to 1, it costs little on seen subjects and gains much on unseen ones
DROPOUT = 0.3
STREAM_DROPOUT = 0.15
MOMENTUM = 0.9  # of the batch norms' running statistics: an epoch has too few steps for the usual 0.99


def compact_features(cells: Any, standardized: Any) -> Any:
    """Return the features [N, 380] of cells [N, size, size, 3].

    Args:
        cells: uint8, RGB over black.
        standardized: The same cells, standardized.
    """
    brightness = layers.Rescaling(1 / 255, dtype="float32", name="brightness")(cells)
    shrink = max(1, standardized.shape[1] // COARSE_SIDE)

    def shrunk(x: Any, name: str) -> Any:
        return layers.AveragePooling2D(shrink, dtype="float32", name=name)(x)

    shape = shape_features(shrunk(brightness, "coarse_cells"))
    shape = layers.BatchNormalization(momentum=MOMENTUM, dtype="float32", name="shape_norm")(shape)
    coarse = layers.Concatenate(name="coarse")([_coarse_features(shrunk(standardized, "coarse_standardized")), shape])
    streams = {"fine": _fine_features(standardized), "coarse": coarse}
    return layers.Concatenate(name="streams")(
        [
            layers.Dropout(STREAM_DROPOUT, noise_shape=(None, 1), name=f"{name}_stream_dropout")(stream)
            for name, stream in streams.items()
        ]
    )


def weigh_streams(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the last layer's kernel, [380, 1], as it is used: with the fine stream at FINE_WEIGHT."""
    weights = np.ones_like(kernel)
    weights[: FINE_STAGES[-1]] = FINE_WEIGHT
    used: NDArray[np.float32] = kernel * weights
    return used


def _fine_features(x: Any) -> Any:
    """A strided stem, then stages that halve the image and refine it with residual depthwise-separable blocks.

    The separable convolutions of MobileNet (arXiv 1704.04861) with the shortcuts of ResNet (arXiv 1512.03385).
    """
    x = layers.Conv2D(FINE_STEM, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = _activated(x, "stem")
    for stage, channels in enumerate(FINE_STAGES, start=1):
        x = _activated(_separable(x, channels, f"stage{stage}_down", strides=2), f"stage{stage}_down")
        for block in range(1, BLOCKS_PER_STAGE + 1):
            x = _residual(x, _separable(x, channels, f"stage{stage}_block{block}"), f"stage{stage}_block{block}")
    return _pooled(x, "fine")


def _coarse_features(x: Any) -> Any:
    """Three stages that halve the image, each with one residual block, of plain convolutions."""
    x = _activated(_convolution(x, COARSE_STEM, "coarse_stem"), "coarse_stem")
    for stage, channels in enumerate(COARSE_STAGES, start=1):
        name = f"coarse_stage{stage}"
        x = _activated(_convolution(x, channels, f"{name}_down", strides=2), f"{name}_down")
        x = _residual(x, _convolution(x, channels, f"{name}_block"), f"{name}_block")
    return _pooled(x, "coarse")


def _convolution(x: Any, channels: int, name: str, strides: int = 1) -> Any:
    return layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False, name=name)(x)


def _separable(x: Any, channels: int, name: str, strides: int = 1) -> Any:
    return layers.SeparableConv2D(channels, 3, strides=strides, padding="same", use_bias=False, name=name)(x)


def _residual(x: Any, refined: Any, name: str) -> Any:
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, _normalized(refined, name)]))


def _activated(x: Any, name: str) -> Any:
    return layers.ReLU(name=f"{name}_relu")(_normalized(x, name))


def _normalized(x: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)


def _pooled(x: Any, name: str) -> Any:
    x = layers.GlobalAveragePooling2D(name=f"{name}_average")(x)
    # Of mean zero, so that weighing a stream shifts no answer.
    x = layers.BatchNormalization(momentum=MOMENTUM, center=False, scale=False, name=f"{name}_norm")(x)
    return layers.Dropout(DROPOUT, name=f"{name}_dropout")(x)
