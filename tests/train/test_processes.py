"""Each case needs processes of its own, which join by JAX."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import RunError, UsageError
from train.models.network import load_network
from train.processes import ADDRESS, ALONE, COUNT, LOSS, NUMBER, Process, needing_all, process_of
from train.run_folder import RunFolder

needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")

# A network that is compiled in seconds, with what several processes could see differently: batch norm and dropout.
FIT = """
import sys
from pathlib import Path

import keras

import train.fit
from runtime.command_line import DONE, PARTLY_DONE, run_command
from runtime.schema import FitOptions, Recipe, SplitOptions
from train.models.network import NETWORKS

NETWORKS["tiny"] = NETWORKS["vgg"]  # its kernel is used as it was learnt

def tiny(model, size, *_):
    cells = keras.Input((size, size, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3, strides=4, use_bias=False)(keras.layers.Rescaling(1 / 255)(cells))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(cells, keras.layers.Dense(1, activation="sigmoid", name="p_all")(x), name="tiny")

data, out, cache, epochs, seed, *resume = sys.argv[1:]
train.fit.build_network = tiny
options = FitOptions("compact", data, SplitOptions("image", (0.6, 0.4, 0.0)), int(epochs), 6, 32, "none", int(seed))
recipe = Recipe("sgd", 1e-2, "constant", turn=True, mixup=0.4)
whole = lambda: train.fit.fit(options, Path(out), recipe, resume=bool(resume), cache=Path(cache))
run_command(lambda: DONE if whole() else PARTLY_DONE)
"""


class Processes:
    """Starts processes that are ended with the test."""

    def __init__(self, data: Path, cache: Path, stack: ExitStack) -> None:
        self._data, self._cache, self._stack = data, cache, stack

    def start(self, out: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start one that fits: epochs, seed and, to resume, a word more."""
        process = subprocess.Popen(
            [sys.executable, "-c", FIT, str(self._data), str(out), str(self._cache), *arguments],
            env={**os.environ, "KERAS_BACKEND": "jax", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def start_two(self, outs: tuple[Path, Path], *arguments: str, seeds: str = "00") -> list[subprocess.Popen[str]]:
        """Start two that join."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        epochs, *more = arguments
        return [
            self.start(out, epochs, seed, *more, **{ADDRESS: address, COUNT: "2", NUMBER: str(number)})
            for number, (out, seed) in enumerate(zip(outs, seeds, strict=True))
        ]


@pytest.fixture
def processes(drawn: Path, tmp_path: Path) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(drawn, tmp_path / "cache", stack)


def wait_for(*started: subprocess.Popen[str]) -> None:
    for process in started:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]


@needs_jax
def test_two_processes_train_as_one_does_and_go_on_after_a_resume(processes: Processes, tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    alone = processes.start(one, "2", "0")
    wait_for(*processes.start_two((two, other), "1"))
    assert not other.exists()
    wait_for(alone, *processes.start_two((two, two), "2", "resume"))

    # Sums in another order differ by float32's last bits, 1.2e-7, which plain SGD does not enlarge, as Adam does where
    # a gradient is nearly 0.
    expected, found = RunFolder(one), RunFolder(two)
    assert len(found.history()) == 2
    for epoch, same in zip(found.history(), expected.history(), strict=True):
        np.testing.assert_allclose([epoch.loss, epoch.val_loss], [same.loss, same.val_loss], rtol=2e-6, atol=1e-7)
        assert (epoch.accuracy, epoch.val_accuracy) == (same.accuracy, same.val_accuracy)
    networks = [load_network(folder.resume_model(2), "") for folder in (found, expected)]
    for weights, same in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_allclose(weights, same, rtol=2e-6, atol=1e-7)


@needs_jax
def test_error_on_other_options_in_one_process(processes: Processes, tmp_path: Path) -> None:
    for process in processes.start_two((tmp_path / "run", tmp_path / "run"), "1", seeds="01"):
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 1
        assert "error: expected the same options and cells in all 2 processes" in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@needs_jax
def test_a_killed_process_ends_the_other(processes: Processes, tmp_path: Path) -> None:
    first, second = processes.start_two((tmp_path / "run", tmp_path / "run"), "100000")
    assert first.stdout
    assert any(line.startswith("epoch 1/") for line in first.stdout)
    second.kill()
    first.communicate(timeout=120)
    assert first.returncode not in (0, None)


@needs_jax
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("UNAVAILABLE: The process 1 was lost.\nmore", RunError),
        ("UNKNOWN: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]", RunError),
        ("INTERNAL: NCCL operation failed: remote process exited or there was a network error", RunError),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 400000000000000 bytes.", RuntimeError),
    ],
)
def test_a_lost_process_is_told_apart_from_what_else_xla_raises(said: str, kind: type[Exception]) -> None:
    from jax.errors import JaxRuntimeError

    with pytest.raises((RunError, JaxRuntimeError)) as caught, needing_all(2, LOSS):
        raise JaxRuntimeError(said)
    assert isinstance(caught.value, kind)
    assert said.splitlines()[0] in str(caught.value)


def test_processes_are_named_as_keras_does() -> None:
    assert process_of({}) == ALONE
    assert process_of({ADDRESS: "a:1", COUNT: "2", NUMBER: "1"}) == Process(1, 2)


@pytest.mark.parametrize(("address", "count", "number"), [("", "2", "0"), ("a:1", "2", "2"), ("a:1", "two", "0")])
def test_error_on_processes_that_do_not_fit_together(address: str, count: str, number: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT in KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        process_of({ADDRESS: address, COUNT: count, NUMBER: number})
