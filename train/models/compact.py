"""A small network for devices and PCs without a GPU: 354 thousand weights."""

from __future__ import annotations

from typing import Any

from keras import layers

STEM_CHANNELS = 32
STAGE_CHANNELS = (64, 128, 192, 256)
BLOCKS_PER_STAGE = 2
DROPOUT = 0.3
MOMENTUM = 0.9  # of the batch norms' running statistics: an epoch has too few steps for the usual 0.99


def compact_features(cells: Any) -> Any:
    """Return the features [N, 256] of standardized cells [N, size, size, 3].

    A strided stem, then stages that halve the image and refine it with residual depthwise-separable blocks (the
    separable convolutions of MobileNet, arXiv 1704.04861, with the shortcuts of ResNet, arXiv 1512.03385).
    """
    x = layers.Conv2D(STEM_CHANNELS, 3, strides=2, padding="same", use_bias=False, name="stem")(cells)
    x = _normalized(x, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, channels in enumerate(STAGE_CHANNELS, start=1):
        x = _separable(x, channels, f"stage{stage}_down", strides=2)
        x = layers.ReLU(name=f"stage{stage}_down_relu")(x)
        for block in range(1, BLOCKS_PER_STAGE + 1):
            name = f"stage{stage}_block{block}"
            x = layers.Add(name=f"{name}_add")([x, _separable(x, channels, name)])
            x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return layers.Dropout(DROPOUT, name="dropout")(x)


def _separable(x: Any, channels: int, name: str, strides: int = 1) -> Any:
    x = layers.SeparableConv2D(channels, 3, strides=strides, padding="same", use_bias=False, name=name)(x)
    return _normalized(x, name)


def _normalized(x: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
