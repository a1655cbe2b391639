"""Times the input of training beside the paper's generator, all on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record import Row
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec
from train.allocator import keep_freed_memory
from train.dataset import Cell
from train.standardization import Standardization

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAPER = "paper's generator"
LEAST_SECONDS = 0.2  # of an input in a round


def input_rows(
    cells: Sequence[Cell], size: int, standardization: Standardization, inputs: Mapping[str, Any], rounds: int
) -> list[Row]:
    """Compare whole epochs of `inputs`, name to train.batches.Batches of `cells`, with the paper's generator.

    Each is read once to warm up, then for LEAST_SECONDS or longer in each round. `times_the_papers` is taken within a
    round.
    """
    count = len(next(iter(inputs.values())))
    epochs: dict[str, Callable[[], Iterator[NDArray[Any]]]] = {
        PAPER: lambda: paper_batches(cells, size, standardization, count),
        **{name: partial(_all_batches, batches) for name, batches in inputs.items()},
    }
    keep_freed_memory()  # as `train fit` does
    # The last batch of an epoch may be filled up, so an epoch may give more cells than there are.
    given = {name: _read(epoch()) for name, epoch in epochs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            seconds[name].append(_mean_seconds(epoch))
    return [
        {
            "input": name,
            "cells_per_second": round(given[name] / float(np.median(own)), 1),
            "times_the_papers": round(given[name] / given[PAPER] * float(np.median(np.divide(seconds[PAPER], own))), 1),
        }
        for name, own in seconds.items()
    ]


def paper_batches(
    cells: Sequence[Cell], size: int, standardization: Standardization, count: int
) -> Iterator[NDArray[np.float32]]:
    """Yield batches as the paper's ImageGenerator is described: read, resize and standardize one file after another."""
    mean, std = (np.asarray(values, np.float32) for values in (standardization.mean, standardization.std))
    image = ImageSpec(size, size)
    for chosen in np.array_split(np.arange(len(cells)), count):
        yield np.stack([(load_cell(cells[index].path, image).astype(np.float32) - mean) / std for index in chosen])


def _all_batches(batches: Any) -> Iterator[NDArray[Any]]:
    return (batches[index][0] for index in range(len(batches)))


def _read(batches: Iterator[NDArray[Any]]) -> int:
    """Take each batch and let it go; return the number of cells."""
    return sum(len(cells) for cells in batches)


def _mean_seconds(epoch: Callable[[], Iterator[NDArray[Any]]]) -> float:
    """Read epochs for LEAST_SECONDS or longer; return the seconds of one."""
    started, repeats = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < LEAST_SECONDS:
        _read(epoch())
        repeats += 1
    return seconds / repeats
