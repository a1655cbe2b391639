from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.demo import demo_cells
from runtime.schema import Recipe
from train.augmentation import augmented
from train.batches import Batches, mixed
from train.prepared import PreparedImages
from train.splits import PlacedCell

TURN = Recipe("adam", 1e-3, "constant", turn=True)
COUNT = 67  # at 32 a batch, two full batches would leave three cells over


@pytest.fixture
def images() -> PreparedImages:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(COUNT)  # each cell bears its number
    return PreparedImages(pixels, {str(n): n for n in range(COUNT)}, {})


@pytest.fixture
def cells() -> list[PlacedCell]:
    return [PlacedCell(str(Path(f"{n}.bmp")), n % 2, "", "", "training", str(n)) for n in range(COUNT)]


def numbers(batches: Batches) -> list[int]:
    return [int(cell[0, 0, 0]) for index in range(len(batches)) for cell in batches[index][0]]


def test_a_batch_is_uint8_cells_with_their_labels(images: PreparedImages, cells: list[PlacedCell]) -> None:
    pixels, labels = Batches(images, cells, batch_size=32, shuffle_seed=0)[0]
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.float32
    assert pixels.shape[1:] == (8, 8, 3)
    assert labels.shape == (len(pixels), 1)
    np.testing.assert_array_equal(labels[:, 0], pixels[:, 0, 0, 0] % 2)


def test_every_epoch_holds_every_cell_once_in_nearly_equal_batches(
    images: PreparedImages, cells: list[PlacedCell]
) -> None:
    batches = Batches(images, cells, batch_size=32, shuffle_seed=0)
    assert [len(batches[index][0]) for index in range(len(batches))] == [23, 22, 22]
    assert sorted(numbers(batches)) == list(range(COUNT))


def test_a_batch_depends_on_seed_epoch_and_number_alone(images: PreparedImages, cells: list[PlacedCell]) -> None:
    def at(seed: int, epoch: int) -> Batches:
        batches = Batches(images, cells, batch_size=32, shuffle_seed=seed, recipe=TURN)
        batches.epoch = epoch
        return batches

    np.testing.assert_array_equal(at(0, 5)[1][0], at(0, 5)[1][0])
    assert not np.array_equal(at(0, 5)[1][0], at(0, 6)[1][0])
    assert not np.array_equal(at(0, 5)[1][0], at(1, 5)[1][0])


def test_without_a_shuffle_seed_the_order_is_the_cells_own(images: PreparedImages, cells: list[PlacedCell]) -> None:
    assert numbers(Batches(images, cells, batch_size=32)) == list(range(COUNT))


def test_augmentation_keeps_size_type_and_background() -> None:
    cell = np.zeros((64, 64, 3), np.uint8)
    cell[16:48, 16:48] = 200
    for seed in range(40):
        turned = augmented(cell, np.random.default_rng(seed), TURN)
        assert turned.dtype == np.uint8
        assert turned.shape == cell.shape
        assert not turned[0, 0].any()
        assert 0.95 < turned.sum() / cell.sum() < 1.05


def test_half_of_the_augmented_cells_keep_their_very_pixels() -> None:
    cell = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    eight = [np.rot90(side, turn) for side in (cell, cell[:, ::-1]) for turn in range(4)]
    kept = sum(
        any(np.array_equal(augmented(cell, np.random.default_rng(seed), TURN), one) for one in eight)
        for seed in range(200)
    )
    assert 70 < kept < 130


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("adam", 1e-3, "constant", stain_jitter=0.2),
        Recipe("adam", 1e-3, "constant", blur=1.5),
        Recipe("adam", 1e-3, "constant", scale=0.1),
    ],
    ids=["stain", "blur", "scale"],
)
def test_every_augmentation_changes_cells_and_keeps_the_black_frame(recipe: Recipe) -> None:
    with Image.open(demo_cells()[0]) as image:
        cell = np.asarray(image.convert("RGB"))
    changed = [augmented(cell, np.random.default_rng(seed), recipe) for seed in range(20)]
    assert all(one.shape == cell.shape and one.dtype == np.uint8 for one in changed)
    assert sum(not np.array_equal(one, cell) for one in changed) >= 5
    assert all((one[:20] == 0).all() and (one[:, -20:] == 0).all() for one in changed)


def test_stain_jitter_is_a_gain_of_optical_density() -> None:
    cell = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    changed = augmented(cell, np.random.default_rng(1), Recipe("adam", 1e-3, "constant", stain_jitter=0.2))
    for channel in range(3):
        before, after = (-np.log((pixels[0, 20:250, channel] + 1.0) / 256) for pixels in (cell, changed))
        gain = after / before
        assert np.ptp(gain) < 0.15, "one gain for all grey levels, but for rounding"
        assert abs(np.median(gain) - 1) > 0.01


def test_scaling_is_about_the_centre_and_of_the_stated_size() -> None:
    cell = np.zeros((101, 101, 3), dtype=np.uint8)
    cell[30:71, 30:71] = 200
    sides = set()
    for seed in range(40):
        changed = augmented(cell, np.random.default_rng(seed), Recipe("adam", 1e-3, "constant", scale=0.2))
        rows = np.flatnonzero(changed[50, :, 0] > 100)
        sides.add(len(rows))
        assert abs(rows.mean() - 50) <= 0.5
    assert min(sides) >= 41 * 0.8 - 1
    assert max(sides) <= 41 * 1.2 + 1
    assert max(sides) - min(sides) > 8


def test_targets_are_learnt_instead_of_labels(images: PreparedImages, cells: list[PlacedCell]) -> None:
    targets = np.linspace(0, 1, COUNT, dtype=np.float32)
    batches = Batches(images, cells, batch_size=32, shuffle_seed=0, targets=targets)
    pixels, learnt = batches[1]
    np.testing.assert_array_equal(learnt[:, 0], targets[pixels[:, 0, 0, 0]])
    np.testing.assert_array_equal(batches.labels, np.arange(COUNT) % 2 == 1)


def test_cells_and_targets_are_mixed_alike() -> None:
    dark_and_bright = np.full((2, 4, 4, 3), [[[[0]]], [[[200]]]], dtype=np.uint8)
    shares = set()
    for seed in range(20):
        pixels, targets = mixed(dark_and_bright, np.float32([[0], [1]]), np.random.default_rng(seed), 1.0)
        assert pixels.dtype == np.uint8
        assert targets.dtype == np.float32
        assert targets.shape == (2, 1)
        np.testing.assert_allclose(pixels, np.broadcast_to(200 * targets[:, :, None, None], pixels.shape), atol=0.5)
        shares |= set(targets.ravel().tolist())
    assert sum(0.05 < share < 0.95 for share in shares) > 10


def test_mixed_batches_depend_on_seed_epoch_and_number_alone(images: PreparedImages, cells: list[PlacedCell]) -> None:
    recipe = Recipe("adam", 1e-3, "constant", mixup=0.4)
    first, again = (Batches(images, cells, batch_size=32, shuffle_seed=0, recipe=recipe) for _ in range(2))
    np.testing.assert_array_equal(first[0][0], again[0][0])
    np.testing.assert_array_equal(first[0][1], again[0][1])
    assert ((first[0][1] > 0) & (first[0][1] < 1)).any()
