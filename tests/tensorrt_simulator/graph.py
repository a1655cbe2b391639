"""The ONNX file behind a simulated engine: what it takes and gives, its layers, and its computation."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.onnxruntime import EXACT_INT8

UNKNOWN_OPERATOR = "UNSUPPORTED_NODE"
UNREADABLE = "MODEL_DESERIALIZE_FAILED"
KINDS = {
    "Cast": "CAST",
    "Conv": "CONVOLUTION",
    "DequantizeLinear": "DEQUANTIZE",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE",
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Transpose"), "SHUFFLE"),
}  # by operator: a name of TensorRT's LayerType
MOVED = {"Cast": "Cast", "Transpose": "Shuffle", "Reshape": "Shuffle", "Squeeze": "Shuffle", "Flatten": "Shuffle"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph; -1 is a free dimension."""

    name: str
    datatype: str  # a name of TensorRT's DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """One layer of a network, with the datatypes of its tensors by name."""

    name: str
    kind: str  # a name of TensorRT's LayerType
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Layer:
    """One layer of an engine, with the datatypes of its tensors by name."""

    name: str
    kind: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    weights: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why the parser refuses a graph."""

    code: str
    node: str
    operator: str
    text: str


@dataclass
class Graph:
    """A graph that needs no library: it tells each batch's mean brightness."""

    content: bytes = b"a graph"
    refusals: list[Refusal] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=lambda: [Tensor("cells", "UINT8", (-1, 12, 12, 3))])
    outputs: list[Tensor] = field(default_factory=lambda: [Tensor("p_all", "FLOAT", (-1,))])
    layers: list[Layer] = field(
        default_factory=lambda: [Layer("conv", "CaskConvolution", {"x": "HALF"}, {"y": "HALF"}, "HALF")]
    )
    sources: list[Source] = field(
        default_factory=lambda: [Source("conv", "CONVOLUTION", {"x": "HALF"}, {"p_all": "FLOAT"})]
    )

    def with_outputs(self, names: list[str]) -> Graph:
        """Return the graph with these of its outputs; the real library drops the layers that none of them needs."""
        fewer = copy(self)
        fewer.outputs = [output for output in self.outputs if output.name in names]
        return fewer

    def run(self, name_to_array: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Compute the outputs."""
        return {"p_all": (name_to_array["cells"].mean(axis=(1, 2, 3)) / 255).astype(np.float32)}


def read_onnx(content: bytes) -> Graph:
    """Read an ONNX file as TensorRT's parser would, with the reasons for which it would be refused."""
    import onnx

    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf and onnx raise types of their own
        return Graph(content, [Refusal(UNREADABLE, "", "", f"Failed to parse ONNX model: {type(error).__name__}")])
    return OnnxGraph(content, onnx.shape_inference.infer_shapes(model, strict_mode=True))


def read_onnx_file(path: str) -> Graph:
    """Read the ONNX file at `path`."""
    return read_onnx(Path(path).read_bytes())


class OnnxGraph(Graph):
    """A graph that ONNX Runtime computes."""

    def __init__(self, content: bytes, model: Any) -> None:
        import onnx

        self._names = {
            onnx.TensorProto.FLOAT: "FLOAT",
            onnx.TensorProto.FLOAT16: "HALF",
            onnx.TensorProto.INT8: "INT8",
            onnx.TensorProto.UINT8: "UINT8",
        }
        graph = model.graph
        self._datatypes = {
            value.name: self._names.get(value.type.tensor_type.elem_type, "INT64")
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self._weights = {tensor.name: self._names.get(tensor.data_type, "INT64") for tensor in graph.initializer}
        # A layer that reads through DequantizeLinear reads int8: TensorRT folds the pair into it.
        self._quantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        super().__init__(
            content,
            list(self._refusals(graph)),
            [self._tensor(value) for value in graph.input],
            [self._tensor(value) for value in graph.output],
            [self._layer(node) for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")],
            [self._source(node) for node in graph.node],
        )

    def run(self, name_to_array: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Compute the outputs with ONNX Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(*EXACT_INT8)  # as a GPU adds, on any CPU
        session = onnxruntime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in self.outputs]
        return dict(zip(names, session.run(names, name_to_array), strict=True))

    def _tensor(self, value: Any) -> Tensor:
        dimensions = value.type.tensor_type.shape.dim
        return Tensor(
            value.name,
            self._names[value.type.tensor_type.elem_type],
            tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dimensions),
        )

    def _datatype(self, name: str) -> str:
        return "INT8" if name in self._quantized else self._datatypes.get(name, "")

    def _source(self, node: Any) -> Source:
        return Source(
            node.name or node.output[0],
            KINDS.get(node.op_type, "ELEMENTWISE"),
            {name: self._datatypes.get(name, "") for name in node.input if name not in self._weights},
            {name: self._datatypes.get(name, "") for name in node.output},
        )

    def _layer(self, node: Any) -> Layer:
        kinds = {"Conv": "CaskConvolution", "Gemm": "gemm", "MatMul": "gemm", **MOVED}
        weights = [self._weights[name] for name in node.input if name in self._weights]
        return Layer(
            node.name or node.output[0],
            kinds.get(node.op_type, "kgen"),
            {name: self._datatype(name) for name in node.input if name not in self._weights},
            {name: self._datatype(name) for name in node.output},
            weights[0] if weights and node.op_type in ("Conv", "Gemm", "MatMul") else "",
        )

    def _refusals(self, graph: Any) -> Any:
        uint8 = {name for name, datatype in self._datatypes.items() if datatype == "UINT8"}
        for node in graph.node:
            if node.op_type == "Det":
                yield Refusal(UNKNOWN_OPERATOR, node.name, node.op_type, "No importer registered for op: Det")
            if node.op_type != "Cast" and uint8 & set(node.input):
                yield Refusal("UNSUPPORTED_NODE_DATATYPE", node.name, node.op_type, "UINT8 is for network inputs alone")
