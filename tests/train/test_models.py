from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from scipy.special import logit

from runtime.errors import UsageError
from runtime.schema import MODELS
from train.models.allnet import INNER_LAYERS, pooled_to
from train.models.backbones import BACKBONES
from train.models.compact import FINE_WEIGHT
from train.models.network import as_used, build_network
from train.standardization import Standardization

STANDARDIZATION = Standardization((11.0, 5.0, 13.0), (26.0, 12.0, 30.0))


def build(model: str, size: int = 75) -> Any:
    return build_network(model, size, STANDARDIZATION, "none")


@pytest.fixture(scope="module")
def allnet() -> Any:
    return build("allnet")


@pytest.mark.parametrize("model", MODELS)
def test_every_network_takes_uint8_cells_and_gives_a_probability(model: str) -> None:
    network = build(model)
    assert network.input.dtype == "uint8"
    assert network.output.shape == (None, 1)
    cells = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 3), dtype=np.uint8)
    p_all = np.asarray(network(cells))
    assert ((p_all > 0) & (p_all < 1)).all()


def test_compact_has_fewer_than_a_million_weights() -> None:
    assert build("compact", 128).count_params() < 1_000_000


def test_in_use_the_fine_stream_of_compact_counts_less_than_while_it_learns() -> None:
    network = build("compact")
    cells = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 3), dtype=np.uint8)
    streams = np.asarray(keras.Model(network.input, network.get_layer("streams").output)(cells))
    kernel, bias = network.get_layer("p_all").get_weights()
    fine = streams.shape[1] - network.get_layer("coarse").output.shape[1]
    kernel[:fine] = 2 / streams[0, :fine].sum()  # an untrained stream says next to nothing
    network.get_layer("p_all").set_weights([kernel, bias])
    learnt = network.predict(cells, verbose=0)
    with as_used(network):
        used = network.predict(cells, verbose=0)
    share = np.where(np.arange(len(kernel)) < fine, FINE_WEIGHT, 1)
    np.testing.assert_allclose(logit(used), streams @ (kernel * share[:, None]) + bias, atol=1e-4)
    np.testing.assert_array_equal(network.predict(cells, verbose=0), learnt)
    assert np.abs(logit(used) - logit(learnt)).max() > 1


def test_the_first_layer_standardizes() -> None:
    network = build("compact")
    cells = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 3), dtype=np.uint8)
    standardized = keras.Model(network.input, network.get_layer("standardize").output)(cells)
    np.testing.assert_allclose(standardized, (cells - np.array([11, 5, 13])) / np.array([26, 12, 30]), atol=1e-5)


def test_allnet_joins_what_the_paper_joins(allnet: Any) -> None:
    def parents(name: str) -> list[str]:
        return [tensor._keras_history.operation.name for tensor in allnet.get_layer(name).input]

    assert parents("concatenate2") == ["vgg16_last_pool", "resnet50_last_pool", "mixed10"]
    assert parents("concatenate1") == [
        f"{backbone}_{layer}_conv2" for backbone, inner in INNER_LAYERS.items() for layer in inner
    ]
    assert parents("concatenate3") == ["joined_conv2", "concatenate2"]
    pool = allnet.get_layer("last_pool")
    assert (pool.pool_size, pool.strides) == ((3, 3), (2, 2))
    assert allnet.get_layer("last_conv").kernel_size == (1, 1)
    assert [layer.name for layer in allnet.layers if isinstance(layer, keras.layers.Dense)] == [
        "dense1",
        "dense2",
        "p_all",
    ]


@pytest.mark.parametrize("size", [75, 97, 250, 450])
def test_the_three_last_activations_meet_at_any_size(size: int) -> None:
    cells = keras.Input((size, size, 3))
    last = [build(include_top=False, weights=None, input_tensor=cells).output for build in BACKBONES.values()]
    side = min(x.shape[1] for x in last)
    assert {pooled_to(keras.layers.AveragePooling2D, x, side, f"x{n}").shape[1] for n, x in enumerate(last)} == {side}


