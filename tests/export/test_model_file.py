from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.model_file import model_bytes, save_model

MEMORY = """
from pathlib import Path
import onnx
from benchmarks.peak_memory import status_bytes
from export.graph import put_in_order
from export.model_file import save_model

def peak_mb():
    return status_bytes("self", "VmHWM") / 2**20

model = onnx.load("large.onnx")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what was before
before = peak_mb()
put_in_order(model)
save_model(model, Path("model.onnx"))
print(peak_mb() - before)
"""


def model_of(*sizes: int) -> onnx.ModelProto:
    """Return a model with a constant of each size in bytes, and something in every other kind of field."""
    constants = [onnx.numpy_helper.from_array(np.arange(size, dtype=np.uint8), f"{n}") for n, size in enumerate(sizes)]
    node = onnx.helper.make_node("Concat", [constant.name for constant in constants], ["y"], axis=0)
    graph = onnx.helper.make_graph(
        [node], "sizes", [], [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, ["N"])], constants
    )
    return onnx.helper.make_model(graph, producer_name="test", opset_imports=[onnx.helper.make_opsetid("", 17)])


@pytest.mark.parametrize("sizes", [(), (0,), (1, 100, 126), (127, 128, 129), (16_000, 16_383, 16_384, 3_000_000)])
def test_a_saved_model_is_read_as_the_same_model(sizes: tuple[int, ...], tmp_path: Path) -> None:
    model = model_of(*sizes)
    save_model(model, tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == model
    assert (tmp_path / "model.onnx").read_bytes() == model_bytes(model)


def test_a_model_is_as_large_as_protobuf_makes_it() -> None:
    model = model_of(127, 128, 20_000)
    assert len(model_bytes(model)) == model.ByteSize()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory")
def test_a_model_is_put_in_order_and_saved_without_a_copy_of_its_weights(tmp_path: Path) -> None:
    save_model(model_of(*[2**23] * 16), tmp_path / "large.onnx")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert float(done.stdout) < 64, "megabytes more, for weights of 128"
