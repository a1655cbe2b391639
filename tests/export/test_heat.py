from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

from export.fp16 import write_fp16
from export.heat import ExplainedNetwork, joined, spreading
from export.heat_graph import center_heat, remove_heat, wrong_heat
from export.to_onnx import KerasModel
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.errors import ConversionError
from runtime.schema import HEAT_NAME, OUTPUT_NAME, ImageSpec
from tests.small_compact import small_compact
from tests.tiny_bundle import write_onnx
from train.models.network import build_network
from train.standardization import Standardization

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors = Any


def network(head: Any, size: int = 12) -> Any:
    """Return a network of two convolutions and what `head` puts behind their activations."""
    keras.utils.set_random_seed(3)
    cells = keras.Input((size, size, 3), name="cells")
    x = layers.Conv2D(6, 3, padding="same", activation="tanh")(layers.Rescaling(1 / 64)(cells))
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(x)
    return keras.Model(cells, layers.Dense(1, activation="sigmoid", name=OUTPUT_NAME)(head(x)))


def averaged(x: Tensors) -> Tensors:
    return layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))


def normalized(x: Tensors) -> Tensors:
    norm = layers.BatchNormalization(
        moving_mean_initializer=keras.initializers.RandomUniform(0, 1),
        moving_variance_initializer=keras.initializers.RandomUniform(0.5, 2),
        gamma_initializer=keras.initializers.RandomUniform(0.5, 2),
    )
    return norm(layers.GlobalAveragePooling2D()(x))


def flattened(x: Tensors) -> Tensors:
    for units in (9, 7):
        x = layers.Dense(units, activation="relu", bias_initializer="ones")(layers.Flatten()(x) if x.ndim == 4 else x)
    return x


def of_two_sizes(x: Tensors) -> Tensors:
    fine, coarse = (layers.Conv2D(4, 3, padding="same", activation="relu")(x) for _ in range(2))
    return layers.Concatenate()([averaged(fine), averaged(layers.AveragePooling2D(3)(coarse))])


def pooled_same(x: Tensors) -> Tensors:
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    return flattened(layers.Conv2D(8, 1, activation="relu", bias_initializer="ones")(x))


def pooled_valid(x: Tensors) -> Tensors:
    return flattened(layers.MaxPooling2D(4, strides=3, padding="valid")(x))


def behind_a_curve(x: Tensors) -> Tensors:
    return averaged(layers.Conv2D(8, 1, activation="tanh")(x))


HEADS = (behind_a_curve, averaged, normalized, flattened, of_two_sizes, pooled_same, pooled_valid)


