"""Two processors stand in for two GPUs; each case needs a process of its own, since devices are set before the start."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FIT = """
import sys
from pathlib import Path

import keras

import train.fit
from runtime.schema import FitOptions, SplitOptions
from train.devices import training_devices

{setup}
options = FitOptions("compact", sys.argv[1], SplitOptions("image", (0.6, 0.4, 0.0)), 2, 6, 32, "none", 0)
train.fit.fit(options, Path(sys.argv[2]), cache=Path(sys.argv[3]))
"""
TWO_CPUS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
TAKE_ALL = """
train.fit.training_devices = keras.distribution.list_devices
"""


def run_python(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def installed(*backends: str) -> list[object]:
    """The backends as parameters; one that is not installed is skipped and says so."""
    missing = {
        name: pytest.mark.skipif(not importlib.util.find_spec(name), reason="not installed") for name in backends
    }
    return [pytest.param(name, marks=missing[name]) for name in backends]


@pytest.mark.parametrize("backend", installed("tensorflow", "jax", "torch"))
def test_compact_trains_on_every_backend(backend: str, drawn: Path, tmp_path: Path) -> None:
    said = run_python(
        FIT.format(setup=""), str(drawn), str(tmp_path / "run"), str(tmp_path / "cache"), KERAS_BACKEND=backend
    )
    assert "compact is trained on cpu:0" in said
    assert f'"backend": "{backend}"' in (tmp_path / "run" / "config.json").read_text()
    assert (tmp_path / "run" / "metrics.json").exists()
