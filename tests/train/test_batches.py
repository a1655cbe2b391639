from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import DataError, UsageError
from runtime.schema import Recipe
from train.batches import Batches, mixed
from train.placed_cells import PlacedCell
from train.prepared import PreparedImages

TURN = Recipe("adam", 1e-3, "constant", turn=True)
MIXUP = Recipe("adam", 1e-3, "constant", mixup=0.4)
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


def at(images: PreparedImages, cells: list[PlacedCell], recipe: Recipe | None, seed: int, epoch: int) -> Batches:
    batches = Batches(images, cells, batch_size=32, shuffle_seed=seed, recipe=recipe)
    batches.epoch = epoch
    return batches


def test_the_order_of_the_cells_depends_on_seed_and_epoch_alone(
    images: PreparedImages, cells: list[PlacedCell]
) -> None:
    order = numbers(at(images, cells, None, 0, 5))
    assert numbers(at(images, cells, None, 0, 5)) == order
    assert numbers(at(images, cells, None, 0, 6)) != order
    assert numbers(at(images, cells, None, 1, 5)) != order


@pytest.mark.parametrize("recipe", [TURN, MIXUP], ids=["turned", "mixed"])
def test_how_cells_are_changed_depends_on_seed_epoch_and_the_batchs_number_alone(
    images: PreparedImages, cells: list[PlacedCell], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two cells by turns in any order of the epoch: the second batch and the third begin alike.
    monkeypatch.setattr(Batches, "_order", lambda _: np.arange(COUNT) % 2)
    changed = at(images, cells, recipe, 0, 5)[1][0]
    np.testing.assert_array_equal(at(images, cells, recipe, 0, 5)[1][0], changed)
    assert not np.array_equal(at(images, cells, recipe, 0, 6)[1][0], changed)
    assert not np.array_equal(at(images, cells, recipe, 1, 5)[1][0], changed)
    assert not np.array_equal(at(images, cells, recipe, 0, 5)[2][0], changed)


def test_without_a_shuffle_seed_the_order_is_the_cells_own(images: PreparedImages, cells: list[PlacedCell]) -> None:
    assert numbers(Batches(images, cells, batch_size=32))[:COUNT] == list(range(COUNT))


def test_in_their_own_order_cells_come_in_batches_of_one_size(images: PreparedImages, cells: list[PlacedCell]) -> None:
    batches = Batches(images, cells, batch_size=32)
    assert [len(batches[index][0]) for index in range(len(batches))] == [23, 23, 23]
    assert numbers(batches)[COUNT:] == [0, 1], "as many as are missing come again"


def test_targets_are_learnt_instead_of_labels(images: PreparedImages, cells: list[PlacedCell]) -> None:
    targets = np.linspace(0, 1, COUNT, dtype=np.float32)
    batches = Batches(images, cells, batch_size=32, shuffle_seed=0, targets=targets)
    pixels, learnt = batches[1]
    np.testing.assert_array_equal(learnt[:, 0], targets[pixels[:, 0, 0, 0]])
    np.testing.assert_array_equal(batches.labels, np.arange(COUNT) % 2 == 1)


def test_cells_and_targets_are_mixed_alike() -> None:
    dark_and_bright = np.full((2, 4, 4, 3), [[[[0]]], [[[200]]]], dtype=np.uint8)
    labels, alike = np.array([[0], [1]], dtype=np.float32), np.ones(2, dtype=np.float32)
    shares = set()
    for seed in range(20):
        pixels, targets, weights = mixed(dark_and_bright, labels, alike, np.random.default_rng(seed), 1.0)
        assert pixels.dtype == np.uint8
        assert targets.dtype == np.float32
        assert targets.shape == (2, 1)
        np.testing.assert_allclose(weights, 1)
        np.testing.assert_allclose(pixels, np.broadcast_to(200 * targets[:, :, None, None], pixels.shape), atol=0.5)
        shares |= set(targets.ravel().tolist())
    assert sum(0.05 < share < 0.95 for share in shares) > 10


def test_the_loss_of_a_mixture_is_the_mixture_of_the_weighted_losses() -> None:
    def loss(target: Any, weight: Any) -> Any:
        return weight * -(target * np.log(0.3) + (1 - target) * np.log(0.7))

    cells = np.zeros((8, 4, 4, 3), dtype=np.uint8)
    labels, ones = np.tile(np.array([[0], [1]], dtype=np.float32), (4, 1)), np.ones(8, dtype=np.float32)
    weights = np.where(labels[:, 0] == 1, 0.5, 3).astype(np.float32)
    shares = mixed(cells, labels, ones, np.random.default_rng(0), 1.0)[1][:, 0]  # of the ALL cell
    _, mixed_targets, mixed_weights = mixed(cells, labels, weights, np.random.default_rng(0), 1.0)
    assert ((shares > 0.05) & (shares < 0.95)).sum() > 2
    expected = shares * loss(1, 0.5) + (1 - shares) * loss(0, 3)
    np.testing.assert_allclose(loss(mixed_targets[:, 0], mixed_weights), expected, rtol=1e-5)


def test_both_classes_weigh_the_same_where_the_recipe_says_so(images: PreparedImages, cells: list[PlacedCell]) -> None:
    few = [cell for cell in cells if cell.label or int(cell.sha256) % 6 == 0]
    recipe = Recipe("adam", 1e-3, "constant", class_weights=True)
    batches = Batches(images, few, batch_size=7, shuffle_seed=0, recipe=recipe)
    labels, weights = (
        np.concatenate(parts) for parts in zip(*[batches[i][1:] for i in range(len(batches))], strict=True)
    )
    of_class = [weights[labels[:, 0] == label].sum() for label in (0, 1)]
    assert of_class[0] == pytest.approx(of_class[1])
    assert weights.mean() == pytest.approx(1)
    assert len(Batches(images, few, batch_size=7, shuffle_seed=0)[0]) == 2, "without, keras gets no weights"


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_each_batch_can_be_shared_out_evenly_and_no_cell_is_missing(
    images: PreparedImages, cells: list[PlacedCell], devices: int
) -> None:
    batches = Batches(images, cells, batch_size=16, shuffle_seed=0, devices=devices)
    sizes = [len(batches[index][0]) for index in range(len(batches))]
    assert all(size % devices == 0 and 0 < size <= 16 for size in sizes)
    seen = numbers(batches)
    assert set(seen) == set(range(COUNT))
    assert len(seen) < COUNT + devices
    in_order = numbers(Batches(images, cells, batch_size=16, devices=devices))
    assert in_order[:COUNT] == list(range(COUNT)), "so that what is predicted beyond the cells is cut off"
    with pytest.raises(UsageError, match=f"expected --batch-size of {devices} or more, .* received {devices - 1}"):
        Batches(images, cells, batch_size=devices - 1, devices=devices)


def test_what_keeps_a_batch_from_being_read_is_told_instead_of_what_becomes_of_it(cells: list[PlacedCell]) -> None:
    class Gone:
        def __getitem__(self, rows: Any) -> Any:
            raise DataError("the prepared images are gone")

    batches = Batches(PreparedImages(Gone(), {str(n): n for n in range(COUNT)}, {}), cells, batch_size=32)
    with pytest.raises(DataError, match=r"^the prepared images are gone$"), batches.telling_errors():
        try:
            batches[0]
        except DataError as error:
            raise RuntimeError("a graph of many lines") from error
    with (
        pytest.raises(RuntimeError, match="another"),
        Batches(PreparedImages(Gone(), {str(n): n for n in range(COUNT)}, {}), cells, batch_size=32).telling_errors(),
    ):
        raise RuntimeError("another")


def test_mixed_targets_lie_between_the_labels(images: PreparedImages, cells: list[PlacedCell]) -> None:
    targets = Batches(images, cells, batch_size=32, shuffle_seed=0, recipe=MIXUP)[0][1]
    assert ((targets >= 0) & (targets <= 1)).all()
    assert ((targets > 0) & (targets < 1)).any()
