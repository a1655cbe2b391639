"""Keras file to ONNX file; the only file that imports keras, tf2onnx and onnx."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by tf2onnx when it converts: otherwise it copies the whole graph before each of its passes, in order to hide a
# pass that fails.
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")

import keras
import numpy as np
import onnx

from runtime.errors import ConversionError, RunError
from runtime.schema import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSET = 17  # within what tf2onnx is tested with (14 to 18) and every TensorRT since 10 reads
REFERENCE_BATCH_SIZE = 8


class KerasModel:
    """A run's best.keras with its calibration: the reference that every conversion is compared with."""

    def __init__(self, file: Path, temperature: float) -> None:
        """Load the file; raise RunError where it is missing or no Keras model.

        sigmoid(logit / temperature) is folded into the last layer, by dividing its weights, so that the graph needs
        nothing more for it.
        """
        hint = "finish the run with `python -m train fit --resume`"
        if not file.is_file():
            raise RunError(f"expected a Keras model at {file}, found none; {hint}")
        try:
            self._model: Any = keras.models.load_model(file, compile=False)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(
                f"expected a Keras model at {file}, found: {' '.join(str(error).split())}; {hint}"
            ) from error
        last = self._model.get_layer(OUTPUT_NAME)
        last.set_weights([weights / temperature for weights in last.get_weights()])

    def predict(self, cells: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return p_all, float32 [N], for uint8 RGB cells [N, height, width, 3]."""
        p_all: NDArray[np.float32] = self._model.predict(cells, batch_size=REFERENCE_BATCH_SIZE, verbose=0)[:, 0]
        return p_all

    def write_onnx(self, target: Path) -> None:
        """Write the graph `cells` uint8 [N, height, width, 3] to `p_all` float32 [N], standardization inside.

        Raises ConversionError where the graph is not valid or not the one promised.
        """
        [shape] = {tuple(node.shape) for node in self._model.inputs}
        flat = keras.layers.Reshape((), name="flat")(self._model.output)
        with warnings.catch_warnings():
            # Keras asks numpy for an alias that is gone, in order to give it to tf2onnx.
            warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
            keras.Model(self._model.input, flat).export(
                target,
                format="onnx",
                verbose=False,
                opset_version=OPSET,
                input_signature=[keras.InputSpec(shape=shape, dtype="uint8", name=INPUT_NAME)],
            )
        graph = onnx.load(target)
        _name_output(graph)
        _check(graph, target)
        onnx.save(graph, target)


def _name_output(model: Any) -> None:
    """Give the graph's one output its promised name."""
    [output] = model.graph.output
    for node in model.graph.node:
        names = [OUTPUT_NAME if name == output.name else name for name in node.output]
        del node.output[:]
        node.output.extend(names)
    output.name = OUTPUT_NAME


def _check(model: Any, file: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{file.name} is no valid ONNX graph: {' '.join(str(error).split())}") from error
    unfolded = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    if unfolded:
        raise ConversionError(f"expected folded batch norms in {file.name}, found {len(unfolded)}, first {unfolded[0]}")
