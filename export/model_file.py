"""An ONNX model as the bytes of its file, one constant at a time.

Protobuf gives a message in one piece only, and takes four times the piece's size meanwhile: for ALLNet more than a
gigabyte on top of the model. The bytes are put together here as its encoding says
(https://protobuf.dev/programming-guides/encoding/), which any reader of ONNX files takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

LENGTH_DELIMITED = 2  # the wire type of messages
GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
CONSTANT = onnx.GraphProto.INITIALIZER_FIELD_NUMBER


def save_model(model: Any, file: Path) -> None:
    """Write a model with its constants inside to a file."""
    with file.open("wb") as stream:
        stream.writelines(_pieces(model))


def model_bytes(model: Any) -> bytes:
    """Return a model with its constants inside as the bytes of its file."""
    return b"".join(_pieces(model))


def _pieces(model: Any) -> Iterator[bytes]:
    graph = _without("initializer", model.graph).SerializeToString()
    sizes = [constant.ByteSize() for constant in model.graph.initializer]  # for each of which it is put into bytes
    heads = [_head(CONSTANT, size) for size in sizes]
    yield _without("graph", model).SerializeToString()
    yield _head(GRAPH, len(graph) + sum(map(len, heads)) + sum(sizes))
    yield graph
    for head, constant in zip(heads, model.graph.initializer, strict=True):
        yield head
        yield constant.SerializeToString()


def _without(name: str, message: Any) -> Any:
    """Return a copy of a message without one of its fields, which is never copied."""
    rest = type(message)()
    for field, value in message.ListFields():
        if field.name == name:
            continue
        if hasattr(value, "extend"):  # a repeated field
            getattr(rest, field.name).extend(value)
        elif field.message_type:
            getattr(rest, field.name).CopyFrom(value)
        else:
            setattr(rest, field.name, value)
    return rest


def _head(field: int, size: int) -> bytes:
    """Return what stands before a message of `size` bytes."""
    return _varint(field << 3 | LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first, each but the last with its high bit set."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
