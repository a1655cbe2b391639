"""Each case needs a process of its own: backend and devices are settled before the first import."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.schema import Recipe
from train.devices import refuse_compiled_on_several

FIT = """
import sys
from pathlib import Path

import keras

import train.fit
from runtime.schema import FitOptions, Recipe, SplitOptions
from tests.small_compact import small_compact

def fit(epochs, resume):
    split = SplitOptions("image", (0.7, 0.3, 0.0))
    options = FitOptions("compact", sys.argv[1], split, epochs, 7, 32, "none", 0)  # odd batches of odd parts
    recipe = Recipe("adam", 1e-3, "constant", average=0.5)
    train.fit.fit(options, Path(sys.argv[2]), recipe, resume=resume, cache=Path(sys.argv[3]))

"""
# Two processors stand in for two GPUs.
TWO_DEVICES = {
    "tensorflow": """
import tensorflow as tf

two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
replicas = lambda network: len(network.weights[0].value.values)
""",
    "jax": "replicas = lambda network: len(network.weights[0].value.sharding.device_set)\n",
}
TAKE_ALL_AND_COUNT = """
train.fit.training_devices = lambda process: keras.distribution.list_devices()
real = train.fit._fit_epochs

def counted(run):
    real(run)
    print("replicas:", replicas(run.network))

train.fit._fit_epochs = counted
with small_compact():
    fit(2, False)
    fit(3, True)
"""


def run_python(code: str, folder: Path, drawn: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(drawn), str(folder / "run"), str(folder / "cache")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,  # a machine with much else to do
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def installed(*backends: str) -> list[object]:
    """The backends as parameters; one that is not installed is skipped and says so."""
    skip = {
        name: pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{name} is not installed")
        for name in backends
    }
    return [pytest.param(name, marks=skip[name]) for name in backends]


@pytest.mark.parametrize("backend", installed("jax", "torch"))
def test_compact_trains_on_other_backends(backend: str, drawn: Path, tmp_path: Path) -> None:
    said = run_python(FIT + "fit(2, False)", tmp_path, drawn, KERAS_BACKEND=backend)
    assert re.search(r"training compact on cpu(:0)?\n", said)
    assert "epoch 2/2" in said
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["library_versions"]["backend"] == backend


@pytest.mark.parametrize("backend", installed("tensorflow", "jax"))
def test_two_devices_train_together_and_go_on_after_a_resume(backend: str, drawn: Path, tmp_path: Path) -> None:
    said = run_python(
        FIT + TWO_DEVICES[backend] + TAKE_ALL_AND_COUNT,
        tmp_path,
        drawn,
        KERAS_BACKEND=backend,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert "training compact on cpu:0 and cpu:1\n" in said
    assert said.count("replicas: 2\n") == 2
    assert "epoch 3/3" in said


def test_a_compiled_step_is_not_shared_out_on_tensorflow() -> None:
    compiled = Recipe("adam", 1e-3, "constant", compiled=True)
    refuse_compiled_on_several(compiled, ["gpu:0"])
    with pytest.raises(UsageError, match="expected no --compiled with 2 GPUs on TensorFlow"):
        refuse_compiled_on_several(compiled, ["gpu:0", "gpu:1"])
