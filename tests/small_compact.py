"""compact with each kind of its layers, but fewer of them: TensorFlow needs most of a short fit to compile the others.

The whole network is built in tests/train/test_models.py, trained by TensorFlow for `finished_run`, which the tests of
export convert, and trained by JAX in tests/train/test_devices.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SIZES = {"FINE_STAGES": (64, 128), "BLOCKS_PER_STAGE": 1, "COARSE_STAGES": (32,)}


@contextmanager
def small_compact() -> Iterator[None]:
    """Build a small compact inside, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES.items():
            patch.setattr(f"train.models.compact.{name}", value)
        yield
