"""fp32 ONNX to int8 ONNX: pairs of QuantizeLinear and DequantizeLinear round what tolerates it.

Weights are rounded channel by channel, symmetrically; activations tensor by tensor, in one of two forms:

- int8 rounds them symmetrically about zero point 0: the form that TensorRT takes as it is.
- int8_cpu rounds them to uint8, from 0 where a value cannot be negative. A ReLU is then part of the rounding before it,
  and ONNX Runtime computes from convolution to convolution in integers, where int8 goes through float32 at each ReLU.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from export.bias_correction import channel_means, correct_biases
from export.graph import open_for_reading, producers, put_in_order, refuse_invalid, weighted_nodes
from export.model_file import save_model
from export.onnx_session import computed
from export.sensitivity import sensitivities
from runtime.errors import ConversionError
from runtime.inputs import spread_over
from runtime.schema import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Mean difference of p_all from the fp32 graph's on the calibration cells. What is let through is then judged by the
# gate, on other cells and by sensitivity and specificity.
LARGEST_MEAN_DIFFERENCE = 0.005
SOME_CELLS = 16  # for the means of channels, and to try each layer alone
WEIGHTED = ("Conv", "Gemm", "MatMul")
PASSING_ON = ("Concat", "MaxPool")  # choose among the values they take
NEVER_ADDING_A_SIGN = (*PASSING_ON, "AveragePool", "GlobalAveragePool", "Transpose")


@dataclass(frozen=True)
class ExactAnswers:
    """What a fp32 graph makes of the cells that int8 is fitted to."""

    cells: NDArray[np.uint8]  # RGB [N, height, width, 3], of the training part
    p_all: NDArray[np.float64]  # [N]
    some: NDArray[np.uint8]  # SOME_CELLS of the cells
    means: dict[str, NDArray[np.float64]]  # on these, by layer, of each channel that it gives; in the layers' order


def exact_answers(fp32: Path, cells: NDArray[np.uint8]) -> ExactAnswers:
    """Return what a fp32 graph of a bundle makes of cells, uint8 RGB [N, height, width, 3]."""
    model = open_for_reading(fp32)
    weighted = weighted_nodes(model)
    layers = [node.name for node in model.graph.node if node.name in weighted]
    some = np.stack(spread_over(list(cells), SOME_CELLS))  # of both classes: in their order, one comes first
    return ExactAnswers(cells, _answers(model, cells), some, channel_means(model, layers, {INPUT_NAME: some}))


def write_int8(
    fp32: Path, target: Path, exact: ExactAnswers, peaks: dict[str, float], *, for_cpu: bool = False
) -> tuple[str, ...]:
    """Convert a fp32 graph of a bundle; return the names of the layers that stay in float32.

    Where rounding every layer moves the answers too far, each layer is rounded alone, and those that move them most
    stay in float32: as few as are needed.

    Args:
        fp32: ONNX file with folded batch norms.
        target: Where the int8 graph is written.
        exact: What it makes of the cells on which the answers are compared.
        peaks: By tensor its largest absolute value on them: the ranges that are divided into 255 steps.
        for_cpu: Write int8_cpu.

    Raises ConversionError where the graph is not valid, or where too few layers tolerate rounding.
    """
    rounding = _Rounding(fp32, exact, peaks, for_cpu=for_cpu)
    kept: list[str] = []
    if not rounding.is_close(kept):
        most_sensitive = rounding.most_sensitive_first()
        kept = most_sensitive[: _fewest(len(most_sensitive), lambda count: rounding.is_close(most_sensitive[:count]))]
    if len(kept) == len(rounding.layers):
        raise ConversionError(
            f"expected layers of {fp32.name} that tolerate int8, found none: each moves p_all by more than "
            f"{LARGEST_MEAN_DIFFERENCE:g} in the mean; leave int8 out of --precision"
        )
    model = rounding.rounded(set(rounding.layers) - set(kept))
    put_in_order(model)
    save_model(model, target)
    refuse_invalid(target)
    return tuple(kept)


def _fewest(most: int, is_enough: Callable[[int], bool]) -> int:
    """Return the smallest number from 1 to `most` that is enough, if `most` is and if more is always better."""
    return 1 + bisect_left(range(1, most), True, key=is_enough)


class _Rounding:
    """A fp32 graph, the ranges of its activations and its answers: what is needed to round some of its layers."""

    def __init__(self, fp32: Path, exact: ExactAnswers, peaks: dict[str, float], *, for_cpu: bool) -> None:
        self._model = open_for_reading(fp32)
        self._exact = exact
        self._for_cpu = for_cpu
        self.layers = list(exact.means)
        from_zero = _never_negative(self._model) if for_cpu else set()
        ranges = {
            tensor: TensorData(lowest=np.float32(0 if tensor in from_zero else -peak), highest=np.float32(peak))
            for tensor, peak in peaks.items()
        }
        self._ranges = TensorsData(CalibrationMethod.MinMax, ranges)

    def rounded(self, layers: Collection[str]) -> Any:
        """Return the graph with these layers in int8, and all biases corrected for what that shifts."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model = self._in_int8(model, layers)
        correct_biases(model, self._exact.means, {INPUT_NAME: self._exact.some})
        return model

    def _in_int8(self, model: Any, layers: Collection[str]) -> Any:
        """Round these layers of the graph, or of a part of it, in place; return it."""
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if self._for_cpu else QuantType.QInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[*layers, *(_between(model, layers) if self._for_cpu else ())],
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, "Relu", *PASSING_ON],
            extra_options={
                "ActivationSymmetric": not self._for_cpu,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                # A pair for each layer, even where several take one tensor: ONNX Runtime then computes each in int8.
                "DedicatedQDQPair": not self._for_cpu,
            },
        )
        with _quiet_log():
            quantizer.quantize_model()
        return quantizer.model.model

    def is_close(self, kept: Collection[str]) -> bool:
        """Say whether the answers stay near those of the fp32 graph with all layers rounded but those that are kept."""
        rounded = set(self.layers) - set(kept)
        if not rounded:
            return True
        difference = np.abs(_answers(self.rounded(rounded), self._exact.cells) - self._exact.p_all).mean()
        return bool(difference <= LARGEST_MEAN_DIFFERENCE)

    def most_sensitive_first(self) -> list[str]:
        """Return the layers by how far each, rounded alone, moves p_all of SOME_CELLS cells."""
        some = self._exact.some
        moved = sensitivities(self._model, self.layers, some, lambda part, layer: self._in_int8(part, [layer]))
        return sorted(self.layers, key=lambda layer: -moved[layer])


def _never_negative(model: Any) -> Set[str]:
    """Return the tensors behind a ReLU, as far as no operator can bring a sign."""
    found: set[str] = set()
    for node in model.graph.node:  # in the order of computation
        if node.op_type == "Relu" or (node.op_type in NEVER_ADDING_A_SIGN and found.issuperset(node.input)):
            found.update(node.output)
    return found


def _between(model: Any, layers: Collection[str]) -> list[str]:
    """Return the names of the nodes behind rounded layers that can take and give integers as well."""
    source, rounded = producers(model), set(layers)
    for node in model.graph.node:
        if node.op_type == "Relu" or node.op_type in PASSING_ON:
            before = [source[tensor] for tensor in node.input if tensor in source]
            if before and all(each.name in rounded for each in before):
                rounded.add(node.name)
    return [node.name for node in model.graph.node if node.name in rounded.difference(layers)]


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Leave out the warnings of ONNX Runtime's quantizer, which go to the root of all logs."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _answers(model: Any, cells: NDArray[np.uint8]) -> NDArray[np.float64]:
    return computed(model, [OUTPUT_NAME], {INPUT_NAME: cells})[OUTPUT_NAME].astype(np.float64)
