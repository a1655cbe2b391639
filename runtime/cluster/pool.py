"""How many workers infer, and which share of a CPU each step asks of Ray; standard library only.

Ray starts work only where the CPUs it asks for are free. Actors keep theirs for the whole job, so a pool that takes
all of them leaves none to read with, and the job waits for ever. Here a worker asks for less than half a CPU and a
reading task for half of one, and there are at most as many workers as CPUs: then, however Ray spreads the workers, one
machine has room to read. Writing asks for none. The shares are what Ray counts by, not what a step may use.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UsageError
from runtime.outcomes import nouns

READING_CPUS = 0.5
WORKER_CPUS = 0.4  # not as much as reading: Ray Data joins two steps that ask for the same into one
WRITING_CPUS = 0.0
CPUS_OF_A_WORKER = 2  # where the user names no number of workers


@dataclass(frozen=True)
class Capacity:
    """What a cluster has."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Pool:
    """The workers that infer."""

    workers: int
    gpus_each: float  # share of a GPU, 0 for the CPU
    threads_each: int  # that compute on the CPU


def pool_of(capacity: Capacity, workers: int | None, gpus_each: float) -> Pool:
    """Return the workers for a cluster; None: one for each CPUS_OF_A_WORKER CPUs, or as many as the GPUs hold.

    Raises UsageError where the cluster does not hold so many: the job would wait for ever.
    """
    most = int(capacity.cpus)
    if most < 1:
        raise UsageError(f"expected a cluster with a CPU or more, found {capacity.cpus:g}; add machines to it")
    if gpus_each:
        most = min(most, _held_by_gpus(capacity.gpus, gpus_each))
        if most < 1:
            raise UsageError(
                f"expected a cluster with {gpus_each:g} GPUs for each worker, found {capacity.gpus:g} in all; "
                "omit --gpus to infer on CPUs"
            )
    if workers and workers > most:
        raise UsageError(
            f"expected at most {most} {nouns(most, 'worker')} on {capacity.cpus:g} {nouns(capacity.cpus, 'CPU')} and "
            f"{capacity.gpus:g} {nouns(capacity.gpus, 'GPU')}, received {workers}; more of them would leave "
            "nothing to read with"
        )
    count = workers or (most if gpus_each else max(1, most // CPUS_OF_A_WORKER))
    return Pool(count, gpus_each, max(1, int(capacity.cpus) // count))


def _held_by_gpus(gpus: float, each: float) -> int:
    """Return how many workers the GPUs hold; a worker of less than one GPU lies on one, and Ray gives whole ones."""
    return int(gpus) * int(1 / each + 1e-9) if each <= 1 else int(gpus // each)
