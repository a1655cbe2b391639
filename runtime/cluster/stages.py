"""The three steps of a block: read, score, write. Ray runs them in processes of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from runtime.classifier import Classifier, ClassifierOptions
from runtime.cluster.cell_table import BLOCK, block_of, cells_of_table, passing_failures, table_of_cells
from runtime.cluster.listing import read_block
from runtime.cluster.result_block import counts_of, table_of, write_block
from runtime.cluster.storage import Losses, StoredFile, fetched, is_url
from runtime.errors import BundleError, UnreadableCellError
from runtime.reading import CellReader, ReadCell, Reading
from runtime.schema import ImageSpec, Prediction, TypicalCells

COUNTS = "counts"  # the column with what was counted in the block, as JSON
LOSSES = Losses()  # of this process, which reads one block after the other


@dataclass(frozen=True)
class ReadingStage:
    """Reads the files of a block into pixels; a task on a CPU."""

    listing: Path
    image: ImageSpec
    typical: TypicalCells
    timeout_s: float  # for a file of an object store

    def __call__(self, table: Any) -> Any:
        """Take a table that names a block; return its cells."""
        return passing_failures(self._read)(table)

    def _read(self, table: Any) -> Any:
        block = block_of(table)
        cells = [*self._cells(read_block(self.listing, block))]
        return table_of_cells(block, cells, self.image.height * self.image.width * 3)

    def _cells(self, files: list[StoredFile]) -> Iterator[ReadCell]:
        reader = CellReader(self.image, self.typical, with_sha256=True)
        from_stores = fetched((file for file in files if is_url(file.path)), self.timeout_s, LOSSES)
        for file in files:
            started = time.perf_counter()
            reading = read_fetched(reader, next(from_stores)) if is_url(file.path) else reader(file.path)
            yield ReadCell(file.path, reading, time.perf_counter() - started)


def read_fetched(reader: CellReader, data: bytes | UnreadableCellError) -> Reading:
    """Read what was fetched, or why nothing was."""
    return Reading(None, str(data)) if isinstance(data, UnreadableCellError) else reader.of_data(data)


class ScoringStage:
    """Infers the cells of a block; an actor that opens the bundle once, with the first block."""

    def __init__(self, options: ClassifierOptions, bundle: str) -> None:
        """Take what to open, and the hash of the bundle that must be found."""
        self._options = options
        self._bundle = bundle
        self._opened: Classifier | None = None

    def __call__(self, table: Any) -> Any:
        """Take the cells of a block; return its rows."""
        return passing_failures(self._score)(table)

    def _score(self, table: Any) -> Any:
        classifier = self._classifier()
        image = classifier.manifest.image
        cells = cells_of_table(table, (image.height, image.width, 3))
        size = classifier.batch_size
        scorer = classifier.scorer()
        batches = (cells[first : first + size] for first in range(0, len(cells), size))
        predictions = [classifier.prediction_of(row) for batch in batches for row in scorer.score_read(batch)]
        return rows_of_block(block_of(table), predictions)

    def _classifier(self) -> Classifier:
        if self._opened is None:
            self._opened = opened_classifier(self._options, self._bundle)
        return self._opened


def rows_of_block(block: int, predictions: list[Prediction]) -> Any:
    """Return the rows of a block for who writes them: each with the block's number and counts beside it."""
    beside = {BLOCK: block, COUNTS: counts_of(predictions).to_json()}
    rows = table_of(predictions)
    for name, value in beside.items():
        rows = rows.append_column(name, pa.array([value] * len(rows)))
    return rows


def opened_classifier(options: ClassifierOptions, bundle: str) -> Classifier:
    """Open the bundle on this machine; raise BundleError where another one stands under its name here."""
    classifier = Classifier(options)
    found = classifier.bundle.content_sha256
    if found != bundle:
        classifier.close()
        raise BundleError(
            f"expected the bundle {bundle[:12]}… at {options.bundle} on every machine, found {found[:12]}… on one; "
            "copy the bundle to all machines again"
        )
    return classifier


@dataclass(frozen=True)
class WritingStage:
    """Writes the file of a block; a task."""

    output: Path

    def __call__(self, table: Any) -> Any:
        """Take the rows of a block; return its number and its counts."""
        return passing_failures(self._write)(table)

    def _write(self, table: Any) -> Any:
        block = block_of(table)
        counts = table[COUNTS][0].as_py()
        write_block(self.output, block, table.drop_columns([BLOCK, COUNTS]), counts)
        return pa.table({BLOCK: [block], COUNTS: [counts]})
