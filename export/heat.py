"""Adds to a network a map of the places in a cell that its answer comes from.

HiResCAM (Draelos, Carin: "Use HiResCAM instead of Grad-CAM for faithful explanations", arXiv 2011.08891): activation
times gradient of the logit, summed over the channels, at the last activations from which nothing but means, products
and a largest value are taken. Behind a global mean that is the class activation map of Zhou et al. (arXiv 1512.04150).

The gradient is written out in Keras' operations, layer by layer from the end: so few layers follow those activations,
and a converter knows a product with a transposed kernel, but no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from runtime.schema import OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPATIAL_AXES = 4  # of activations [N, height, width, C]
LOWEST = -3e38  # below any activation


class ExplainedNetwork:
    """A network that ends in one sigmoid neuron, together with its map."""

    def __init__(self, network: Any) -> None:
        self._last = network.get_layer(OUTPUT_NAME)
        self.sources = list(_sources(self._last.input))  # symbolic activations, [N, height, width, C]
        outputs = [network.output, *_taps(self._last.input)]
        self.tapped = keras.Model(network.inputs, outputs, name=network.name)

    @property
    def side(self) -> int:
        """Places along the longer side of the map; 0 where there is none."""
        return max((max(source.shape[1:3]) for source in self.sources), default=0)

    def __call__(self, cells: Any) -> tuple[Any, Any]:
        """Return p_all, [N, 1], and the map, float32 [N, height, width], of the largest source's size.

        Its values add up to what the sources add to the logit; above 0 they speak for ALL.

        Args:
            cells: [N, size, size, 3].
        """
        p_all, *values = self.tapped([cells], training=False)
        known = {
            id(tap): ops.cast(value, "float32") for tap, value in zip(self.tapped.outputs[1:], values, strict=True)
        }
        [gradient] = _through_product(self._last, ops.ones((1, 1)), [])
        return p_all, joined(list(_followed_back(self._last.input, gradient, known)))


def joined(maps: list[Any]) -> Any:
    """Return the sum of maps, [N, height, width], in the largest one's size."""
    height, width = max(heat.shape[1] for heat in maps), max(heat.shape[2] for heat in maps)
    return sum(_spread(heat, height, width) for heat in maps)


def _spread(heat: Any, height: int, width: int) -> Any:
    """Bring a map to a size that is not smaller; its sum stays what it was."""
    rows, columns = heat.shape[1:]
    if (rows, columns) == (height, width):
        return heat
    return _placed(
        ops.reshape(heat, (-1, rows * columns)), np.kron(spreading(rows, height), spreading(columns, width)), height
    )


