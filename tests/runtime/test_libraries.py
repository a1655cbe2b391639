"""What the packages import is declared, missing it ends a command in a line that helps, and it keeps to itself."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from runtime.command_line import MODULE_TO_REQUIREMENT

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "export", "runtime", "train")
BASE = {"PIL", "numpy", "tqdm"}
WITH_LINES_OF_THEIR_OWN = {"cuda", "openvino", "pynvml", "tensorrt", "watchdog"}
FOR_TYPES_ALONE = {"typing_extensions"}
UNDECLARED = {"torch"}  # a backend of Keras, where it is installed


def imported_libraries(*folders: str) -> set[str]:
    """Return the top modules of others that the sources import, also inside functions."""
    modules: set[str] = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules.update(name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
    own = {*sys.stdlib_module_names, *PACKAGES, "tests", "tomllib"}  # the last is of 3.11, imported on no older one
    return {module.partition(".")[0] for module in modules} - own


def declared_distributions() -> set[str]:
    tomllib: Any = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonical(re.split(r"[^\w.-]", line)[0]) for line in lines}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_library_that_is_imported_is_declared() -> None:
    declared, brought_by = declared_distributions(), packages_distributions()
    undeclared = {
        library
        for library in imported_libraries(*PACKAGES, "tests") - UNDECLARED - FOR_TYPES_ALONE
        if library in brought_by and not declared & {canonical(name) for name in brought_by[library]}
    }
    assert not undeclared


def test_each_library_that_may_be_missing_has_a_line_that_says_what_installs_it() -> None:
    needed = imported_libraries(*PACKAGES) - BASE - WITH_LINES_OF_THEIR_OWN - FOR_TYPES_ALONE
    assert needed <= MODULE_TO_REQUIREMENT.keys()


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is no place of libraries there")
@pytest.mark.parametrize(
    "program",
    [
        "import runtime.classifier, onnxruntime",
        "import export.__main__, onnxruntime",
        "import benchmarks.footprint, onnxruntime",
        "from runtime.backends.openvino import import_openvino; import_openvino()",
    ],
)
def test_no_library_keeps_a_number_of_the_machine_under_which_it_would_report(program: str, tmp_path: Path) -> None:
    if "openvino" in program and not find_spec("openvino"):
        pytest.skip("OpenVINO is not installed (the extra `openvino`)")
    kept_out = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={**environment, "HOME": str(tmp_path)}, check=True)
    assert not [*tmp_path.rglob("*")]
