"""Keras file to ONNX file; the only file that imports tensorflow and tf2onnx."""

from __future__ import annotations

import gc
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

# Read by tf2onnx when it converts: otherwise it copies the whole graph before each of its passes, in order to hide a
# pass that fails.
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from export.graph import OPSET, fold_and_save
from export.heat import ExplainedNetwork, joined
from runtime.errors import ConversionError, RunError, reason_of
from runtime.schema import INPUT_NAME, OUTPUT_NAME, ImageSpec
from train.run_folder import TO_RECOVER_BEST
from train.tensorflow_import import interrupts_kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFERENCE_BATCH_SIZE = 8
SMALLEST_MAP = 4  # places along its side; a coarser one says nothing
# In Keras' message, after a first line without a name.
FOREIGN_LAYER = re.compile(r"Could not locate class '(?P<custom>\w+)'|deserialization of a `(?P<code>\w+)` layer")
FIT_AGAIN = "fit the model again, with a lower --learning-rate"


class KerasModel:
    """A run's best.keras with its calibration: the reference that every conversion is compared with."""

    def __init__(self, file: Path, temperature: float) -> None:
        """Load the file; raise RunError where it is missing, damaged or not such a model."""
        self._file = file
        self._model = _load(file)
        _refuse_another_contract(file, self._model)
        _refuse_no_numbers(file, self._model)
        calibrate(self._model, temperature)
        self._explained = ExplainedNetwork(self._model)
        self._last = self._model.get_layer(OUTPUT_NAME)
        inner = [self._last.input, *self._explained.sources]
        self._with_inner = keras.Model(self._model.inputs, [self._model.output, *inner])
        signature = [tf.TensorSpec(self._model.inputs[0].shape, tf.uint8)]
        self._answers = tf.function(self._p_all_and_heat, input_signature=signature, autograph=False)

    def refuse_another_size(self, image: ImageSpec) -> None:
        """Raise RunError unless the model takes cells of that size: else best.keras is another run's."""
        found = {tuple(node.shape[1:3]) for node in self._model.inputs}
        if found != {(image.height, image.width)}:
            raise RunError(
                f"expected a model of cells of {image.height} x {image.width} pixels in {self._file}, as config.json "
                f"says, found {found}; put the run's own best.keras there, or fit the model again"
            )

    def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N], for uint8 RGB cells [N, height, width, 3]; raise RunError where it overflows."""
        p_all = np.concatenate([np.asarray(self._answers(batch)[0])[:, 0] for batch in _batches(cells)])
        if not np.isfinite(p_all).all():
            raise RunError(
                f"expected probabilities from {self._file}, found values that are not numbers: the network overflows; "
                f"{FIT_AGAIN}"
            )
        return p_all

    def heat(self, cells: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the map behind each answer, float32 [N, rows, columns], by TensorFlow's own gradients.

        None where the network has no map that is fine enough.
        """
        if self._explained.side < SMALLEST_MAP:
            return None
        return np.concatenate([np.asarray(self._answers(batch)[1]) for batch in _batches(cells)])

    def _p_all_and_heat(self, cells: Any) -> tuple[Any, Any]:
        """Compute p_all, [N, 1], and the map, [N, rows, columns], or None, of uint8 cells [N, height, width, 3]."""
        p_all, features, *values = self._with_inner([cells], training=False)
        if self._explained.side < SMALLEST_MAP:
            return p_all, None
        # Not from p_all: where that is rounded to 0 or 1, it has no logit.
        logits = tf.matmul(features, self._last.kernel) + self._last.bias
        # As a part of the graph, which goes back no further than `values`: a tape would keep all activations before
        # them, for ALLNet gigabytes.
        gradients = tf.gradients(logits, values)
        return p_all, joined(
            [tf.reduce_sum(value * gradient, axis=-1) for value, gradient in zip(values, gradients, strict=True)]
        )

    def write_onnx(self, target: Path) -> None:
        """Write the graph `cells` uint8 [N, height, width, 3] to `p_all` float32 [N], standardization inside.

        Where the network has one, `heat`, float32 [N, rows, columns], is a second output: the map behind each answer.
        Raises ConversionError where the graph is not valid or not the one promised.
        """
        with TemporaryDirectory(dir=target.parent) as folder:
            graph = _converted(self._explained, Path(folder) / "weights")
            gc.collect()  # what tf2onnx held is a ring of references
            fold_and_save(graph, Path(folder), target)


def calibrate(model: Any, temperature: float) -> None:
    """Fold sigmoid(logit / temperature) into the last layer, by dividing its weights: the graph needs nothing more."""
    last = model.get_layer(OUTPUT_NAME)
    last.set_weights([weights / temperature for weights in last.get_weights()])


def _batches(cells: NDArray[np.uint8]) -> Iterator[Any]:
    return map(tf.constant, np.split(cells, range(REFERENCE_BATCH_SIZE, len(cells), REFERENCE_BATCH_SIZE)))


