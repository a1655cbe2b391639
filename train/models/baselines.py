"""The three networks that the paper compares ALLNet with: one backbone and a head."""

from __future__ import annotations

from typing import Any

from keras import layers

from train.models.backbones import backbone

CONVOLUTION_CHANNELS = (512, 512)  # the paper: "two convolutional layers that each had 512 1x1 kernels"
DENSE_UNITS = (512, 256, 128, 64, 32)  # the paper: "five fully connected layers", without their sizes
# The paper: "the first ten layers of the network were not trained". The tenth, as Keras counts: the input is the first.
VGG_LAST_NOT_TRAINED = "block3_conv3"


def baseline_features(name: str, cells: Any, weights: str) -> Any:
    """Return the features [N, 32] of standardized cells [N, size, size, 3], size from 75 to 450.

    The head is the one that section 2.4 of the paper gives to VGG; ResNet and Inception, whose heads the text does
    not describe, get the same. The first ten layers of a pretrained VGG16 are kept as they are; random ones are not.
    """
    model = backbone(name, cells, weights)
    if name == "vgg16" and weights != "none":
        names = [layer.name for layer in model.layers]
        for layer in model.layers[: names.index(VGG_LAST_NOT_TRAINED) + 1]:
            layer.trainable = False
    x = model.output
    for number, channels in enumerate(CONVOLUTION_CHANNELS, start=1):
        x = layers.Conv2D(channels, 1, activation="relu", name=f"head_conv{number}")(x)
    x = layers.MaxPooling2D(2, padding="same", name="head_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(DENSE_UNITS, start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
    return x
