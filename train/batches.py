"""The batch generator: the paper's ImageGenerator as a keras PyDataset over prepared images.

What a batch holds depends on the seed, the epoch and the batch's number alone, so that a resumed run sees the
batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from runtime.schema import Recipe
from train.augmentation import augmented, augments
from train.prepared import PreparedImages
from train.splits import PlacedCell

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches (cells uint8 [B, size, size, 3], labels float32 [B, 1]) of one part, read from disk as needed.

    The cells of an epoch are dealt to nearly equal batches: no cell is left out, and no batch is left with a single
    cell over, whose statistics would upset batch normalization.
    """

    def __init__(
        self,
        images: PreparedImages,
        cells: Sequence[PlacedCell],
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Read `cells` in their order, or shuffled anew in each epoch where there is a `shuffle_seed`.

        With a `recipe` the cells are augmented as it says.
        """
        super().__init__(workers=1, use_multiprocessing=False)
        self.epoch = 0
        self._pixels = images.pixels
        self._rows = images.rows([cell.sha256 for cell in cells])
        self._labels = np.array([cell.label for cell in cells], dtype=np.float32)
        self._count = math.ceil(len(cells) / batch_size)
        self._shuffle_seed = shuffle_seed
        self._recipe = recipe if recipe and augments(recipe) else None

    @property
    def labels(self) -> NDArray[np.bool_]:
        """The label of each cell in the order given, bool [N], True for ALL."""
        return np.equal(self._labels, 1)

    def class_weights(self) -> dict[int, float]:
        """Return the weights with which both classes count the same and the mean weight is 1."""
        positives = float(self._labels.mean())
        return {0: 0.5 / (1 - positives), 1: 0.5 / positives}

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return batch `index` of the present epoch."""
        chosen = np.array_split(self._order(), self._count)[index]
        cells = np.asarray(self._pixels[self._rows[chosen]])
        if self._recipe:
            rng = np.random.default_rng([self._shuffle_seed or 0, self.epoch, 1 + index])
            cells = np.stack([augmented(cell, rng, self._recipe) for cell in cells])
        return cells, self._labels[chosen, None]

    def _order(self) -> NDArray[np.intp]:
        if self._shuffle_seed is None:
            return np.arange(len(self._rows))
        return np.random.default_rng([self._shuffle_seed, self.epoch, 0]).permutation(len(self._rows))
