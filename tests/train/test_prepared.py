from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train.prepared
from runtime.errors import DataError
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec
from train.dataset import Cell, find_cells
from train.drawn_cells import draw_cells
from train.prepared import prepare_images
from train.standardization import standardization_of


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    folder = tmp_path_factory.mktemp("drawn") / "cells"
    draw_cells(folder, 8)
    (folder / "all" / "broken.bmp").write_bytes(b"BM")
    return find_cells(folder)


def test_the_pixels_are_those_of_the_runtime(cells: list[Cell], tmp_path: Path) -> None:
    images = prepare_images(cells, 90, tmp_path)
    for cell in cells:
        if cell.sha256 not in images.unreadable:
            expected = load_cell(cell.path, ImageSpec(width=90, height=90))
            np.testing.assert_array_equal(images.pixels[images.rows([cell.sha256])[0]], expected)


def test_one_thread_at_a_time_reads_the_files_head(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = prepare_images(cells, 90, tmp_path).pixels
    at_once, most = [0], [0]
    load = np.load

    def slow_load(*arguments: Any, **options: Any) -> Any:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.002)
        at_once[0] -= 1
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", slow_load)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(pixels.__getitem__, [0, 1] * 8))) == 16
    assert most == [1]


def test_the_pixels_stay_on_disk_and_their_loss_is_told(cells: list[Cell], tmp_path: Path) -> None:
    images = prepare_images(cells, 90, tmp_path)
    assert images.pixels[[0, 1]].shape == (2, 90, 90, 3)
    assert images.pixels[0].dtype == np.uint8
    [file] = tmp_path.glob("*.npy")
    changed = np.load(file)
    changed[0] = 77
    np.save(file, changed)
    assert (images.pixels[0] == 77).all(), "nothing is held in memory"
    file.unlink()
    with pytest.raises(DataError, match=r"expected the prepared images at .*, found: .*No such file.*--resume"):
        images.pixels[0]


def test_an_unreadable_cell_is_kept_with_its_reason(cells: list[Cell], tmp_path: Path) -> None:
    images = prepare_images(cells, 90, tmp_path)
    [broken] = [cell for cell in cells if cell.path.name == "broken.bmp"]
    assert list(images.unreadable) == [broken.sha256]
    with pytest.raises(DataError, match="1 are missing or not readable"):
        images.rows([broken.sha256])


def test_images_are_prepared_once_for_the_same_content_and_size(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_images(cells, 90, tmp_path / "cache")
    moved = [Cell(tmp_path / "moved" / str(n), c.label, c.subject, c.sha256) for n, c in enumerate(reversed(cells))]
    monkeypatch.setattr(train.prepared, "load_cell", lambda *_: pytest.fail("prepared again"))
    np.testing.assert_array_equal(prepare_images(moved, 90, tmp_path / "cache").pixels[:], first.pixels[:])


def test_another_size_or_content_is_another_entry(cells: list[Cell], tmp_path: Path) -> None:
    for some, size in ((cells, 90), (cells, 91), (cells[1:], 90)):
        prepare_images(some, size, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3


@pytest.mark.parametrize("suffix", [".json", ".npy"])
@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b""])
def test_a_damaged_entry_is_made_anew(
    cells: list[Cell], tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    pixels = prepare_images(cells, 40, tmp_path).pixels[:]
    [path] = tmp_path.glob(f"*{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(prepare_images(cells, 40, tmp_path).pixels[:], pixels)


def test_an_interrupted_preparation_leaves_no_entry(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train.prepared, "load_cell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_images(cells, 90, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_which_none_is_a_picture_are_refused(cells: list[Cell], tmp_path: Path) -> None:
    broken = [cell for cell in cells if cell.path.name == "broken.bmp"]
    with pytest.raises(DataError, match=r"found none that can be read \(files: 1; the first: "):
        prepare_images(broken, 90, tmp_path)


def test_the_one_pass_standardization_is_numpys_mean_and_deviation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 9, 9, 3), dtype=np.uint8)
    rows = np.arange(0, 600, 2)
    found = standardization_of(pixels, rows)
    taken = pixels[rows].astype(np.float64)
    np.testing.assert_allclose(found.mean, taken.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(found.std, taken.std(axis=(0, 1, 2)), rtol=1e-11)


def test_a_channel_that_never_changes_is_refused() -> None:
    with pytest.raises(DataError, match="a channel that never changes"):
        standardization_of(np.zeros((3, 9, 9, 3), np.uint8), np.arange(3))
