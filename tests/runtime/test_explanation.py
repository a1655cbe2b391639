from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from runtime.backends.base import Backend
from runtime.classifier import Classifier
from runtime.classify import main
from runtime.command_line import DONE, PARTLY_DONE
from runtime.demo import demo_cells
from runtime.errors import UsageError
from runtime.explanation import GRADIENT, OCCLUSION, PLACES, explain, method_of
from runtime.explanation_folder import CHANGED, ExplanationFolder, picture_name
from runtime.heat_picture import FOR_ALL, FOR_HEALTHY, SIDE, heat_picture
from runtime.inputs import is_not_yet_a_cell
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 16


class LooksAtOnePlace(Backend):
    """Says ALL the surer the brighter one place is, healthy the surer the brighter another is."""

    name = "cpu"
    description = "a backend without a map"

    def __init__(self) -> None:
        super().__init__(ImageSpec(SIZE, SIZE))
        self.largest_batch = 0

    def _infer(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.largest_batch = max(self.largest_batch, len(cells))
        logit = (cells[:, 2, 4, 0].astype(float) - cells[:, 14, 10, 0]) / 64
        return (1 / (1 + np.exp(-logit))).astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def classifier() -> Iterator[Classifier]:
    with Classifier() as opened:
        yield opened


def test_covering_finds_the_places_that_the_answer_comes_from() -> None:
    backend = LooksAtOnePlace()
    cell = np.full((SIZE, SIZE, 3), 128, np.uint8)
    cell[14, 10] = 64
    found = explain(backend, cell, batch_size=10)
    assert found.method == method_of(backend) == OCCLUSION
    assert found.p_all == pytest.approx(1 / (1 + np.exp(-1)))
    expected = np.zeros((PLACES, PLACES))
    expected[1, 2], expected[7, 5] = 2, -1  # by these the logit falls
    np.testing.assert_allclose(found.heat, expected, atol=1e-5)
    assert backend.largest_batch == 10


def test_the_graphs_map_is_used_where_it_has_one(classifier: Classifier) -> None:
    cell = load_cell(demo_cells()[0], classifier.manifest.image)
    found = explain(classifier.backend, cell, batch_size=8)
    assert found.method == method_of(classifier.backend) == GRADIENT
    p_all, heat = classifier.backend.infer_with_heat(cell[None])
    assert found.p_all == p_all[0]
    np.testing.assert_array_equal(found.heat, heat[0])


def test_the_picture_shows_the_cell_and_the_cell_under_its_map() -> None:
    cell = np.full((40, 40, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[3, 3] = 2, -2
    drawn = np.asarray(heat_picture(cell, heat, "a caption")).astype(int)
    assert drawn.shape[1] == 2 * SIDE
    assert (drawn[:SIDE, :SIDE] == 100).all(), "the left half is the cell"

    def distance(row: int, column: int, color: tuple[int, int, int]) -> float:
        return float(np.linalg.norm(drawn[row, SIDE + column] - color))

    assert distance(20, 20, FOR_ALL) < distance(20, 20, (100, 100, 100)) < distance(20, 20, FOR_HEALTHY)
    assert distance(300, 300, FOR_HEALTHY) < distance(300, 300, (100, 100, 100))
    assert np.abs(drawn[10, 2 * SIDE - 10] - 100).max() <= 1, "where nothing speaks the cell is seen as it is"


def test_a_map_of_nothing_leaves_the_cell_as_it_is() -> None:
    cell = np.full((30, 20, 3), 50, np.uint8)
    drawn = np.asarray(heat_picture(cell, np.zeros((8, 8), np.float32), ""))
    assert (drawn[:SIDE] == 50).all()


def test_pictures_of_the_same_name_in_two_folders_have_two_names() -> None:
    assert picture_name("a/1.bmp") != picture_name("b/1.bmp")
    assert picture_name("a/1.bmp") == picture_name("a/1.bmp")
    long = picture_name("x/" + "ä/\\:<n>" * 80 + ".bmp")
    assert len(long) < 120
    assert long.isascii()


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_classify_explains_every_cell_that_has_an_answer(tmp_path: Path, cell_file: Callable[[str], Path]) -> None:
    good, bad = cell_file("good.bmp"), tmp_path / "bad.bmp"
    bad.write_bytes(b"BM")
    out = tmp_path / "maps"
    arguments = [str(good), str(bad), "--out", str(tmp_path / "r.csv"), "--explain", str(out)]
    assert main(arguments) == PARTLY_DONE
    [row] = table(out)
    assert (row["path"], row["method"], row["reason"]) == (str(good), GRADIENT, "")
    with Image.open(out / row["picture"]) as picture:
        assert picture.size[0] == 2 * SIDE
    assert main(arguments) == PARTLY_DONE, "a second run writes the same pictures again"
    assert len(list(out.glob("*.png"))) == 1


def test_pictures_inside_the_folder_of_the_cells_are_no_cells(tmp_path: Path, cell_file: Callable[[str], Path]) -> None:
    cell_file("cells/cell.png")
    cells, results = tmp_path / "cells", tmp_path / "r.csv"
    for run in ("first", "second"):
        assert main([str(cells), "--out", str(results), "--explain", str(cells / "maps")]) == DONE
        assert len(results.read_text().splitlines()) == 2, f"header and one cell in the {run} run"
    [picture] = (cells / "maps").glob("*.png")
    assert is_not_yet_a_cell(str(picture.relative_to(cells))), "nor for the service that watches the folder"


def test_a_cell_that_changed_meanwhile_is_not_explained(
    tmp_path: Path, cell_file: Callable[[str], Path], classifier: Classifier
) -> None:
    path = cell_file("cell.bmp")
    [prediction] = classifier.classify([str(path)])
    assert prediction.p_all is not None
    explanations = ExplanationFolder(tmp_path / "maps", classifier)
    explanations.add(Prediction(str(path), "ALL", prediction.p_all - 0.4, "ok", "", 0.1))
    path.unlink()
    explanations.add(prediction)
    explanations.write_index()
    first, second = table(tmp_path / "maps")
    assert (first["picture"], first["reason"]) == ("", CHANGED)
    assert second["picture"] == ""
    assert second["reason"].startswith(CHANGED)


def test_a_full_disk_ends_the_pictures_and_not_the_run(
    tmp_path: Path,
    cell_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "r.csv"
    paths = [str(cell_file("a.bmp")), str(cell_file("b.bmp"))]
    monkeypatch.setattr(Image.Image, "save", full)
    assert main([*paths, "--out", str(out), "--explain", str(tmp_path / "maps")]) == PARTLY_DONE
    assert len(out.read_text().splitlines()) == 3
    said = capsys.readouterr().err
    assert said.count("no more pictures are drawn, the classification continues") == 1
    assert "not every cell has its picture" in said


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path, cell_file: Callable[[str], Path]) -> None:
    (tmp_path / "maps").write_text("")
    with pytest.raises(UsageError, match=r"expected a folder for --explain, found the file"):
        main([str(cell_file("a.bmp")), "--out", str(tmp_path / "r.csv"), "--explain", str(tmp_path / "maps")])
    assert DONE == 0
