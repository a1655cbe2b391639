"""The batch generator: the paper's ImageGenerator as a keras PyDataset over prepared images.

What a batch holds depends on the seed, the epoch and the batch's number alone, so that a resumed run sees the
batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from runtime.errors import AllnetError, UsageError
from runtime.schema import Recipe
from train.augmentation import augmented, augments
from train.placed_cells import PlacedCell
from train.prepared import PreparedImages
from train.processes import ALONE, Process

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one part, read from disk as needed: cells uint8 [B, size, size, 3] and targets float32 [B, 1].

    Where the recipe weighs the classes, each batch ends with the weights float32 [B].

    The cells of an epoch are dealt to nearly equal batches: no cell is left out, and none is left over for a batch of
    its own, whose statistics would upset batch normalization.
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
        devices: int = 1,
        process: Process = ALONE,
    ) -> None:
        """Read `cells` in their order, or shuffled anew for each epoch with a `shuffle_seed`.

        With a `recipe` the cells are augmented as it says. `targets`, float32 [N] in 0..1, are learnt instead of the
        labels. Each batch splits evenly among `devices`: to that end the first cells of an epoch are repeated at its
        end, fewer of them than there are devices. In their own order the cells come in batches of one size, filled up
        in the same way: TensorFlow would rebuild the prediction graph for another size, and warn of it.

        Each of several processes makes the whole batch, since its random numbers are drawn one after another, and
        returns the share of this `process`.

        Raises UsageError where a batch has fewer cells than there are devices.
        """
        if batch_size < devices:
            raise UsageError(f"expected --batch-size of {devices} or more, a cell for each GPU, received {batch_size}")
        # Two threads, since with one keras leaves the batches to TensorFlow, whose tuning of the input keeps an epoch
        # from ending for seconds after its last batch.
        super().__init__(workers=2, use_multiprocessing=False, max_queue_size=4)
        self.epoch = 0
        self._pixels = images.pixels
        self._rows = images.rows([cell.sha256 for cell in cells])
        self._labels = np.array([cell.label for cell in cells], dtype=np.float32)
        self._targets = self._labels if targets is None else targets
        self._devices = devices
        self._process = process
        self._count = math.ceil(math.ceil(len(cells) / devices) / (batch_size // devices))
        self._shuffle_seed = shuffle_seed
        self._recipe = recipe
        self._weights = _class_weights(self._labels) if recipe and recipe.class_weights else None
        self._error: AllnetError | None = None

    @property
    def labels(self) -> NDArray[np.bool_]:
        """The label of each cell in the order given, bool [N], True for ALL."""
        return np.equal(self._labels, 1)

    @contextmanager
    def telling_errors(self) -> Iterator[None]:
        """Raise the error that kept a batch from being read, instead of what a framework makes of it."""
        try:
            yield
        except Exception:
            if self._error:
                raise self._error from None
            raise

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._count

    def __getitem__(self, index: int) -> tuple[NDArray[Any], ...]:
        """Return batch `index` of the present epoch."""
        try:
            return self._batch(index)
        except AllnetError as error:
            self._error = error
            raise

    def _batch(self, index: int) -> tuple[NDArray[Any], ...]:
        chosen = np.array_split(self._order().reshape(-1, self._devices), self._count)[index].ravel()
        cells, targets = self._pixels[self._rows[chosen]], self._targets[chosen, None]
        weights = np.ones(len(chosen), np.float32) if self._weights is None else self._weights[chosen]
        if self._recipe:
            rng = np.random.default_rng([self._shuffle_seed or 0, self.epoch, 1 + index])
            if augments(self._recipe):
                for place, cell in enumerate(cells):  # in place: fresh memory costs as much as the changes
                    cells[place] = augmented(cell, rng, self._recipe)
            if self._recipe.mixup:
                cells, targets, weights = mixed(cells, targets, weights, rng, self._recipe.mixup)
        batch = (cells, targets) if self._weights is None else (cells, targets, weights)
        return tuple(np.array_split(part, self._process.count)[self._process.number] for part in batch)

    def _order(self) -> NDArray[np.intp]:
        order = np.arange(len(self._rows))
        if self._shuffle_seed is not None:
            order = np.random.default_rng([self._shuffle_seed, self.epoch, 0]).permutation(order)
        multiple = self._devices * (self._count if self._shuffle_seed is None else 1)
        return np.resize(order, math.ceil(len(order) / multiple) * multiple)


def _class_weights(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a weight for each label with which both classes count the same and the mean is 1."""
    positives = labels.mean()
    weights: NDArray[np.float32] = np.where(labels == 1, 0.5 / positives, 0.5 / (1 - positives)).astype(np.float32)
    return weights


def mixed(
    cells: NDArray[np.uint8],
    targets: NDArray[np.float32],
    weights: NDArray[np.float32],
    rng: np.random.Generator,
    alpha: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Return means of each cell with another of the batch, with targets and weights (mixup, arXiv 1710.09412).

    The share of the other is drawn for each cell from Beta(alpha, alpha). Target and weight are such that the loss is
    the mean, by the same shares, of the two cells' weighted losses: binary cross-entropy is linear in its target.

    Args:
        cells: uint8 [B, size, size, 3].
        targets: float32 [B, 1].
        weights: float32 [B], above 0.
        rng: Where the shares and pairs are drawn from.
        alpha: Above 0; the smaller, the nearer most mixtures are to one of their cells.
    """
    share: Any = rng.beta(alpha, alpha, (len(cells), 1)).astype(np.float32)
    others = rng.permutation(len(cells))
    of_pixels = share[:, :, None, None]
    pixels: NDArray[np.uint8] = np.rint(of_pixels * cells + (1 - of_pixels) * cells[others]).astype(np.uint8)
    own, other = share * weights[:, None], (1 - share) * weights[others, None]
    return pixels, (own * targets + other * targets[others]) / (own + other), (own + other)[:, 0]