def some_cells(count: int = 5, size: int = 12) -> NDArray[np.float32]:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def by_gradient(explained: ExplainedNetwork, cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map as TensorFlow differentiates it."""
    with tf.GradientTape() as tape:
        p_all, *taps = explained.tapped([cells], training=False)
        logit = tf.math.log(p_all / (1 - p_all))
    values = [
        value
        for source in explained.sources
        for symbol, value in zip(explained.tapped.outputs[1:], taps, strict=True)
        if symbol is source
    ]
    gradients = tape.gradient(logit, values)
    maps = [tf.reduce_sum(value * gradient, axis=-1) for value, gradient in zip(values, gradients, strict=True)]
    return np.asarray(joined(maps))


@pytest.mark.parametrize("head", HEADS)
def test_the_map_is_the_one_that_gradients_give(head: Any) -> None:
    explained = ExplainedNetwork(network(head))
    _, heat = explained(some_cells())
    expected = by_gradient(explained, some_cells())
    assert np.abs(expected).max() > 1e-3, "there is something to compare"
    np.testing.assert_allclose(np.asarray(heat), expected, atol=1e-4 * np.abs(expected).max())


def test_behind_a_mean_the_map_adds_up_to_the_logit() -> None:
    model = network(averaged)
    p_all, heat = ExplainedNetwork(model)(some_cells())
    logit = np.log(p_all / (1 - p_all))[:, 0] - model.get_layer(OUTPUT_NAME).bias.numpy()
    np.testing.assert_allclose(np.asarray(heat).sum(axis=(1, 2)), logit, atol=1e-4)


def test_what_is_bright_in_one_place_is_hot_there() -> None:
    model = network(averaged)
    cells = np.zeros((1, 12, 12, 3), np.float32)
    cells[0, 2:5, 7:10] = 255
    _, (heat,) = ExplainedNetwork(model)(cells)
    rows, columns = np.unravel_index(np.abs(np.asarray(heat) - np.median(heat)).argmax(), (12, 12))
    assert 1 <= rows <= 5
    assert 6 <= columns <= 10


def test_a_network_without_places_at_its_end_has_no_map() -> None:
    def squared(x: Tensors) -> Tensors:
        return keras.ops.square(layers.GlobalAveragePooling2D()(x))

    assert ExplainedNetwork(network(squared)).side == 0


def test_layers_behind_an_activation_that_is_not_known_have_no_place_in_the_map() -> None:
    def curved(x: Tensors) -> Tensors:
        return layers.Dense(4, activation="tanh")(layers.Flatten()(x))

    assert ExplainedNetwork(network(curved)).side == 0


@pytest.mark.parametrize(("small", "large"), [(4, 8), (3, 8), (6, 7), (5, 5), (1, 4)])
def test_spreading_keeps_the_sum_and_the_place(small: int, large: int) -> None:
    matrix = spreading(small, large)
    assert matrix.shape == (large, small)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-6)
    centres = (np.arange(large) + 0.5) / large
    np.testing.assert_allclose(centres @ matrix, (np.arange(small) + 0.5) / small, atol=0.5 / large)


@pytest.mark.parametrize(("model", "size", "side"), [("compact", 64, 8), ("vgg", 130, 4)])
def test_the_graph_gives_the_map_of_the_keras_model(model: str, size: int, side: int, tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    build_network(model, size, Standardization((9.0, 5.0, 13.0), (26.0, 12.0, 30.0)), "none").save(tmp_path / "m.keras")
    reference = KerasModel(tmp_path / "m.keras", temperature=1.5)
    reference.write_onnx(tmp_path / "m.onnx")
    cells = some_cells(3, size).astype(np.uint8)
    expected = reference.heat(cells)
    with OnnxRuntimeBackend(tmp_path / "m.onnx", ImageSpec(size, size), "cpu") as backend:
        p_all, heat = backend.infer_with_heat(cells)
        np.testing.assert_array_equal(p_all, backend.infer(cells))
    assert expected is not None
    assert heat.shape == (3, side, side)
    np.testing.assert_allclose(heat, expected, atol=2e-3 * np.abs(expected).max())
    write_fp16(tmp_path / "m.onnx", tmp_path / "m.fp16.onnx", {})
    with OnnxRuntimeBackend(tmp_path / "m.fp16.onnx", ImageSpec(size, size), "cpu") as backend:
        assert not wrong_heat(reference, {"fp16": backend}, cells)


def test_a_map_is_counted_from_the_mean_cells(tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    size = 64
    standardization = Standardization((9.0, 5.0, 13.0), (26.0, 12.0, 30.0))
    with small_compact():
        build_network("compact", size, standardization, "none").save(tmp_path / "m.keras")
    reference = KerasModel(tmp_path / "m.keras", temperature=1.0)
    reference.write_onnx(tmp_path / "m.onnx")
    cells = some_cells(4, size).astype(np.uint8)
    center_heat(tmp_path / "m.onnx", cells)
    expected = reference.heat(cells)
    assert expected is not None
    with OnnxRuntimeBackend(tmp_path / "m.onnx", ImageSpec(size, size), "cpu") as backend:
        _, heat = backend.infer_with_heat(cells)
    np.testing.assert_allclose(heat.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(heat, expected - expected.mean(axis=0), atol=2e-3 * np.abs(heat).max())
    write_onnx(tmp_path / "without.onnx", "fp32", seed=0)
    before = (tmp_path / "without.onnx").read_bytes()
    center_heat(tmp_path / "without.onnx", some_cells(2).astype(np.uint8))
    assert (tmp_path / "without.onnx").read_bytes() == before


def test_the_reference_has_a_map_where_p_all_is_rounded_to_1(tmp_path: Path) -> None:
    with small_compact():
        model = build_network("compact", 64, Standardization((9.0, 5.0, 13.0), (26.0, 12.0, 30.0)), "none")
    last = model.get_layer(OUTPUT_NAME)
    last.set_weights([last.get_weights()[0], np.ones(1)])
    model.save(tmp_path / "m.keras")
    unsure, sure = (KerasModel(tmp_path / "m.keras", temperature) for temperature in (1.0, 1e-3))
    cells = some_cells(2, 64).astype(np.uint8)
    assert (unsure.predict(cells) < 1).all()
    assert (sure.predict(cells) == 1).all()
    expected, heat = unsure.heat(cells), sure.heat(cells)
    assert expected is not None
    assert heat is not None
    np.testing.assert_allclose(heat, expected * 1e3, rtol=1e-4)


def test_a_network_whose_map_would_be_too_coarse_gives_none(tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    build_network("vgg", 75, Standardization((9.0, 5.0, 13.0), (26.0, 12.0, 30.0)), "none").save(tmp_path / "m.keras")
    reference = KerasModel(tmp_path / "m.keras", temperature=1.0)
    reference.write_onnx(tmp_path / "m.onnx")
    assert reference.heat(some_cells(1, 75).astype(np.uint8)) is None
    with OnnxRuntimeBackend(tmp_path / "m.onnx", ImageSpec(75, 75), "cpu") as backend:
        assert not backend.gives_heat


class Answers:
    """Stands for a Keras model whose map is known."""

    def __init__(self, heat: NDArray[np.float32] | None) -> None:
        self._heat = heat

    def heat(self, _: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        return self._heat


@pytest.fixture
def package_backends() -> Any:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    backends: dict[str, Any] = {
        variant.precision: OnnxRuntimeBackend(bundle.path(variant), bundle.manifest.image, "cpu")
        for variant in bundle.manifest.variants
    }
    yield backends, bundle.golden().cells
    for backend in backends.values():
        backend.close()


def test_a_map_that_is_not_the_models_is_found(package_backends: Any) -> None:
    backends, cells = package_backends
    _, heat = backends["fp32"].infer_with_heat(cells)
    mean = np.float32(0.01) * np.arange(heat[0].size, dtype=np.float32).reshape(heat[0].shape)
    assert not wrong_heat(Answers(heat + mean), backends, cells)
    assert not wrong_heat(Answers(None), backends, cells)
    others = {precision: backend for precision, backend in backends.items() if precision != "fp32"}
    wrong = wrong_heat(Answers(heat[:, ::-1] + mean), others, cells)
    assert list(wrong) == list(others)
    assert all(correlation < 0.9 for correlation in wrong.values())
    assert set(wrong_heat(Answers(np.ones_like(heat)), others, cells).values()) == {0.0}, (
        "a flat map, and one that is not"
    )
    with pytest.raises(ConversionError, match=r"expected the map of fp32 to be the Keras model's, found a correlation"):
        wrong_heat(Answers(heat[:, ::-1] + mean), backends, cells)


def test_a_graph_without_its_map_gives_the_same_answers(package_backends: Any, tmp_path: Path) -> None:
    backends, cells = package_backends
    bundle = Bundle.open(DEFAULT_BUNDLE)
    for variant in bundle.manifest.variants:
        file = Path(shutil.copy(bundle.path(variant), tmp_path))
        before = {node.name for node in onnx.load(file).graph.node}
        remove_heat(file)
        onnx.checker.check_model(file, full_check=True)
        assert {node.name for node in onnx.load(file).graph.node} < before, "the names that the record has stay"
        with OnnxRuntimeBackend(file, bundle.manifest.image, "cpu") as backend:
            assert not backend.gives_heat
            np.testing.assert_allclose(backend.infer(cells), backends[variant.precision].infer(cells), atol=1e-6)


def test_every_precision_of_the_package_has_the_map() -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    for variant in bundle.manifest.variants:
        with OnnxRuntimeBackend(bundle.path(variant), bundle.manifest.image, "cpu") as backend:
            assert backend.gives_heat, variant.precision


def test_a_graph_without_a_map_says_so(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", "fp32", seed=0)
    with OnnxRuntimeBackend(tmp_path / "m.onnx", ImageSpec(12, 12), "cpu") as backend:
        assert not backend.gives_heat
    assert HEAT_NAME == "heat"