def _load(file: Path) -> Any:
    try:
        with file.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise RunError(f"expected a Keras model at {file}, found none; {TO_RECOVER_BEST}") from error
    except OSError as error:
        raise RunError(f"cannot read the Keras model at {file}: {reason_of(error)}; make it readable") from error
    if not zipfile.is_zipfile(file):
        raise RunError(
            f"expected a Keras model at {file}, found a file that is cut off or something else; {TO_RECOVER_BEST}"
        )
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        foreign = FOREIGN_LAYER.search(str(error))
        if not foreign:
            raise RunError(
                f"expected a Keras model at {file}, found: {_first_line(error)}; {TO_RECOVER_BEST}"
            ) from error
        raise RunError(
            f"expected a Keras model of Keras' own layers at {file}, found the custom layer "
            f"{foreign['custom'] or foreign['code']}, which is not known here; build it of Keras' layers and fit again"
        ) from error


def _refuse_another_contract(file: Path, model: Any) -> None:
    """Raise RunError unless a model takes RGB cells and ends in one sigmoid neuron, into which calibration goes."""
    last = model.layers[-1]
    found = [tuple(node.shape) for node in model.inputs], last.name, tuple(model.output_shape)
    activation = getattr(getattr(last, "activation", None), "__name__", "none")
    is_ours = [shape[3:] for shape in found[0]] == [(3,)] and found[1:] == (OUTPUT_NAME, (None, 1))
    if not is_ours or activation != "sigmoid":
        raise RunError(
            f"expected a model of [N, height, width, 3] with a last layer named {OUTPUT_NAME} of one sigmoid neuron in "
            f"{file}, found inputs {found[0]}, the last layer {found[1]} that gives {found[2]}, activation "
            f"{activation}; give the run folder of a model that `python -m train fit` made"
        )


def _refuse_no_numbers(file: Path, model: Any) -> None:
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise RunError(f"expected finite weights in {file}, found others in {weight.path}; {FIT_AGAIN}")


def _first_line(error: Exception) -> str:
    """Return the first line of an error: in Keras' the layer's whole configuration follows."""
    return " ".join(str(error).strip().partition("\n")[0].split())


def _converted(explained: ExplainedNetwork, weights: Path) -> Any:
    """Return the graph of a network, whose weights stand in the file `weights`.

    The network is converted with its weights as inputs, which have only a shape, and these are filled in afterwards:
    while it converts, tf2onnx copies every constant again and again, which takes gigabytes and most of a minute.
    """
    model = explained.tapped
    variables = model.variables
    names = [f"weight_{index}" for index in range(len(variables))]

    def answers(cells: Any, *weights: Any) -> list[Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            if explained.side < SMALLEST_MAP:
                return [tf.reshape(model([cells], training=False)[0], [-1])]
            p_all, heat = explained(cells)
            return [tf.reshape(p_all, [-1]), heat]

    [shape] = {tuple(node.shape) for node in model.inputs}
    signature = [
        tf.TensorSpec(shape, tf.uint8, name=INPUT_NAME),
        *(tf.TensorSpec(each.shape, each.dtype, name=name) for each, name in zip(variables, names, strict=True)),
    ]
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it cannot convert is told below, in one line
    try:
        with warnings.catch_warnings(), interrupts_kept():
            warnings.simplefilter("ignore")
            graph, _ = tf2onnx.convert.from_function(
                tf.function(answers, input_signature=signature, autograph=False), signature, opset=OPSET
            )
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConversionError(f"tf2onnx cannot convert {model.name}: {_first_line(error)}") from error
    _refuse_unconverted(graph)
    _put_weights_in(graph, dict(zip(names, variables, strict=True)), weights)
    return graph


def _refuse_unconverted(model: Any) -> None:
    """Raise ConversionError where tf2onnx left a node as TensorFlow has it."""
    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            raise ConversionError(
                f"expected layers that can be written in ONNX, found the node {node.name} ({node.op_type}); change the "
                "layer, and fit again"
            )


def _put_weights_in(model: Any, name_to_variable: dict[str, Any], file: Path) -> None:
    """Turn the inputs that stand for weights into initializers whose values lie in `file`."""
    inputs: Sequence[Any] = list(model.graph.input)
    del model.graph.input[:]
    with file.open("wb") as stream:
        for node in inputs:
            if node.name == INPUT_NAME:
                model.graph.input.append(node)
                continue
            values = name_to_variable[node.name].numpy()
            weight = onnx.TensorProto(
                name=node.name,
                dims=values.shape,
                data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype),
                data_location=onnx.TensorProto.EXTERNAL,
            )
            where = {"location": file.name, "offset": stream.tell(), "length": values.nbytes}
            for key, value in where.items():
                weight.external_data.add(key=key, value=str(value))
            stream.write(values.tobytes())
            model.graph.initializer.append(weight)
