"""Compares the peak memory of `train fit` on few cells with that on many."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peak_memory import run_measured
from benchmarks.record import Row

SIZE = 64  # pixels


def memory_row(folder: Path, count: int) -> Row:
    """Fit compact for one epoch on `count` cells, in a process of its own; return its peak memory.

    `folder` is made and holds the cells, their prepared images and the run.
    """
    write_noise(folder / "cells", count)
    fit = [sys.executable, "-m", "train", "fit", "--model", "compact", "--image-size", str(SIZE), "--epochs", "1"]
    where = ["--data", f"{folder}/cells", "--out", f"{folder}/run", "--cache", f"{folder}/cache"]
    done = run_measured([*fit, *where])
    prepared = count * SIZE * SIZE * 3 / 2**20
    return {
        "cells": count,
        "prepared_mb": round(prepared, 1),
        "peak_mb": done.peak_mb,
        "seconds": round(done.seconds, 1),
    }


def write_noise(folder: Path, count: int) -> None:
    """Write `count` labelled BMP files of noise: no two of them are alike, so that none is left out as a copy."""
    rng = np.random.default_rng(0)
    for name in ("all", "hem"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("hem" if index % 3 == 2 else "all") / f"{index}.bmp")
