from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from train.models.shape import MASK_LEVEL, SMALLEST_VARIANCE, shape_features

SIDE = 48
SIZE, MEAN, SPREAD, SKEWNESS, TEXTURE = slice(0, 1), slice(1, 4), slice(4, 7), slice(7, 10), slice(10, 28)


@pytest.fixture(scope="module")
def network() -> Any:
    cells = keras.Input((SIDE, SIDE, 3))
    return keras.Model(cells, shape_features(cells))


def disk(radius: float, value: float) -> np.ndarray:
    """A cell of one brightness over black, float32 [SIDE, SIDE, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return np.where((x**2 + y**2 <= radius**2)[..., None], np.float32(value), 0).repeat(3, axis=-1).astype(np.float32)


def features(network: Any, *cells: np.ndarray) -> np.ndarray:
    return np.asarray(network(np.stack(cells)))


def test_there_are_28_of_them(network: Any) -> None:
    assert network.output.shape == (None, 28)


def test_the_first_is_the_root_of_the_share_that_the_cell_fills(network: Any) -> None:
    cells = [disk(radius, 0.5) for radius in (8, 16)]
    shares = [np.mean(cell[..., 0] > MASK_LEVEL) for cell in cells]
    np.testing.assert_allclose(features(network, *cells)[:, SIZE].ravel(), np.sqrt(shares), rtol=1e-5)


def test_the_stain_is_measured_inside_the_cell_alone(network: Any) -> None:
    rng = np.random.default_rng(0)
    cell = disk(14, 1.0) * rng.uniform(0.3, 0.9, (SIDE, SIDE, 3)).astype(np.float32) ** 2
    cell = np.where(cell > 0, np.maximum(cell, MASK_LEVEL), 0)
    inside = cell[cell[..., 0] > 0]
    deviation = inside - inside.mean(axis=0)
    [found] = features(network, cell)
    np.testing.assert_allclose(found[MEAN], inside.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found[SPREAD], inside.std(axis=0), rtol=1e-3)
    np.testing.assert_allclose(found[SKEWNESS], (deviation**3).mean(axis=0) / inside.std(axis=0) ** 3, atol=5e-3)


def test_sums_over_a_large_frame_lose_no_digits() -> None:
    rng = np.random.default_rng(0)
    frames = rng.beta(0.5, 8, (4, 2 * SIDE, 2 * SIDE, 3)).astype(np.float32) / 2 + np.float32(MASK_LEVEL)
    exact = frames.astype(np.float64)  # all of it counts fully as cell
    mean = exact.mean(axis=(1, 2))
    deviation = exact - mean[:, None, None]
    spread = np.sqrt((deviation**2).mean(axis=(1, 2)) + SMALLEST_VARIANCE)
    cells = keras.Input((2 * SIDE, 2 * SIDE, 3))
    found = np.asarray(keras.Model(cells, shape_features(cells))(frames))
    np.testing.assert_allclose(found[:, MEAN], mean, rtol=1e-6)
    np.testing.assert_allclose(found[:, SPREAD], spread, rtol=1e-6)
    np.testing.assert_allclose(found[:, SKEWNESS], (deviation**3).mean(axis=(1, 2)) / spread**3, rtol=1e-5)


def test_no_feature_depends_on_where_the_cell_is_or_how_it_is_turned(network: Any) -> None:
    rng = np.random.default_rng(0)
    cell = disk(12, 1.0) * rng.uniform(0.3, 0.9, (SIDE, SIDE, 3)).astype(np.float32)
    views = [cell, np.roll(cell, (5, -6), (0, 1)), np.rot90(cell), cell[:, ::-1]]
    found = features(network, *views)
    np.testing.assert_allclose(found[1:], np.broadcast_to(found[0], (3, 28)), atol=2e-3)


def test_texture_is_found_in_the_band_of_its_size(network: Any) -> None:
    x = np.arange(SIDE) + np.zeros((SIDE, 1))
    fine, coarse = (0.5 + 0.3 * np.sign(np.sin(x * np.pi / half)) for half in (1.001, 6.001))
    cells = [disk(20, 1.0) * pattern[..., None].astype(np.float32) for pattern in (fine, coarse)]
    of_fine, of_coarse = features(network, *cells)[:, TEXTURE].reshape(2, 3, 2, 3)[:, :, 0].mean(axis=-1)
    assert of_fine.argmax() == 0
    assert of_coarse.argmax() == 2


def test_an_empty_frame_has_finite_features(network: Any) -> None:
    assert np.isfinite(features(network, np.zeros((SIDE, SIDE, 3), np.float32))).all()
