"""Scores labelled cells with the Keras model and with every variant of a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from runtime.backends.base import Backend
from runtime.errors import DataError, NotFiniteError, UnreadableCellError, UsageError
from runtime.inputs import spread_over
from runtime.preprocessing import load_cell
from runtime.progress import with_progress
from runtime.schema import ImageSpec
from train.dataset import Cell, Labelled, refuse_contradictions, refuse_one_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFERENCE = "keras"
BATCH_SIZE = 8  # larger ones of ALLNet would take gigabytes
# A first batch is also given in batches of other sizes: one by one, and in fives, which leaves three over.
OTHER_BATCH_SIZES = (1, 5)

AnyCell = TypeVar("AnyCell", bound=Labelled)


class Reference(Protocol):
    """The model that variants are compared with."""

    def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N]."""


@dataclass(frozen=True)
class Scores:
    """What the Keras model and each variant say of the same cells."""

    cells: list[Cell]  # those that could be read
    labels: NDArray[np.bool_]  # [N], True for ALL
    reference: NDArray[np.float32]  # p_all [N]
    answers: dict[str, dict[int, NDArray[np.float32]]]  # by precision and batch size; BATCH_SIZE has all; may hold NaN
    unreadable: dict[str, str]  # path to reason

    def whole_answers(self) -> dict[str, NDArray[np.float32]]:
        """Return p_all of all cells by name: the Keras model's first, then each variant's."""
        return {REFERENCE: self.reference} | {name: sizes[BATCH_SIZE] for name, sizes in self.answers.items()}


def limited(cells: Sequence[AnyCell], limit: int | None, where: str) -> list[AnyCell]:
    """Return the cells, or `limit` of them, evenly spread; raise DataError or UsageError where a class is missing."""
    refuse_one_class(cells, where)
    chosen = spread_over(cells, limit)
    if len({cell.label for cell in chosen}) < 2:
        raise UsageError(f"expected --cells to leave cells of both classes of {where}, received {limit}; take more")
    return chosen


def score_cells(cells: Sequence[Cell], image: ImageSpec, reference: Reference, variants: dict[str, Backend]) -> Scores:
    """Score the cells that can be read; raise DataError unless there are some of both classes."""
    unreadable: dict[str, str] = {}
    readable: list[Cell] = []
    of_reference: list[NDArray[np.float32]] = []
    of_variants: dict[str, dict[int, list[NDArray[np.float32]]]] = {
        name: {size: [] for size in (BATCH_SIZE, *OTHER_BATCH_SIZES)} for name in variants
    }
    for batch in _loaded_batches(cells, image, readable, unreadable):
        is_first = not of_reference
        of_reference.append(reference.predict(batch))
        for name, backend in variants.items():
            for size in (BATCH_SIZE, *OTHER_BATCH_SIZES) if is_first else (BATCH_SIZE,):
                of_variants[name][size].append(infer_in_batches(backend, batch, size))
    if not readable:
        raise DataError(f"expected cells that can be read, found none of {len(cells)}; check --data")
    refuse_one_class(readable, f"what can be read of the {len(cells)} cells")
    refuse_contradictions(cells, {cell.sha256 for cell in cells if str(cell.path) in unreadable})
    return Scores(
        cells=readable,
        labels=np.array([cell.label == 1 for cell in readable]),
        reference=np.concatenate(of_reference),
        answers={
            name: {size: np.concatenate(parts) for size, parts in by_size.items()}
            for name, by_size in of_variants.items()
        },
        unreadable=unreadable,
    )


def infer_in_batches(backend: Backend, cells: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return p_all, float32 [N], computed `batch_size` cells at a time, the last batch as short as it falls.

    A batch with a value that is not finite is NaN as a whole.
    """
    batches = np.split(cells, range(batch_size, len(cells), batch_size))
    return np.concatenate([_answers(backend, batch) for batch in batches])


def _answers(backend: Backend, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    try:
        return backend.infer(batch)
    except NotFiniteError:
        return np.full(len(batch), np.nan, np.float32)


def load_cells(cells: Sequence[Cell], image: ImageSpec) -> NDArray[np.uint8]:
    """Return the cells that can be read, uint8 RGB [N, height, width, 3]; raise DataError where none can."""
    batches = list(_loaded_batches(cells, image, [], {}))
    if not batches:
        raise DataError(f"expected cells that can be read, found none of {len(cells)}; check the data")
    return np.concatenate(batches)


def _loaded_batches(
    cells: Sequence[Cell], image: ImageSpec, readable: list[Cell], unreadable: dict[str, str]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the cells in batches, uint8 [B, height, width, 3]; note which could be read, and why others could not."""

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for cell in with_progress(cells, unit="cell"):
            try:
                loaded = load_cell(cell.path, image)
            except UnreadableCellError as error:
                unreadable[str(cell.path)] = str(error)
                continue
            readable.append(cell)
            yield loaded

    remaining = pixels()
    while batch := list(islice(remaining, BATCH_SIZE)):
        yield np.stack(batch)
