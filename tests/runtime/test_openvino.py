"""OpenVINO computes in a process of its own: beside other libraries' threads, Ctrl-C can end its process."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.backends.select import open_model
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.errors import BackendError
from runtime.schema import SELF_TEST_TOLERANCES
from tests.overflowing_graph import P_ALL_OF_WHITE, SIZE, write_overflowing_onnx
from tests.runtime.test_classify import rows_of

needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason='pip install -e ".[openvino]"')

ASK = """
import json, sys
from pathlib import Path

import numpy as np

from runtime.backends.openvino import OpenVinoBackend
from runtime.bundle import Bundle
from runtime.errors import BackendError

bundle, model, precision = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
opened = Bundle.open(bundle)
golden = opened.golden()
try:
    with OpenVinoBackend(model, opened.manifest.image, threads=1) as backend:
        together = backend.infer(golden.cells)
        alone = np.concatenate([backend.infer(cell[None]) for cell in golden.cells])
        said = {
            "description": backend.description,
            "kind": [str(together.dtype), list(together.shape)],
            "from_exported": float(np.abs(together - golden.p_all[precision]).max()),
            "from_alone": float(np.abs(together - alone).max()),
            "gives_heat": backend.gives_heat,
        }
except BackendError as error:
    said = {"error": str(error)}
print(json.dumps(said))
"""

ASK_OF_WHITE = f"""
import sys
from pathlib import Path

from runtime.backends.openvino import OpenVinoBackend
from runtime.errors import BackendError
from runtime.schema import ImageSpec
from tests.overflowing_graph import WHITE

try:
    with OpenVinoBackend(Path(sys.argv[1]), ImageSpec({SIZE}, {SIZE})) as backend:
        print(backend.infer(WHITE)[0])
except BackendError as error:
    print(error)
"""


def asked(bundle: Path, model: Path, precision: str) -> Any:
    return json.loads(printed([sys.executable, "-c", ASK, str(bundle), str(model), precision]))


def printed(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_its_answers_are_those_of_the_export_for_any_number_of_cells(precision: str) -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    said = asked(DEFAULT_BUNDLE, bundle.path(bundle.variant(precision)), precision)
    if "expected a CPU with VNNI" in said.get("error", ""):
        pytest.skip(said["error"])
    assert said["from_exported"] < SELF_TEST_TOLERANCES[precision]
    assert said["from_alone"] < 1e-5
    assert said["kind"] == ["float32", [len(bundle.golden().cells)]]
    assert not said["gives_heat"], "the map would be computed with each answer"
    assert said["description"].startswith("OpenVINO 20")


@needs_openvino
def test_classify_answers_on_it_as_on_onnx_runtime_and_says_so(tmp_path: Path) -> None:
    tables = []
    for backend in ("openvino", "cpu"):
        out = tmp_path / f"{backend}.csv"
        command = [sys.executable, "-m", "runtime.classify", "--demo", "--backend", backend, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("compact fp32 on OpenVINO" in done.stderr) is (backend == "openvino")
        tables.append(rows_of(out))
    for ours, theirs in zip(*tables, strict=True):
        assert ours["label"] == theirs["label"]
        assert float(ours["p_all"]) == pytest.approx(float(theirs["p_all"]), abs=1e-5)


@needs_openvino
@pytest.mark.parametrize("activation", [np.uint8, np.int8])
def test_int8_sums_are_exact_or_the_cpu_is_refused(tmp_path: Path, activation: Any) -> None:
    model = write_overflowing_onnx(tmp_path / "model.onnx", activation)
    said = printed([sys.executable, "-c", ASK_OF_WHITE, str(model)])
    if said.startswith("expected a CPU with VNNI for the int8 graph "):
        assert said.endswith("take --precision fp32, or --backend cpu, which computes int8 exactly\n")
    else:
        assert float(said) == pytest.approx(P_ALL_OF_WHITE, abs=1e-5)


@needs_openvino
@pytest.mark.parametrize("damage", ["no graph", "another input"])
def test_what_is_no_graph_of_a_bundle_is_refused(tmp_path: Path, damage: str) -> None:
    bundle, model = Bundle.open(DEFAULT_BUNDLE), tmp_path / "model.onnx"
    if damage == "no graph":
        model.write_bytes(b"no graph")
    else:
        graph = onnx.load(bundle.path(bundle.variant("fp32")))
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 99
        onnx.save(graph, model)
    error = asked(DEFAULT_BUNDLE, model, "fp32")["error"]
    assert "\n" not in error
    assert error.startswith(("OpenVINO cannot load ", f"expected the graph {model} to take "))


def test_where_it_is_missing_the_error_names_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"expected OpenVINO for the backend openvino, .*; pip install openvino"):
        open_model(Bundle.open(DEFAULT_BUNDLE), "openvino", "fp32")
