from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.dataset import find_cells
from train.leaks import NEAR_BITS, leak_report, near_pairs
from train.placed_cells import PlacedCell
from train.prepared import PreparedImages, prepare_images


def placed(cells: list[tuple[Path, str]]) -> list[PlacedCell]:
    """Put cells into parts, by the order of their paths."""
    found = {cell.path: cell for cell in find_cells(cells[0][0].parents[1])}
    return [
        PlacedCell(str(path), found[path].label, found[path].subject, found[path].subject, part, found[path].sha256)
        for path, part in cells
    ]


@pytest.fixture
def report_of(drawn: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Return a function that reports the leaks of drawn cells, the first of them changed and added to the test part."""

    def report(change):  # type: ignore[no-untyped-def]
        folder = tmp_path / "cells"
        sources = sorted(drawn.glob("*/*.bmp"))[:12]
        cells = []
        for number, source in enumerate(sources):
            path = folder / source.parent.name / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
            cells.append((path, ("training", "validation")[number % 2]))
        with Image.open(sources[0]) as image:
            twin = folder / "all" / "DRAWN_77_1_1_all.png"
            change(image).save(twin)
        cells.append((twin, "test"))
        images = prepare_images(find_cells(folder), 128, tmp_path / "cache")
        return leak_report(placed(cells), images), cells[0][0], twin

    return report


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((440, 440)),
        lambda image: image.point(lambda value: min(255, round(value * 1.05))),
        lambda image: image.rotate(1),
    ],
    ids=["another size", "a little brighter", "turned by a degree"],
)
def test_a_nearly_identical_picture_in_another_part_is_found(report_of, change) -> None:  # type: ignore[no-untyped-def]
    report, original, twin = report_of(change)
    pairs = {(near.path, near.other_path) for near in report.near_duplicates}
    assert (str(original), str(twin)) in pairs
    assert "; 1 pair of nearly identical pictures across parts" in str(report)


def test_shared_subjects_are_named_for_each_two_parts(report_of) -> None:  # type: ignore[no-untyped-def]
    report, *_ = report_of(lambda image: image)
    assert set(report.shared_subjects) == {"training and validation"}
    assert report.shared_subjects["training and validation"]


def test_where_subjects_are_not_known_the_report_says_so() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    cells = [
        PlacedCell(f"{n}.bmp", n % 2, subject, subject, ("training", "test")[n // 2], str(n))
        for n, subject in enumerate(("", "", "", "8"))
    ]
    report = leak_report(cells, PreparedImages(pixels, {str(n): n for n in range(4)}, {}))
    assert str(report).startswith("leaks: the subjects of 3 cells are not known; 0 identical files")


def test_pairs_are_those_within_the_limit_across_blocks() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (1100, 256)).astype(np.float32)
    bits[1050] = bits[3]
    bits[1050, :NEAR_BITS] = 1 - bits[3, :NEAR_BITS]
    bits[700] = bits[900]
    bits[700, : NEAR_BITS + 1] = 1 - bits[900, : NEAR_BITS + 1]
    assert list(near_pairs(bits)) == [(3, 1050, NEAR_BITS)]


def test_the_real_cells_hold_whole_images_twice_and_no_pair_of_two_subjects(real_cells: Path, tmp_path: Path) -> None:
    fold = real_cells / "C-NMC_training_data" / "fold_1"
    names = [f"hem/UID_H10_{image}_1_hem.png" for image in (130, 163, 150, 183, 100, 101)]
    names += ["hem/UID_H14_27_9_hem.png", "hem/UID_H10_72_1_hem.png"]  # two subjects, 22 bits apart
    cells = [cell for cell in find_cells(fold) if f"{cell.path.parent.name}/{cell.path.name}" in names]
    images = prepare_images(cells, 128, tmp_path)
    parts = [
        PlacedCell(str(cell.path), 0, cell.subject, cell.subject, ("training", "test")[number % 2], cell.sha256)
        for number, cell in enumerate(sorted(cells, key=lambda cell: names.index(f"hem/{cell.path.name}")))
    ]
    found = [(Path(near.path).name, Path(near.other_path).name) for near in leak_report(parts, images).near_duplicates]
    assert found == [
        ("UID_H10_130_1_hem.png", "UID_H10_163_1_hem.png"),
        ("UID_H10_150_1_hem.png", "UID_H10_183_1_hem.png"),
    ]
