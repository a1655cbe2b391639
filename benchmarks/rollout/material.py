"""The files that a rollout measures on, and the labelled cells that it judges by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cells import bmp_cells
from runtime.errors import DataError, UnreadableCellError
from runtime.inputs import find_inputs, spread_over
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec
from train.dataset import Cell, find_cells

MOST_TIMED = 256  # files; more would only take longer to look through
DRAWN = "drawn cells of the package as 450x450 BMP files"


@dataclass(frozen=True)
class Material:
    """What was found."""

    source: str
    paths: list[str]  # of files that can be read, to be timed on
    cells: list[Cell] = field(default_factory=list)  # labelled
    no_labels: DataError | None = None  # why there are none
    left_out: dict[str, str] = field(default_factory=dict)  # path to reason: files not timed on


@contextmanager
def found_material(data: Path | None, image: ImageSpec) -> Iterator[Material]:
    """Yield the files of `data`, or drawn cells; raise an AllnetError where there is nothing to measure on."""
    if data is None:
        with bmp_cells() as paths:
            yield Material(DRAWN, paths)
        return
    cells: list[Cell] = []
    no_labels = None
    try:
        cells = find_cells(data)
        paths = [str(cell.path) for cell in cells]
    except DataError as error:
        if data.suffix.lower() == ".csv":
            raise
        no_labels = error
        paths = list(find_inputs([str(data)]).paths)
    readable, left_out = _readable(spread_over(paths, MOST_TIMED), image)
    if not readable:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in [*left_out.items()][:1])
        raise DataError(f"expected images that can be read in {data}, found none ({reasons or 'it is empty'})")
    yield Material(str(data), readable, cells, no_labels, left_out)


def _readable(paths: list[str], image: ImageSpec) -> tuple[list[str], dict[str, str]]:
    readable, left_out = [], {}
    for path in paths:
        try:
            load_cell(path, image)
        except UnreadableCellError as error:
            left_out[path] = str(error)
        else:
            readable.append(path)
    return readable, left_out
