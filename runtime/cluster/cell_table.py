"""What goes from step to step: Arrow tables that hold one whole block each."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from runtime.errors import AllnetError
from runtime.reading import ReadCell, Reading
from runtime.schema import Appearance

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAILURE = "failure"  # the column of a table that stands for a block which failed, with the error's line
BUG = "bug"  # the column with the traceback of an unexpected error
BLOCK = "block"
APPEARANCE = pa.struct([(field.name, pa.float64()) for field in fields(Appearance)])

Stage = Callable[[Any], Any]  # a table to a table


def table_of_cells(block: int, cells: Sequence[ReadCell], cell_bytes: int) -> Any:
    """Pack the cells of a block; their pixels, uint8, lie one after the other, zeros where a file was not readable."""
    pixels = np.zeros((len(cells), cell_bytes), np.uint8)
    for row, cell in zip(pixels, cells, strict=True):
        if cell.reading.pixels is not None:
            row[:] = cell.reading.pixels.reshape(-1)
    return pa.table(
        {
            BLOCK: pa.array([block] * len(cells), pa.int64()),
            "path": pa.array([os.fsencode(cell.path) for cell in cells], pa.binary()),
            "is_read": pa.array([cell.reading.pixels is not None for cell in cells], pa.bool_()),
            "reason": pa.array([cell.reading.reason for cell in cells], pa.string()),
            "concern": pa.array([cell.reading.concern for cell in cells], pa.string()),
            "sha256": pa.array([cell.reading.sha256 for cell in cells], pa.string()),
            "appearance": pa.array(
                [cell.reading.appearance and asdict(cell.reading.appearance) for cell in cells], APPEARANCE
            ),
            "seconds": pa.array([cell.seconds for cell in cells], pa.float64()),
            "pixels": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(cell_bytes), len(cells), [None, pa.py_buffer(pixels)]
            ),
        }
    )


def cells_of_table(table: Any, shape: tuple[int, int, int]) -> list[ReadCell]:
    """Unpack the cells of a block; `shape` is that of a cell's pixels, which stay where they are."""
    pixels = _pixels(table, shape)
    return [
        ReadCell(
            os.fsdecode(cell["path"]),
            Reading(
                pixels[row] if cell["is_read"] else None,
                cell["reason"],
                cell["concern"],
                cell["sha256"],
                appearance=Appearance(**cell["appearance"]) if cell["appearance"] else None,
            ),
            cell["seconds"],
        )
        for row, cell in enumerate(table.drop_columns(["pixels"]).to_pylist())
    ]


def _pixels(table: Any, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    column = table["pixels"].combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    size = int(np.prod(shape))
    _, data = array.buffers()
    return np.frombuffer(data, np.uint8, len(array) * size, array.offset * size).reshape(-1, *shape)


def block_of(table: Any) -> int:
    """Return the number of a table's block."""
    return int(table[BLOCK][0].as_py())


def passing_failures(stage: Stage) -> Stage:
    """Let a step pass failures on to the driver, its own too: Ray would wrap, log and retry them."""

    def run(table: Any) -> Any:
        if {FAILURE, BUG} & set(table.column_names):
            return table
        try:
            return stage(table)
        except AllnetError as error:
            return pa.table({FAILURE: [str(error)]})
        except Exception:
            return pa.table({BUG: [traceback.format_exc()]})

    return run
