"""The processes, on one host or several, that train one network together on JAX.

Each is started with the same command and with the variables that Keras names for it; JAX finds the others and watches
over them. Where one does not come, or is killed, JAX ends the others after JOIN_SECONDS or HEARTBEAT_SECONDS: mostly by
itself, with a trace of its C++ code, so each says beforehand what it waits for.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

from runtime.errors import RunError, UsageError

ADDRESS = "KERAS_DISTRIBUTION_JOB_ADDRESSES"  # HOST:PORT of the first process
COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
NUMBER = "KERAS_DISTRIBUTION_PROCESS_ID"  # from 0
JOIN_SECONDS = 120
HEARTBEAT_SECONDS = 20
# How an error speaks of other processes: gRPC by the status at its beginning, Gloo and NCCL by what they say in it.
LOSS = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|.*gloo/transport/|.*remote process exited")
ANY = re.compile("")
GO_ON = "start all of them again, with --resume where an epoch was finished"


@dataclass(frozen=True)
class Process:
    """One of the processes that train together."""

    number: int  # from 0
    count: int


ALONE = Process(0, 1)


@contextmanager
def joined(tell: Callable[[str], None]) -> Iterator[Process]:
    """Yield this process when those that the environment names are all there; before anything is computed.

    Raises UsageError where the environment is contradictory or the framework is not JAX, RunError where others do not
    come, or end before this one.
    """
    process = process_of(os.environ)
    if process == ALONE:
        yield process
        return
    if keras.backend.backend() != "jax":
        raise UsageError(
            f"expected KERAS_BACKEND=jax to train in {process.count} processes, found {keras.backend.backend()}; set "
            f"it, or leave {ADDRESS} unset"
        )
    import jax

    address = os.environ[ADDRESS].split(",")[0]
    tell(f"process {process.number} of {process.count} joins the others at {address} within {JOIN_SECONDS} s")
    # JAX's preemption service would keep SIGTERM from ending the process.
    jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
    with needing_all(process.count, ANY):
        jax.distributed.initialize(
            address,
            process.count,
            process.number,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    with needing_all(process.count, LOSS):  # of what XLA raises in training, most is another matter, such as memory
        yield process
    with needing_all(process.count, ANY):
        jax.distributed.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def needing_all(count: int, said: re.Pattern[str]) -> Iterator[None]:
    """Raise RunError where JAX raises an error whose first line begins with what is `said`; others as they are."""
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not said.match(reason):
            raise
        raise RunError(f"expected all {count} processes until the end, found: {reason}; {GO_ON}") from error


def process_of(environment: Mapping[str, str]) -> Process:
    """Return which process this is; raise UsageError where the variables do not fit together."""
    given = [environment.get(name, "") for name in (ADDRESS, COUNT, NUMBER)]
    if not any(given):
        return ALONE
    if given[0] and given[1].isdecimal() and given[2].isdecimal() and int(given[2]) < int(given[1]):
        return Process(int(given[2]), int(given[1]))
    raise UsageError(
        f"expected HOST:PORT in {ADDRESS}, {COUNT} and {NUMBER} from 0 to below it, found "
        f"{', '.join(map(repr, given))}; set all three in each process, or none"
    )


def refuse_differences(process: Process, **meant: object) -> None:
    """Raise UsageError, in all processes, unless each has the same value by its `repr` under each of the names."""
    if process == ALONE:
        return
    from jax.experimental.multihost_utils import process_allgather

    own = np.array([list(hashlib.sha256(repr(value).encode()).digest()) for value in meant.values()], np.uint8)
    differing = (process_allgather(own) != own).any(axis=(0, 2))
    names = [name.replace("_", " ") for name, differs in zip(meant, differing, strict=True) if differs]
    if names:
        raise UsageError(
            f"expected the same {' and '.join(names)} in all {process.count} processes, found others; give each the "
            "same command"
        )
