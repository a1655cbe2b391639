"""What a card can do at most, and what inference makes of it; loads keras, on whatever backend that runs.

Times end when the result is in the host's memory, or when one number of it is: that waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from benchmarks.flops import forward_flops, matrix_flops_per_second
from benchmarks.record import Row, tried
from benchmarks.windows import WindowPlan, figures, time_in_windows
from train.metrics import is_called_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

GIGA, TERA = 1e9, 1e12
REPEATS = 5
DTYPES = ("float32", "bfloat16", "float16")


def limit_rows(copied_bytes: int) -> list[Row]:
    """Measure matrix products by type and copies by direction: what other rows are shares of.

    float32 is what the framework makes of it: on many cards TF32. A copy to the host is convert_to_numpy, which copies
    once more in the host's memory. A copy on the device reads and writes.
    """
    rows = [tried({"limit": f"matrix product {dtype}"}, partial(_matrix, dtype)) for dtype in DTYPES]
    host = np.ones(copied_bytes // 4, np.float32)
    there = keras.ops.convert_to_tensor(host)
    copies: dict[str, tuple[Callable[[Any], object], Callable[[], Any], int]] = {
        "copy host to device": (lambda array: _wait(keras.ops.convert_to_tensor(array)), lambda: host, copied_bytes),
        "copy device to host": (keras.ops.convert_to_numpy, lambda: _computed_from(there), copied_bytes),
        "copy on the device": (lambda tensor: _wait(keras.ops.add(tensor, 1.0)), lambda: there, 2 * copied_bytes),
    }
    return rows + [tried({"limit": name}, partial(_copy, *copy)) for name, copy in copies.items()]


def inference_rows(
    build: Callable[[str], Any], cells: NDArray[np.uint8], batch_sizes: Sequence[int], precisions: Sequence[str]
) -> list[Row]:
    """Time keras' inference by precision and batch size, with the transfers, beside the matrix products in that type.

    Args:
        build: Returns the network in a training precision such as "mixed_float16".
        cells: uint8 RGB [N, height, width, 3], repeated to each batch.
        batch_sizes: Of the inference.
        precisions: Keras' dtype policies.
    """
    rows = []
    for precision in precisions:
        for size in batch_sizes:
            row: Row = {"runs_on": f"Keras on {keras.backend.backend()}", "precision": precision, "batch": size}
            batch = np.resize(cells, (size, *cells.shape[1:]))
            rows.append(tried(row, partial(_inference, build, precision, batch)))
    return rows


def precision_parity_row(build: Callable[[str], Any], cells: NDArray[np.uint8], precision: str) -> Row:
    """Compare a network of random weights in `precision` with itself in float32: what rounding alone does."""

    def compare() -> Row:
        full, narrow = build("float32"), build(precision)
        narrow.set_weights(full.get_weights())
        first, second = (network.predict_on_batch(cells)[:, 0].astype(np.float64) for network in (full, narrow))
        return parity_columns(first, second, 0.5)

    return tried({"runs_on": f"Keras on {keras.backend.backend()}", "precision": precision}, compare)


def parity_columns(reference: NDArray[Any], p_all: NDArray[Any], threshold: float) -> Row:
    """Return how far answers lie apart and how many labels differ."""
    return {
        "cells": len(reference),
        "max_difference": float(np.abs(reference - p_all).max()),
        "flipped": int((is_called_all(reference, threshold) != is_called_all(p_all, threshold)).sum()),
    }


def share_of_limit(flops_per_second: float, dtype: str) -> Row:
    """Return a rate in TFLOP/s, and as a share of what matrix products in that type reach."""
    return {
        "tflops": flops_per_second / TERA,
        "share_of_matrix": flops_per_second / matrix_flops_per_second(dtype),
    }


def _matrix(dtype: str) -> Row:
    return {"rate": matrix_flops_per_second(dtype) / TERA, "unit": "TFLOP/s"}


def _copy(copy: Callable[[Any], object], source: Callable[[], Any], moved_bytes: int) -> Row:
    return {"rate": moved_bytes / _shortest(copy, source) / GIGA, "unit": "GB/s"}


def _inference(build: Callable[[str], Any], precision: str, batch: NDArray[np.uint8]) -> Row:
    network = build(precision)
    timing = time_in_windows(lambda: network.predict_on_batch(batch), WindowPlan(seconds=0.3, fewest_runs=3))
    row = figures(timing, len(batch))
    rate = forward_flops(network) * row["cells_per_second"]
    kept = {name: row[name] for name in ("p50_ms", "p95_ms", "cells_per_second", "agreed")}
    return kept | share_of_limit(rate, keras.dtype_policies.get(precision).compute_dtype)


def _shortest(work: Callable[[Any], object], source: Callable[[], Any]) -> float:
    """Return the shortest time of `work` on what `source` makes anew for each run, before the clock starts."""
    seconds = []
    for _ in range(1 + REPEATS):
        given = source()
        started = time.perf_counter()
        work(given)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _computed_from(tensor: Any) -> Any:
    """Return a tensor that was not yet copied to the host: JAX keeps such a copy and returns it again."""
    computed = keras.ops.add(tensor, 1.0)
    _wait(computed)
    return computed


def _wait(tensor: Any) -> None:
    keras.ops.convert_to_numpy(tensor[0])
