from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.demo import demo_cells
from runtime.errors import OutputError
from train.dataset import find_cells
from train.drawn_cells import draw_cells


def pixels(folder: Path) -> dict[str, bytes]:
    return {path.stem: Image.open(path).convert("RGB").tobytes() for path in folder.glob("*/DRAWN*")}


def test_drawn_cells_look_like_the_release_to_the_finder(tmp_path: Path) -> None:
    draw_cells(tmp_path / "cells", 27)
    cells = find_cells(tmp_path / "cells")
    assert (len(cells), sum(cell.label for cell in cells)) == (27, 18)
    assert {cell.subject for cell in cells} == {"1", "2", "3", "4", "5", "6", "H1", "H2", "H3"}
    with Image.open(cells[0].path) as image:
        assert (image.format, image.mode, image.size) == ("BMP", "RGB", (450, 450))


def test_the_same_seed_draws_the_same_cells_and_more_only_adds(tmp_path: Path) -> None:
    draw_cells(tmp_path / "few", 6, seed=4)
    draw_cells(tmp_path / "more", 9, seed=4)
    draw_cells(tmp_path / "other", 6, seed=5)
    few, more, other = (pixels(tmp_path / name) for name in ("few", "more", "other"))
    assert few.items() <= more.items()
    assert all(few[name] != other[name] for name in few)


def test_the_classes_differ_in_size_and_subjects_in_stain(tmp_path: Path) -> None:
    draw_cells(tmp_path / "cells", 60)
    area: dict[str, list[int]] = {"all": [], "hem": []}
    stain: dict[str, list[float]] = {}
    for path in (tmp_path / "cells").glob("*/DRAWN*"):
        with Image.open(path) as image:
            cell = np.asarray(image)
        inside = cell.any(axis=-1)
        area[path.parent.name].append(int(inside.sum()))
        stain.setdefault(path.stem.split("_")[1], []).append(cell[inside].mean(axis=0) @ (1, 0, -1))
    assert np.mean(area["all"]) > 1.2 * np.mean(area["hem"])
    between = np.std([np.mean(values) for values in stain.values()])
    assert between > 1


def test_the_cells_of_the_package_are_what_the_command_draws(tmp_path: Path) -> None:
    draw_cells(tmp_path / "cells", 9, suffix=".png")
    assert pixels(tmp_path / "cells") == pixels(demo_cells()[0].parents[1])


def test_a_folder_of_real_cells_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "UID_1_1_1_all.bmp").write_bytes(b"")
    with pytest.raises(OutputError, match="found something else"):
        draw_cells(tmp_path, 3)
    assert (tmp_path / "UID_1_1_1_all.bmp").exists()
