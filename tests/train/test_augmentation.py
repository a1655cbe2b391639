from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from runtime.demo import demo_cells
from runtime.schema import Recipe
from train.augmentation import augmented, augments

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE, CENTER = 101, 50


def recipe(**changes: float | bool) -> Recipe:
    return Recipe("adam", 1e-3, "constant", **changes)  # type: ignore[arg-type]


TURN, SCALE, STAIN, BLUR = recipe(turn=True), recipe(scale=0.2), recipe(stain_jitter=0.2), recipe(blur=1.5)
ALL = recipe(turn=True, scale=0.05, stain_jitter=0.1, blur=1.0)


def many(cell: NDArray[np.uint8], changes: Recipe, count: int = 100) -> Iterator[NDArray[np.uint8]]:
    """The cell as `count` seeds change it."""
    return (augmented(cell, np.random.default_rng(seed), changes) for seed in range(count))


def eight_ways(cell: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [np.rot90(side, turn) for side in (cell, cell[:, ::-1]) for turn in range(4)]


def way_of(changed: NDArray[np.uint8], cell: NDArray[np.uint8]) -> int | None:
    """Which of the eight ways `changed` lies in, None where its pixels are others."""
    return next((way for way, one in enumerate(eight_ways(cell)) if np.array_equal(one, changed)), None)


@pytest.fixture
def drawn_cell() -> NDArray[np.uint8]:
    with Image.open(demo_cells()[0]) as image:
        return np.asarray(image.convert("RGB").resize((128, 128)))


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture
def disc() -> NDArray[np.uint8]:
    """A disc of radius 30 in the middle, with a bright spot of 5 x 5 pixels 20 pixels to the right."""
    y, x = np.mgrid[:SIZE, :SIZE] - CENTER
    cell = np.zeros((SIZE, SIZE, 3), np.uint8)
    cell[np.hypot(x, y) <= 30] = 100, 60, 140
    cell[CENTER - 2 : CENTER + 3, CENTER + 18 : CENTER + 23] = 250
    return cell


@pytest.mark.parametrize("changes", [TURN, SCALE, STAIN, BLUR, ALL], ids=["turn", "scale", "stain", "blur", "all"])
def test_a_changed_cell_is_contiguous_uint8_in_its_black_frame(changes: Recipe, drawn_cell: NDArray[np.uint8]) -> None:
    before = drawn_cell.copy()
    changed = list(many(drawn_cell, changes, 20))
    for one in changed:
        assert one.dtype == np.uint8
        assert one.shape == drawn_cell.shape
        assert one.flags.c_contiguous
        assert not one[[0, -1]].any()
        assert not one[:, [0, -1]].any()
    assert sum(not np.array_equal(one, drawn_cell) for one in changed) >= 5
    np.testing.assert_array_equal(drawn_cell, before)


@pytest.mark.parametrize("changes", [TURN, SCALE, STAIN, BLUR, ALL], ids=["turn", "scale", "stain", "blur", "all"])
def test_the_same_state_of_the_generator_gives_the_same_cell(changes: Recipe, drawn_cell: NDArray[np.uint8]) -> None:
    for one, other in zip(many(drawn_cell, changes, 10), many(drawn_cell, changes, 10), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in many(drawn_cell, changes, 10)}) > 1


def test_half_of_the_turned_cells_keep_their_very_pixels_in_one_of_eight_ways(noise: NDArray[np.uint8]) -> None:
    ways = [way_of(one, noise) for one in many(noise, TURN, 400)]
    exact = [way for way in ways if way is not None]
    assert 160 < len(exact) < 240
    assert min(exact.count(way) for way in range(8)) > 8, "each way is as likely as another"


def test_without_turning_a_cell_keeps_the_way_it_lies(noise: NDArray[np.uint8]) -> None:
    exact = {way_of(one, noise) for one in many(noise, SCALE)} - {None}
    assert exact == {0}


