"""Times whole epochs of training and says how much of them is the training step; loads keras.

A step lasts from the moment at which the network is free and its batch is there until the step's end. What is left of
an epoch is lost: waiting for batches, and what keras does before the first step and after the last. On a CPU the step
also shares its cores with the threads that make the batches; their part of all processor time has a column of its own.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from benchmarks.record import Row
from runtime.cpus import available_cpus
from train.allocator import keep_freed_memory


class ClockedBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of an epoch, as given, with the moment at which each was there."""

    def __init__(self, batches: Any) -> None:
        super().__init__(
            workers=batches.workers,
            use_multiprocessing=batches.use_multiprocessing,
            max_queue_size=batches.max_queue_size,
        )
        self.ready: dict[int, float] = {}  # batch to the time of time.perf_counter
        self.cpu_seconds: list[float] = []
        self._batches = batches

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        """Return batch `index`, in whatever thread keras asks for it."""
        started = time.thread_time()
        batch = self._batches[index]
        self.cpu_seconds.append(time.thread_time() - started)
        self.ready[index] = time.perf_counter()
        return batch


class StepClock(keras.callbacks.Callback):  # type: ignore[misc]
    """Times the steps of an epoch and the waits for their batches; keras waits for a step before it calls back."""

    def __init__(self, batches: ClockedBatches) -> None:
        super().__init__()
        self.step_seconds: list[float] = []
        self.waiting_seconds: list[float] = []
        self._batches = batches
        self._begun = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note that the network is free; set the allocator as `train fit` does."""
        keep_freed_memory()
        self._begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Divide the time since then into waiting and step."""
        waited = max(0.0, self._batches.ready[batch] - self._begun)
        self.waiting_seconds.append(waited)
        self.step_seconds.append(time.perf_counter() - self._begun - waited)


def epoch_rows(network: Any, batches: Any, rounds: int) -> list[Row]:
    """Fit one epoch to warm up, then `rounds` epochs; return their means and the share of the step in all of them.

    A mean, because what is lost may come in lumps, which a median of the epochs would not show.
    """
    epochs = [timed_epoch(network, batches) for _ in range(1 + rounds)][1:]
    mean = {name: float(np.mean([epoch[name] for epoch in epochs])) for name in epochs[0]}
    shares = [epoch["steps_s"] / epoch["epoch_s"] for epoch in epochs]
    return [
        {
            "epochs": rounds,
            "steps": len(batches),
            **{name: round(value, 4) for name, value in mean.items()},
            "step_share": round(mean["steps_s"] / mean["epoch_s"], 4),
            "lowest": round(min(shares), 4),
            "highest": round(max(shares), 4),
            "input_of_cpus": round(mean["input_cpu_s"] / mean["epoch_s"] / available_cpus(), 4),
        }
    ]


def timed_epoch(network: Any, batches: Any) -> dict[str, float]:
    """Fit one epoch; return its seconds, those of its steps, of waiting for batches and of making them."""
    clocked = ClockedBatches(batches)
    clock = StepClock(clocked)
    started = time.perf_counter()
    network.fit(clocked, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
    return {
        "epoch_s": time.perf_counter() - started,
        "steps_s": sum(clock.step_seconds),
        "waiting_s": sum(clock.waiting_seconds),
        "input_cpu_s": sum(clocked.cpu_seconds),
    }
