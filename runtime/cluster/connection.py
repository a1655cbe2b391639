"""Starts Ray on this machine, or joins a running cluster, in bounded time and without Ray's own chatter."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from runtime.cluster.pool import Capacity
from runtime.command_line import REFUSED, STANDARD_ERROR, tell
from runtime.cpus import available_cpus
from runtime.errors import ClusterError, UsageError, reason_of

LOCAL, AUTO = "local", "auto"
ANSWER_S = 10.0  # for a cluster's port to be open
KEPT_IDLE_MS = 600_000  # how long a process that has no task is kept
START_S = 120.0  # for Ray to have started or joined; Ray itself would wait for ever
LOST_S = 30.0  # without an answer of the cluster; after 60 s Ray ends the process, and what it then prints is not shown
ASKED_EACH_S = 2.0


@contextmanager
def only_own_lines() -> Iterator[None]:
    """Show on standard error what Python writes there alone, on standard output nothing.

    Ray's C++ writes to the one, Ray's Python tells on the other of each worker that was lost, and both obey no setting.
    """
    sys.stderr.flush()
    try:
        is_usual = sys.stderr.fileno() == STANDARD_ERROR
    except (OSError, ValueError):
        is_usual = False
    if not is_usual:  # someone else takes what is written
        yield
        return
    usual, own = sys.stderr, os.dup(STANDARD_ERROR)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), STANDARD_ERROR)
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding=usual.encoding, errors="backslashreplace", closefd=False)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(own, STANDARD_ERROR)
        sys.stderr = usual
        os.close(own)


@contextmanager
def connected(address: str) -> Iterator[Capacity]:
    """Yield what the cluster has, and leave it at the end; one that was started here ends with it.

    Args:
        address: "local" starts Ray on this machine, "auto" finds the cluster that this machine belongs to, HOST:PORT
            names one.

    Raises ClusterError where the cluster does not answer.
    """
    if address not in (LOCAL, AUTO):
        _refuse_silent(address)
    _silence()
    if address == LOCAL:
        _keep_processes()
        _keep_to_this_machine()
    import ray

    settings = {"num_cpus": available_cpus(), "include_dashboard": False} if address == LOCAL else {}
    try:
        with _ended_after(
            START_S, f"expected a Ray cluster at {address}, found none that answers within {START_S:g} s"
        ):
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    except Exception as error:  # a bare one where the machine is too busy to start Ray in time
        raise ClusterError(
            f"expected a Ray cluster at {address}, found: {refusal(error)}; start one with `ray start --head`, or "
            "take --address local"
        ) from error
    try:
        _silence_data()
        found = ray.cluster_resources()
        with ended_where_lost(ray.nodes, address):
            yield Capacity(found.get("CPU", 0.0), found.get("GPU", 0.0))
    finally:
        ray.shutdown()


def _silence() -> None:
    """Set what Ray reads while it is imported: no reports to its makers, no log lines among ours."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _keep_processes() -> None:
    """Let a cluster that is started here keep the processes of tasks between two blocks.

    On a small machine Ray would end one after a second without work and start another for the next block, which costs
    about as much of a CPU as scoring some hundred cells.
    """
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(KEPT_IDLE_MS))


def _keep_to_this_machine() -> None:
    """Let a cluster that is started here listen at 127.0.0.1 alone: on Linux Ray listens to the network by default.

    The variable, which turns that on for other systems, is the one switch: Ray replaces 127.0.0.1 as the address of a
    machine by another one of it.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _silence_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Of a job with fewer blocks left than workers.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)


def _refuse_silent(address: str) -> None:
    """Raise ClusterError where nothing listens at HOST:PORT; Ray would ask again and again."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"expected --address auto, local or HOST:PORT, received {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"expected a Ray cluster at {address}, found none that answers: "
            f"{reason_of(error)}; check the address, and that `ray status` works there"
        ) from error


@contextmanager
def ended_where_lost(ask: Callable[[], object], address: str, patience_s: float = LOST_S) -> Iterator[None]:
    """End the process, with a line of ours, where `ask` has no answer of the cluster for `patience_s`.

    It waits inside Ray then, which no exception reaches and which would end it later.
    """
    line = (
        f"expected the Ray cluster at {address} to answer until the end, found it lost: no answer for "
        f"{patience_s:g} s; the blocks so far are kept: start the cluster again, then run the same command to continue"
    )
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with _ended_after(patience_s, line):
                while not _answers(ask) and not over.wait(ASKED_EACH_S):
                    pass
            over.wait(ASKED_EACH_S)

    watcher = threading.Thread(target=watch, name="cluster", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:  # of several types, as Ray finds
        return False
    return True


@contextmanager
def _ended_after(seconds: float, line: str) -> Iterator[None]:
    """End the process with an error's line where what follows takes longer: no exception reaches inside Ray."""

    def end() -> None:
        tell(f"error: {line}")
        os._exit(REFUSED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def refusal(error: BaseException) -> str:
    """Return why a cluster was not joined, such as its token: Ray says so only in a trace that its error quotes."""
    quoted = re.findall(r"^ray\.exceptions\.\w+: (.+)$", str(error.__cause__), re.MULTILINE)
    return str(quoted[-1]) if quoted else first_line(error)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of Ray says; its type where it says nothing."""
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip(" .")), type(error).__name__)