def test_a_turned_cell_keeps_its_centre_its_size_and_its_black_surroundings(disc: NDArray[np.uint8]) -> None:
    angles = []
    for turned in many(disc, TURN):
        body = turned[..., 0] > 50
        rows, columns = np.nonzero(body)
        assert abs(rows.mean() - CENTER) < 0.5
        assert abs(columns.mean() - CENTER) < 0.5
        assert body.sum() == pytest.approx((disc[..., 0] > 50).sum(), rel=0.02)
        y, x = np.mgrid[:SIZE, :SIZE] - CENTER
        assert not turned[np.hypot(x, y) > 32].any()
        spot_y, spot_x = np.argwhere(turned[..., 0] > 180).mean(axis=0) - CENTER
        assert np.hypot(spot_y, spot_x) == pytest.approx(20, abs=0.3)
        np.testing.assert_array_equal(turned[CENTER, CENTER], disc[CENTER, CENTER], err_msg="the color is kept")
        if way_of(turned, disc) is None:
            angles.append(np.degrees(np.arctan2(spot_y, spot_x)) % 360)
    assert len(np.unique(np.round(angles))) > 30, "any angle"
    assert len(np.unique(np.asarray(angles) // 90)) == 4


def test_what_comes_in_from_outside_is_black() -> None:
    bright = np.full((SIZE, SIZE, 3), 200, np.uint8)
    turned = [one for one in many(bright, TURN) if not np.array_equal(one, bright)]
    assert len(turned) > 30
    for one in turned:
        corners = one[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 200
    assert sum(not one[0, 0].any() for one in turned) > 20


def test_half_of_the_resampled_cells_are_mirrored(disc: NDArray[np.uint8]) -> None:
    """A green spot lies a quarter clockwise from the bright one; in a mirror, anticlockwise."""
    disc[CENTER + 18 : CENTER + 23, CENTER - 2 : CENTER + 3] = [0, 250, 0]
    mirrored = resampled = 0
    for turned in many(disc, TURN, 200):
        if way_of(turned, disc) is not None:
            continue
        right = np.argwhere(turned[..., 0] > 180).mean(axis=0) - CENTER
        below = np.argwhere((turned[..., 1] > 180) & (turned[..., 0] < 50)).mean(axis=0) - CENTER
        resampled += 1
        mirrored += right[1] * below[0] - right[0] * below[1] < 0
    assert 0.35 < mirrored / resampled < 0.65


def test_scaling_changes_the_area_by_the_square_of_a_factor_within_its_limits(disc: NDArray[np.uint8]) -> None:
    area, width = (disc[..., 0] > 50).sum(), 61
    factors = []
    for scaled in many(disc, SCALE):
        body = scaled[..., 0] > 50
        rows = np.flatnonzero(body[:, CENTER])
        assert abs(rows.mean() - CENTER) <= 0.5
        factors.append(np.sqrt(body.sum() / area))
        assert len(rows) / width == pytest.approx(factors[-1], abs=0.03)
    assert 0.79 < min(factors) < 0.85
    assert 1.15 < max(factors) < 1.21


def test_stain_jitter_is_a_gain_of_optical_density_for_each_channel() -> None:
    cell = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    gains = []
    for changed in many(cell, STAIN, 20):
        before, after = (-np.log((pixels[0, 20:250].astype(float) + 1) / 256) for pixels in (cell, changed))
        gain = after / before
        assert np.ptp(gain, axis=0).max() < 0.15, "one gain for all grey levels, but for rounding"
        gains.append(np.median(gain, axis=0))
    logarithms = np.log(gains)
    assert 0.1 < logarithms.std(axis=0).min() < logarithms.std(axis=0).max() < 0.4
    assert np.ptp(logarithms, axis=1).min() > 0.001, "channels differ"


def test_stain_jitter_keeps_black(drawn_cell: NDArray[np.uint8]) -> None:
    black = (drawn_cell == 0).all(axis=-1)
    assert 0.2 < black.mean() < 0.9
    for changed in many(drawn_cell, STAIN, 20):
        assert not changed[black].any()


def test_blur_makes_a_cell_smoother_and_sharpening_rougher(drawn_cell: NDArray[np.uint8]) -> None:
    def roughness(cell: NDArray[np.uint8]) -> float:
        return float(cv2.Laplacian(cell[40:88, 40:88].astype(np.float32), cv2.CV_32F).var())

    before = roughness(drawn_cell)
    for seed in range(20):
        radius = np.random.default_rng(seed).uniform(-1.5, 1.5)
        after = roughness(augmented(drawn_cell, np.random.default_rng(seed), BLUR))
        if abs(radius) > 0.4:
            assert (after < before) == (radius > 0), f"radius {radius}"
            assert abs(after / before - 1) > 0.1


def test_blur_is_a_gaussian_of_the_radius_drawn() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[18:23, 18:23] = 250
    seed = next(s for s in range(100) if np.random.default_rng(s).uniform(-3, 3) > 2.5)
    radius = np.random.default_rng(seed).uniform(-3, 3)
    blurred = augmented(point, np.random.default_rng(seed), recipe(blur=3.0))[..., 0].astype(float)
    offsets = np.arange(41) - 20
    variance = (blurred.sum(axis=0) * offsets**2).sum() / blurred.sum()
    assert variance == pytest.approx(radius**2 + 2, rel=0.1), "of the Gaussian and of five pixels in a row"


def test_a_recipe_without_changes_augments_nothing() -> None:
    assert not augments(recipe())
    assert all(augments(changes) for changes in (TURN, SCALE, STAIN, BLUR))


def test_cells_that_cannot_be_written_to_are_taken(noise: NDArray[np.uint8]) -> None:
    noise.flags.writeable = False
    for changed in many(noise, ALL, 20):
        assert changed.shape == noise.shape


def test_opencv_is_left_one_thread() -> None:
    code = "import train.augmentation, cv2; print(cv2.getNumThreads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
