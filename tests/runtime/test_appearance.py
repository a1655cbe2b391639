from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageFilter

from runtime.appearance import appearance_of, sharpness, typical_of, unusual
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.preprocessing import decode_picture
from runtime.reading import CellReader
from runtime.resizing import resize_to_spec
from runtime.schema import Appearance, ImageSpec, Range, TypicalCells

if TYPE_CHECKING:
    from numpy.typing import NDArray

USUAL = Appearance(
    side=450, foreground=0.2, brightness=60, red=0.38, blue=0.44, sharpness=150, offset=0.02, spread=1.02
)
TYPICAL = TypicalCells(
    cells=9,
    side=Range(450, 450),
    foreground=Range(0.1, 0.3),
    brightness=Range(40, 80),
    red=Range(0.36, 0.4),
    blue=Range(0.42, 0.46),
    sharpness=Range(60, 300),
    offset=Range(0, 0.1),
    spread=Range(0, 1.6),
    subjects=None,
)


def square(side: int, color: tuple[int, int, int], inner: int) -> NDArray[np.uint8]:
    cell = np.zeros((side, side, 3), np.uint8)
    start = (side - inner) // 2
    cell[start : start + inner, start : start + inner] = color
    return cell


def test_colors_are_those_of_what_is_not_black() -> None:
    found = appearance_of(square(40, (90, 30, 60), inner=20), side=450)
    spread = 2 * math.pi * 2 * (10**2 - 1) / 12 / 10**2  # of the 10 x 10 samples that are measured
    measured = {"side": 450, "foreground": 0.25, "brightness": 60, "red": 0.5, "blue": 1 / 3, "sharpness": 0}
    assert asdict(found) == pytest.approx({**measured, "offset": 0, "spread": spread})


def test_an_empty_frame_has_no_color_and_no_sharpness() -> None:
    assert appearance_of(np.zeros((16, 16, 3), np.uint8), 16) == Appearance(16, 0, 0, 0, 0, 0, 0, 0)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    random = np.random.default_rng(0)
    channel = random.integers(1, 256, (33, 48), dtype=np.uint8)
    inside = channel.astype(float)
    laplacian = 4 * inside[1:-1, 1:-1] - inside[:-2, 1:-1] - inside[2:, 1:-1] - inside[1:-1, :-2] - inside[1:-1, 2:]
    assert sharpness(channel) == pytest.approx(laplacian[::2].var())


