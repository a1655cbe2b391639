"""What a person measures on a cell, computed in the graph: its size, its stain and the texture of its nucleus.

A few figures that mean the same on every slide: a network of pixels alone learns how sharp the slides of its few
training subjects are, and takes that for the class.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

MASK_LEVEL = 0.12  # brightness, 0..1, from which a pixel counts fully as cell; the background is black
TEXTURE_WINDOWS = (3, 7, 13)  # pixels; each band of texture lies between two of these means
SMALLEST_VARIANCE = 1e-5  # of brightness; noise of 8-bit pixels is near it


def shape_features(cells: Any) -> Any:
    """Return the features [N, 28] of cells [N, height, width, 3], brightness 0..1, RGB over black; float32 throughout.

    They are the square root of the cell's share of the frame; mean, standard deviation and skewness of each channel
    inside the cell; and for each of three bands of texture the logarithm of its variance and its skewness.
    """
    mask = ops.minimum(ops.mean(cells, axis=-1, keepdims=True) / MASK_LEVEL, 1.0)
    area = _mean_of_frame(mask)

    def mean_inside(x: Any) -> Any:
        return _mean_of_frame(x * mask) / ops.maximum(area, SMALLEST_VARIANCE)

    mean = mean_inside(cells)
    deviation = cells - ops.expand_dims(ops.expand_dims(mean, 1), 1)
    features = [ops.sqrt(area), mean, *_spread_and_skewness(deviation, mean_inside)]
    smooth = deviation * mask
    for window in TEXTURE_WINDOWS:
        rough = smooth
        smooth = layers.AveragePooling2D(window, 1, padding="same", dtype="float32", name=f"smooth{window}")(rough)
        spread, skewness = _spread_and_skewness(rough - smooth, mean_inside)
        features += [ops.log(spread), skewness]
    return layers.Concatenate(dtype="float32", name="shape")(features)


def _mean_of_frame(x: Any) -> Any:
    """Return the mean [N, C] of [N, height, width, C]: columns first, since one long float32 sum loses digits."""
    return ops.mean(ops.mean(x, axis=1, keepdims=True), axis=(1, 2))


def _spread_and_skewness(deviation: Any, mean_inside: Any) -> tuple[Any, Any]:
    """Return standard deviation and skewness of what has a mean of zero."""
    spread = ops.sqrt(mean_inside(ops.square(deviation)) + SMALLEST_VARIANCE)
    return spread, mean_inside(deviation * ops.square(deviation)) / (spread * ops.square(spread))