@pytest.mark.parametrize(("height", "side"), [(7, 6), (8, 6), (62, 6), (31, 6), (9, 1), (29, 12), (13, 6), (6, 6)])
def test_pooling_covers_an_activation_from_edge_to_edge(height: int, side: int) -> None:
    for row in range(height):  # a mark in any row must reach the maximum somewhere
        x = np.zeros((1, height, height, 1), np.float32)
        x[0, row, row, 0] = 1
        inputs = keras.Input((height, height, 1))
        pooled = keras.Model(inputs, pooled_to(keras.layers.MaxPooling2D, inputs, side, "x"))(x)
        assert pooled.shape == (1, side, side, 1)
        assert np.asarray(pooled).max() == 1


@pytest.mark.parametrize("size", [74, 451])
def test_a_size_that_no_backbone_takes_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"expected an image size from 75 to 450 px for allnet, received {size}"):
        build("allnet", size)


def test_compact_takes_small_images_down_to_one_pixel_in_its_last_stage() -> None:
    network = build("compact", 32)
    assert network.get_layer("stage4_block2_relu").output.shape[1:3] == (1, 1)
    with pytest.raises(UsageError, match="expected an image size from 32 to 450 px for compact, received 31"):
        build("compact", 31)


def test_weights_that_a_network_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match="expected --weights none for compact, which has no others, received imagenet"):
        build_network("compact", 75, STANDARDIZATION, "imagenet")