def discs(side: int, *places: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Return a frame with white discs at (row, column) of a radius."""
    rows, columns = np.mgrid[:side, :side]
    inside = [np.hypot(rows - row, columns - column) < radius for row, column, radius in places]
    return np.repeat(np.any(inside, axis=0)[..., None], 3, axis=2).astype(np.uint8) * 255


def test_a_disc_has_a_spread_of_one_wherever_it_lies() -> None:
    for place in ((64.0, 64.0), (40.0, 90.0)):
        assert appearance_of(discs(128, (*place, 24)), 450).spread == pytest.approx(1, abs=0.02)


def test_the_offset_is_counted_in_half_sides() -> None:
    assert appearance_of(discs(128, (63.0, 63.0, 24)), 450).offset == pytest.approx(0, abs=0.02)
    assert appearance_of(discs(128, (63.0, 95.0, 24)), 450).offset == pytest.approx(0.5, abs=0.02)
    assert appearance_of(discs(128, (31.0, 31.0, 24)), 450).offset == pytest.approx(math.hypot(0.5, 0.5), abs=0.02)


def test_two_discs_that_touch_have_one_and_a_half_times_the_spread_of_one() -> None:
    found = appearance_of(discs(128, (64.0, 44.0, 20), (64.0, 84.0, 20)), 450)
    assert found.spread == pytest.approx(1.5, abs=0.05)  # 0.5 + pi d^2 / (4 a) for d = 2 r


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (4, 5), (7, 4)])
def test_small_frames_are_measured_too(shape: tuple[int, int]) -> None:
    assert sharpness(np.full(shape, 9, np.uint8)) == 0


def test_the_edge_to_the_black_ground_does_not_count() -> None:
    assert sharpness(square(40, (0, 200, 0), inner=20)[..., 1]) == 0


UNUSUAL = {
    "nearly empty: 1.0% of the frame are not black, expected 10.0% to 30.0%": {"foreground": 0.01},
    "too full: 100.0% of the frame are not black, expected 10.0% to 30.0%": {"foreground": 1.0},
    "another scale: the image has 600 pixels a side, expected 450": {"side": 600},
    "off center: by 10.2% of half the frame, expected at most 10.0%": {"offset": 0.102},
    "not one round cell: it is spread 2.50 times as wide as a disc, expected at most 1.60": {"spread": 2.5},
    "unusual brightness: it is 200, expected 40 to 80": {"brightness": 200},
    "unusual color: red is 44.0% of the light, expected 36.0% to 40.0%": {"red": 0.44},
    "unusual color: blue is 38.0% of the light, expected 42.0% to 46.0%": {"blue": 0.38},
    "blurred: the sharpness is 20, expected 60 to 300": {"sharpness": 20},
    "grainy: the sharpness is 301, expected 60 to 300": {"sharpness": 301},
}


@pytest.mark.parametrize(("reason", "change"), UNUSUAL.items(), ids=UNUSUAL.keys())
def test_what_sets_a_cell_apart_is_said(reason: str, change: dict[str, float]) -> None:
    assert unusual(replace(USUAL, **change), TYPICAL) == reason


def test_nothing_is_said_of_a_usual_cell() -> None:
    assert unusual(USUAL, TYPICAL) == ""


def test_typical_ranges_hold_what_was_measured_and_somewhat_more() -> None:
    found = [replace(USUAL, brightness=float(level), sharpness=float(2 * level)) for level in range(40, 100)]
    typical = typical_of(found)
    assert typical.cells == 60
    assert typical.side == Range(450, 450), "what never differed may not differ"
    assert not any(unusual(each, typical) for each in found)
    assert 30 < typical.brightness.low < 40
    assert 99 < typical.brightness.high < 130


def test_cells_without_any_foreground_give_ranges_too() -> None:
    assert typical_of([Appearance(9, 0, 0, 0, 0, 0, 0, 0)] * 3).red == Range(0, 0)


def test_real_cells_are_usual_and_what_is_done_to_them_is_said(real_cells: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(DEFAULT_BUNDLE).manifest
    read = CellReader(manifest.image, manifest.typical)
    cells = sorted((real_cells / "bmp").glob("*.bmp"))
    assert {read(str(cell)).concern for cell in cells} == {""}
    spoils: dict[str, Callable[[Image.Image], Image.Image]] = {
        "blurred": lambda image: on_black(image.filter(ImageFilter.GaussianBlur(5)), image),
        "unusual color": lambda image: Image.merge("RGB", image.split()[::-1]),  # blue taken for red
        "unusual brightness": lambda image: image.point(lambda level: level // 3),
        "another scale": lambda image: image.resize((225, 225)),
        "nearly empty": lambda image: Image.new("RGB", image.size),
        "too full": lambda image: image.resize((1350, 1350)).crop((450, 450, 900, 900)),
    }
    for expected, spoil in spoils.items():
        said = []
        for cell in cells:
            with Image.open(cell) as image:
                spoil(image.convert("RGB")).save(tmp_path / "spoilt.bmp")
            said.append(read(str(tmp_path / "spoilt.bmp")).concern.split(":")[0])
        assert said.count(expected) >= len(cells) - 1, (expected, said)


def on_black(blurred: Image.Image, sharp: Image.Image) -> Image.Image:
    """A cell is cut out after it was photographed: its outline is sharp even where it is blurred."""
    is_cell = np.asarray(sharp).max(axis=2, keepdims=True) > 0
    return Image.fromarray(np.asarray(blurred) * is_cell)


def test_the_side_is_that_of_the_file_and_not_of_what_is_resized(tmp_path: Path) -> None:
    Image.new("RGB", (30, 50), (9, 9, 9)).save(tmp_path / "cell.png")
    picture = decode_picture((tmp_path / "cell.png").read_bytes())
    assert max(picture.size) == 50
    assert resize_to_spec(picture, ImageSpec(8, 8)).size == (8, 8)
