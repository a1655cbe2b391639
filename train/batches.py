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
    """Batches (cells uint8 [B, size, size, 3], targets float32 [B, 1]) of one part, read from disk as needed.

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
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        """Read `cells` in their order, or shuffled anew in each epoch where there is a `shuffle_seed`.

        With a `recipe` the cells are augmented as it says. `targets`, float32 [N] in 0..1, are learnt instead of the
        labels.
        """
        # Two threads, since with one keras leaves the batches to TensorFlow, whose tuning of the input keeps an epoch
        # from ending for seconds after its last batch.
        super().__init__(workers=2, use_multiprocessing=False, max_queue_size=4)
        self.epoch = 0
        self._pixels = images.pixels
        self._rows = images.rows([cell.sha256 for cell in cells])
        self._labels = np.array([cell.label for cell in cells], dtype=np.float32)
        self._targets = self._labels if targets is None else targets
        self._count = math.ceil(len(cells) / batch_size)
        self._shuffle_seed = shuffle_seed
        self._recipe = recipe

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
        cells, targets = self._pixels[self._rows[chosen]], self._targets[chosen, None]
        if self._recipe:
            rng = np.random.default_rng([self._shuffle_seed or 0, self.epoch, 1 + index])
            if augments(self._recipe):
                for place, cell in enumerate(cells):  # in place: fresh memory costs as much as the changes
                    cells[place] = augmented(cell, rng, self._recipe)
            if self._recipe.mixup:
                cells, targets = mixed(cells, targets, rng, self._recipe.mixup)
        return cells, targets

    def _order(self) -> NDArray[np.intp]:
        if self._shuffle_seed is None:
            return np.arange(len(self._rows))
        return np.random.default_rng([self._shuffle_seed, self.epoch, 0]).permutation(len(self._rows))


def mixed(
    cells: NDArray[np.uint8], targets: NDArray[np.float32], rng: np.random.Generator, alpha: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return weighted means of each cell with another of the batch, and of their targets (mixup, arXiv 1710.09412).

    The weights are drawn for each cell from Beta(alpha, alpha).
    """
    share = rng.beta(alpha, alpha, (len(cells), 1)).astype(np.float32)
    others = rng.permutation(len(cells))
    of_pixels = share[:, :, None, None]
    pixels = np.rint(of_pixels * cells + (1 - of_pixels) * cells[others]).astype(np.uint8)
    return pixels, share * targets + (1 - share) * targets[others]