OFFICIAL_NAME = "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def write_official(model: keras.Model, file: Path) -> None:
    """Write weights in the layout of the files that keras.applications fetches (HDF5 of Keras 1 and 2)."""
    with h5py.File(file, "w") as content:
        content.attrs["layer_names"] = np.array([layer.name.encode() for layer in model.layers])
        content.attrs["backend"] = b"tensorflow"
        content.attrs["keras_version"] = b"2.0.2"
        for layer in model.layers:
            group = content.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{layer.name}/{weight.name}:0" for weight in weights]
            group.attrs["weight_names"] = np.array([name.encode() for name in names])
            for name, weight in zip(names, weights, strict=True):
                group.create_dataset(name, data=weight.numpy())


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of the official names and layout, of random weights."""
    folder = tmp_path_factory.mktemp("official")
    for name, build_backbone in BACKBONES.items():
        keras.utils.set_random_seed(len(name))
        model = build_backbone(include_top=False, weights=None, input_shape=(75, 75, 3))
        write_official(model, folder / OFFICIAL_NAME.format(name))
    return folder


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize(
    ("model", "name", "layer"),
    [
        ("vgg", "vgg16", "block5_conv3"),
        ("resnet", "resnet50", "conv4_block6_3_conv"),
        ("inception", "inception_v3", ""),
    ],
)
def test_official_weights_are_loaded_from_a_file_or_a_folder(
    official: Path, model: str, name: str, layer: str, kind: str
) -> None:
    file = official / OFFICIAL_NAME.format(name)
    network = build_network(model, 75, STANDARDIZATION, str(file if kind == "file" else official))
    convolutions = [one for one in network.layers if isinstance(one, keras.layers.Conv2D)]
    loaded = network.get_layer(layer) if layer else convolutions[-3]  # behind it stand the two of the head
    with h5py.File(file) as content:
        names = [one.decode() for one in content.attrs["layer_names"]]
        own = layer or [one for one in names if one.startswith("conv2d")][-1]
        [saved, *_] = [content[own][weight][()] for weight in content[own].attrs["weight_names"]]
    np.testing.assert_array_equal(loaded.get_weights()[0], saved)


def test_all_three_backbones_of_allnet_take_their_files(official: Path) -> None:
    network = build_network("allnet", 75, STANDARDIZATION, str(official))
    for name, layer in (("vgg16", "block1_conv2"), ("resnet50", "conv2_block1_1_conv")):
        with h5py.File(official / OFFICIAL_NAME.format(name)) as content:
            saved = content[layer][content[layer].attrs["weight_names"][0]][()]
        np.testing.assert_array_equal(network.get_layer(layer).get_weights()[0], saved)
    with pytest.raises(UsageError, match="expected --weights with the folder of the three official files"):
        build_network("allnet", 75, STANDARDIZATION, str(official / OFFICIAL_NAME.format("vgg16")))


def test_the_first_layer_that_does_not_fit_is_named(official: Path) -> None:
    with pytest.raises(
        UsageError, match=r"does not fit vgg16: the layer block1_conv1 has weights of .* conv1_conv has"
    ):
        build_network("vgg", 75, STANDARDIZATION, str(official / OFFICIAL_NAME.format("resnet50")))


def test_a_file_with_one_layer_less_is_refused(official: Path, tmp_path: Path) -> None:
    file = tmp_path / OFFICIAL_NAME.format("vgg16")
    file.write_bytes((official / file.name).read_bytes())
    with h5py.File(file, "a") as content:
        content.attrs["layer_names"] = content.attrs["layer_names"][:-2]  # the last is a pooling without weights
    with pytest.raises(UsageError, match=r"does not fit vgg16: the file lacks the layer block5_conv3"):
        build_network("vgg", 75, STANDARDIZATION, str(file))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected one file vgg16_weights\*notop\*\.h5 in .*, found 0"):
        build_network("vgg", 75, STANDARDIZATION, str(tmp_path))


@pytest.mark.parametrize("model", ["vgg", "allnet"])
def test_weights_at_a_path_where_nothing_is_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a file or folder, found nothing at .*none\.h5$"):
        build_network(model, 75, STANDARDIZATION, str(tmp_path / "none.h5"))


def test_a_file_with_its_top_is_refused_by_naming_the_layer_that_is_too_much(official: Path, tmp_path: Path) -> None:
    file = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    file.write_bytes((official / OFFICIAL_NAME.format("vgg16")).read_bytes())
    with h5py.File(file, "a") as content:
        top = content.create_group("fc1")
        top.create_dataset("fc1/kernel:0", data=np.zeros((4, 2)))
        top.attrs["weight_names"] = [b"fc1/kernel:0"]
        content.attrs["layer_names"] = [*content.attrs["layer_names"], b"fc1"]
    with pytest.raises(UsageError, match="does not fit vgg16: the file has a further layer fc1; expected"):
        build_network("vgg", 75, STANDARDIZATION, str(file))


def test_the_file_of_another_network_with_a_longer_name_is_left_alone(official: Path, tmp_path: Path) -> None:
    shutil.copytree(official, tmp_path / "weights")
    (tmp_path / "weights" / OFFICIAL_NAME.format("resnet50v2")).write_bytes(b"")
    network = build_network("resnet", 75, STANDARDIZATION, str(tmp_path / "weights"))
    with h5py.File(official / OFFICIAL_NAME.format("resnet50")) as content:
        saved = content["conv1_conv"][content["conv1_conv"].attrs["weight_names"][0]][()]
    np.testing.assert_array_equal(network.get_layer("conv1_conv").get_weights()[0], saved)


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vgg16_weights_notop.h5").write_bytes(b"no weights")
    with pytest.raises(
        UsageError, match=r"vgg16_weights_notop\.h5 does not fit vgg16: it is not a file of that layout"
    ):
        build_network("vgg", 75, STANDARDIZATION, str(tmp_path))


def test_weights_that_cannot_be_fetched_say_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure: no network")

    monkeypatch.setattr("keras.src.applications.vgg16.file_utils.get_file", offline)
    with pytest.raises(UsageError, match=r"download vgg16_weights_tf_.*_notop\.h5 from storage\..*/vgg16,"):
        build_network("vgg", 75, STANDARDIZATION, "imagenet")


def test_compact_has_no_other_weights_than_random_ones() -> None:
    with pytest.raises(UsageError, match="expected --weights none for compact"):
        build_network("compact", 75, STANDARDIZATION, "imagenet")