def _placed(values: Any, where: NDArray[np.float32], height: int) -> Any:
    """Return maps, [N, height, width]: each of `values`, [N, K], goes where `where`, [height * width, K], says."""
    return ops.reshape(ops.matmul(values, where.T), (-1, height, len(where) // height))


def spreading(small: int, large: int) -> NDArray[np.float32]:
    """Return the matrix [large, small] that spreads each of `small` parts of a line over the `large` parts it covers.

    Each column adds up to 1.
    """
    edges = np.linspace(0, small, large + 1)
    starts = np.arange(small)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    matrix: NDArray[np.float32] = np.clip(overlap, 0, None).astype(np.float32)
    return matrix


def _inputs(tensor: Any) -> tuple[Any, list[Any]]:
    """Return the layer that gives a symbolic tensor, and what it takes."""
    layer, node, _ = tensor._keras_history
    return layer, layer._inbound_nodes[node].input_tensors


def _is_pointwise(layer: Any) -> bool:
    return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1) and layer.strides == (1, 1)


def _is_rectified(layer: Any) -> bool:
    return getattr(layer, "activation", None) is keras.activations.relu


def _is_known(layer: Any) -> bool:
    """Say whether the gradient's way through a layer is written out here."""
    activations = (None, keras.activations.linear, keras.activations.relu)
    return type(layer) in BACKWARD and getattr(layer, "activation", None) in activations


def _is_source(tensor: Any) -> bool:
    """Say whether the way back ends at a tensor with height and width."""
    layer, _ = _inputs(tensor)
    is_passed = isinstance(layer, layers.MaxPooling2D) or (_is_pointwise(layer) and _is_known(layer))
    return len(tensor.shape) == SPATIAL_AXES and not is_passed


def _sources(tensor: Any) -> Iterator[Any]:
    """Yield what the map behind `tensor` is made of; what reaches it by layers that are not known here has no place."""
    layer, inputs = _inputs(tensor)
    if _is_source(tensor):
        yield tensor
    elif isinstance(layer, layers.MaxPooling2D):
        yield from inputs
    elif _is_known(layer):
        for each in inputs:
            yield from _sources(each)


def _taps(tensor: Any) -> Iterator[Any]:
    """Yield the symbolic tensors behind `tensor` whose values are needed."""
    layer, inputs = _inputs(tensor)
    if _is_source(tensor) or _is_rectified(layer):
        yield tensor
    if isinstance(layer, layers.MaxPooling2D):
        yield from inputs
    elif _is_known(layer) and not _is_source(tensor):
        for each in inputs:
            yield from _taps(each)


def _followed_back(tensor: Any, gradient: Any, known: dict[int, Any]) -> Iterator[Any]:
    """Yield the map of each source behind `tensor`, in their order; `known` holds the values of tensors by id."""
    layer, inputs = _inputs(tensor)
    if _is_source(tensor):
        yield ops.sum(known[id(tensor)] * gradient, axis=-1)
        return
    if _is_rectified(layer):
        gradient = gradient * ops.sign(known[id(tensor)])  # max(x, 0) lets through what is above 0
    if isinstance(layer, layers.MaxPooling2D):
        yield _map_before_pool(layer, known[id(inputs[0])], gradient)
    elif _is_known(layer):
        for each, its_gradient in zip(inputs, BACKWARD[type(layer)](layer, gradient, inputs), strict=True):
            yield from _followed_back(each, its_gradient, known)


def _map_before_pool(layer: Any, taken: Any, gradient: Any) -> Any:
    """Return the map, [N, height, width], of what a max pooling takes: all of it lies where the largest values lie.

    Args:
        layer: The pooling.
        taken: [N, height, width, C].
        gradient: Of the logit by what the pooling gives, [N, rows, columns, C].
    """
    vertical = _Windows.of(layer, 0, taken.shape[1], layer.output.shape[1])
    horizontal = _Windows.of(layer, 1, taken.shape[2], layer.output.shape[2])
    padded = ops.pad(taken, [(0, 0), vertical.padding, horizontal.padding, (0, 0)], constant_values=LOWEST)
    offsets = list(product(range(vertical.length), range(horizontal.length)))
    of_windows = [padded[:, vertical.places(row), horizontal.places(column)] for row, column in offsets]
    # Not what the pooling gave: where a precision rounds that anew, nothing would be equal to it.
    largest = reduce(ops.maximum, of_windows)
    is_largest = [1 - ops.sign(largest - values) for values in of_windows]
    share = largest * gradient / sum(is_largest)  # where several are equally large, they share
    maps = [ops.sum(share * each, axis=-1) for each in is_largest]
    where = [np.kron(vertical.placing(row), horizontal.placing(column)) for row, column in offsets]
    values = ops.reshape(ops.stack(maps, axis=1), (-1, sum(each.shape[1] for each in where)))
    return _placed(values, np.concatenate(where, axis=1), taken.shape[1])


@dataclass(frozen=True)
class _Windows:
    """The windows of a pooling along one side."""

    size: int  # places of what is pooled
    count: int  # windows
    length: int
    stride: int
    before: int  # places that are added before the first one

    @classmethod
    def of(cls, layer: Any, axis: int, size: int, count: int) -> _Windows:
        length, stride = layer.pool_size[axis], layer.strides[axis]
        missing = max((count - 1) * stride + length - size, 0)
        return cls(size, count, length, stride, before=missing // 2)  # none is missing where the padding is "valid"

    @property
    def padding(self) -> tuple[int, int]:
        return self.before, max((self.count - 1) * self.stride + self.length - self.size - self.before, 0)

    def places(self, offset: int) -> slice:
        """Return where the value `offset` of each window lies in what is padded."""
        return slice(offset, offset + (self.count - 1) * self.stride + 1, self.stride)

    def placing(self, offset: int) -> NDArray[np.float32]:
        """Return the matrix [size, count] that puts a value for each window to the place `offset` in it."""
        places = offset - self.before + self.stride * np.arange(self.count)
        matrix: NDArray[np.float32] = (np.arange(self.size)[:, None] == places).astype(np.float32)
        return matrix


def _through_product(layer: Any, gradient: Any, _: list[Any]) -> list[Any]:
    """Of a dense layer or a convolution of one pixel."""
    kernel = ops.reshape(layer.kernel, layer.kernel.shape[-2:])
    return [ops.matmul(gradient, ops.transpose(kernel))]


def _through_norm(layer: Any, gradient: Any, _: list[Any]) -> list[Any]:
    factor = ops.rsqrt(layer.moving_variance + layer.epsilon)
    return [gradient * (factor * layer.gamma if layer.scale else factor)]


def _through_concatenation(_: Any, gradient: Any, inputs: list[Any]) -> list[Any]:
    ends = np.cumsum([each.shape[-1] for each in inputs])
    return list(ops.split(gradient, ends[:-1].tolist(), axis=-1))


def _through_mean(_: Any, gradient: Any, inputs: list[Any]) -> list[Any]:
    [(_, height, width, channels)] = [each.shape for each in inputs]
    return [ops.reshape(gradient, (-1, 1, 1, channels)) / (height * width)]


def _through_flattening(_: Any, gradient: Any, inputs: list[Any]) -> list[Any]:
    return [ops.reshape(gradient, (-1, *inputs[0].shape[1:]))]


def _through_nothing(_: Any, gradient: Any, __: list[Any]) -> list[Any]:
    return [gradient]


BACKWARD: dict[type, Callable[[Any, Any, list[Any]], list[Any]]] = {
    layers.Dense: _through_product,
    layers.Conv2D: _through_product,
    layers.BatchNormalization: _through_norm,
    layers.Concatenate: _through_concatenation,
    layers.GlobalAveragePooling2D: _through_mean,
    layers.Flatten: _through_flattening,
    layers.Dropout: _through_nothing,
}
