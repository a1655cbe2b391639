"""ALLNet: VGG16, ResNet50 and InceptionV3 on one input, joined at their inner and their last activations.

After Mattapalli and Athavale, "ALLNet: A Hybrid Convolutional Neural Network to Improve Diagnosis of Acute
Lymphocytic Leukemia (ALL) in White Blood Cells", section 2.7. `concatenate1`, `concatenate2` and `concatenate3` are
the paper's names. What its text leaves open is chosen here and stated beside each constant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras import layers

from runtime.errors import UsageError
from train.models.backbones import backbone

# Two inner layers of each backbone; the paper does not say which. Here: those that end its stages at a fourth or an
# eighth, and at a sixteenth of the input's side or near it.
INNER_LAYERS = {
    "vgg16": ("block3_conv3", "block4_conv3"),
    "resnet50": ("conv3_block4_out", "conv4_block6_out"),
    "inception_v3": ("mixed2", "mixed7"),
}
INNER_CONVOLUTIONS = (128, 128)  # the paper: "a series of convolutional layers"
JOINED_CHANNELS = (512, 512)  # the paper: "two 1x1 convolutional layers"
LAST_CHANNELS = 512  # the paper: "a 1x1 convolutional layer"
DENSE_UNITS = (256, 128)  # the paper: "two fully connected layers"


def allnet_features(cells: Any, weights: str) -> Any:
    """Return the features [N, 128] of standardized cells [N, size, size, 3], size from 75 to 450.

    The last activations of the three backbones differ in height and width (at 250 px 7, 8 and 6). All activations are
    brought to the smallest of the three by pooling, which drops nothing and exports exactly.
    """
    if Path(weights).is_file():
        raise UsageError(
            f"expected --weights with the folder of the three official files for allnet, received {weights}"
        )
    backbones = {name: backbone(name, cells, weights) for name in INNER_LAYERS}
    last = [model.output for model in backbones.values()]
    side = min(activation.shape[1] for activation in last)

    concatenate2 = layers.Concatenate(name="concatenate2")(
        [pooled_to(layers.AveragePooling2D, x, side, f"{name}_last") for name, x in zip(backbones, last, strict=True)]
    )
    concatenate1 = layers.Concatenate(name="concatenate1")(
        [
            _inner_branch(backbones[name].get_layer(layer).output, side, f"{name}_{layer}")
            for name, inner in INNER_LAYERS.items()
            for layer in inner
        ]
    )
    x = concatenate1
    for number, channels in enumerate(JOINED_CHANNELS, start=1):
        x = layers.Conv2D(channels, 1, activation="relu", name=f"joined_conv{number}")(x)
    x = layers.Concatenate(name="concatenate3")([x, concatenate2])
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="last_pool")(x)
    x = layers.Conv2D(LAST_CHANNELS, 1, activation="relu", name="last_conv")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(DENSE_UNITS, start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
    return x


def pooled_to(pooling: Any, x: Any, side: int, name: str) -> Any:
    """Pool a square activation to side x side with equal windows that cover all of it.

    With stride s = floor(h / side) and window h - (side - 1) s, `side` windows reach exactly from edge to edge.
    """
    height = x.shape[1]
    if height == side:
        return x
    stride = height // side
    window = height - (side - 1) * stride
    return pooling(window, strides=stride, padding="valid", name=f"{name}_pool")(x)


def _inner_branch(x: Any, side: int, name: str) -> Any:
    x = pooled_to(layers.MaxPooling2D, x, side, name)
    for number, channels in enumerate(INNER_CONVOLUTIONS, start=1):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"{name}_conv{number}")(x)
    return x
