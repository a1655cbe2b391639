"""Counts the arithmetic of a network and measures how fast a device multiplies matrices; loads keras."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

import keras
import numpy as np

STEP_TO_FORWARD = 3  # a training step computes the gradients of activations and of weights beside the forward pass

SMALLEST_SIDE, LARGEST_SIDE = 256, 16384  # of the matrices; three of the largest in float32 take 3 GiB
LONG_ENOUGH_S = 0.1  # a product that takes so long hides what a call costs
REPEATS = 5


def forward_flops(network: Any) -> int:
    """Count the floating-point operations of the forward pass of one image, a multiplication and an addition as two.

    Counted are the products with kernels: those of Conv2D, SeparableConv2D, DepthwiseConv2D and Dense, all weights of
    two or more dimensions, which are applied once at each place of the layer's output.

    Args:
        network: A functional keras.Model whose layers are built, with channels last.
    """
    return sum(
        2 * math.prod(weight.shape) * math.prod(layer.output.shape[1:-1])
        for layer in network.layers
        for weight in layer.weights
        if len(weight.shape) > 1
    )


@cache  # what other rows are shares of is the same for all of them
def matrix_flops_per_second(dtype: str) -> float:
    """Measure the rate of square matrix products in `dtype`, as keras computes them on its first device.

    The matrices grow until a product takes LONG_ENOUGH_S; the best rate of all counts. Measured once in a process.
    """
    side, best = SMALLEST_SIDE, 0.0
    while True:
        seconds = _product_seconds(side, dtype)
        best = max(best, 2 * side**3 / seconds)
        if seconds >= LONG_ENOUGH_S or side >= LARGEST_SIDE:
            return best
        side *= 2


def _product_seconds(side: int, dtype: str) -> float:
    """Return the shortest time of a product of two side x side matrices."""
    values = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    matrix = keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)
    seconds = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        product = keras.ops.matmul(matrix, matrix)
        keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32"))  # waits until it is there
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
