from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from export.scoring import load_cells, score_cells
from runtime.errors import DataError
from tests.runtime.fake_backend import SPEC, BrightnessBackend
from train.dataset import Cell, find_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reference:
    """Half as bright as the backend says."""

    def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        return (cells[:, 0, 0, 0] / 510).astype(np.float32)


def cells_of(folder: Path, count: int) -> list[Cell]:
    """Cells of both classes in turn, each brighter than the one before it."""
    for index in range(count):
        path = folder / ("all", "hem")[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
    return sorted(find_cells(folder), key=lambda cell: cell.path.name)


def spoil(cell: Cell) -> None:
    cell.path.write_bytes(b"no picture")


def test_every_cell_is_scored_in_large_batches_and_the_first_ones_in_others(tmp_path: Path) -> None:
    backend = BrightnessBackend()
    scores = score_cells(cells_of(tmp_path, 12), SPEC, Reference(), {"fp32": backend})
    assert backend.batch_sizes == [8, *[1] * 8, 5, 3, 4]
    assert {size: len(p_all) for size, p_all in scores.answers["fp32"].items()} == {8: 12, 1: 8, 5: 8}
    for p_all in scores.answers["fp32"].values():
        np.testing.assert_allclose(p_all, np.arange(len(p_all)) / 255, atol=1e-6)
    np.testing.assert_allclose(scores.reference, np.arange(12) / 510, atol=1e-6)
    assert scores.labels.tolist() == [True, False] * 6
    assert list(scores.whole_answers()) == ["keras", "fp32"]
    assert {len(p_all) for p_all in scores.whole_answers().values()} == {12}


def test_a_class_of_which_no_cell_can_be_read_is_missing(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, 4)
    for cell in cells[1::2]:
        spoil(cell)
    with pytest.raises(DataError, match=r"both classes in what can be read of the 4 cells, found 2 ALL and 0 healthy"):
        score_cells(cells, SPEC, Reference(), {"fp32": BrightnessBackend()})


def test_answers_stay_beside_their_cells_where_one_cannot_be_read(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, 6)
    spoil(cells[2])
    scores = score_cells(cells, SPEC, Reference(), {"fp32": BrightnessBackend()})
    assert scores.cells == [*cells[:2], *cells[3:]]
    assert scores.labels.tolist() == [cell.label == 1 for cell in scores.cells]
    np.testing.assert_allclose(scores.answers["fp32"][8], np.array([0, 1, 3, 4, 5]) / 255, atol=1e-6)
    assert list(scores.unreadable) == [str(cells[2].path)]


def test_a_batch_with_an_answer_that_is_not_finite_has_none(tmp_path: Path) -> None:
    scores = score_cells(cells_of(tmp_path, 3), SPEC, Reference(), {"fp16": BrightnessBackend(scale=float("nan"))})
    assert np.isnan(scores.answers["fp16"][8]).all()
    assert np.isfinite(scores.reference).all()


def test_cells_none_of_which_can_be_read_are_refused(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, 2)
    for cell in cells:
        spoil(cell)
    with pytest.raises(DataError, match="expected cells that can be read, found none of 2; check --data"):
        score_cells(cells, SPEC, Reference(), {})
    with pytest.raises(DataError, match="expected cells that can be read, found none of 2; check the data"):
        load_cells(cells, SPEC)


def test_identical_files_of_two_classes_are_refused(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, 4)
    cells[1].path.write_bytes(cells[0].path.read_bytes())
    with pytest.raises(DataError, match=r"expected one label for identical files, found two: .*00\.png and .*01\.png"):
        score_cells(sorted(find_cells(tmp_path), key=lambda cell: cell.path.name), SPEC, Reference(), {})
