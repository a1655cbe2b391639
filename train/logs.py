"""TensorBoard's logs of a run: a copy of its history, whose failure is reported once and stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from runtime.errors import reason_of
from train.run_folder import Epoch

FILE_VERSION = "brain.Event:2"  # what TensorBoard expects a file to begin with


class EpochLogs:
    """Writes the figures of each epoch to the disk before the next epoch begins.

    tensorboardX's SummaryWriter would do so in a thread of its own, whose errors cannot be caught.
    """

    def __init__(self, folder: Path, first_epoch: int, tell: Callable[[str], None]) -> None:
        """Begin a file in `folder`; what TensorBoard knows from `first_epoch` on is of a run that was cut off."""
        self._folder = folder
        self._tell = tell
        self._events: Any = None
        with self._telling_failure():
            folder.mkdir(parents=True, exist_ok=True)
            self._events = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
            begun = Event(step=first_epoch, session_log=SessionLog(status=SessionLog.START))
            self._write([Event(file_version=FILE_VERSION), begun])

    def add(self, epoch: Epoch) -> None:
        """Write the figures of an epoch."""
        figures = {name: value for name, value in vars(epoch).items() if name not in ("epoch", "best")}
        with self._telling_failure():
            self._write([Event(step=epoch.epoch, summary=scalar(name, value)) for name, value in figures.items()])

    def close(self) -> None:
        """Write no more."""
        with suppress(OSError):  # the failure was told when it came
            if self._events:
                self._events.close()
        self._events = None

    def _write(self, events: list[Any]) -> None:
        if self._events is None:
            return
        for event in events:
            event.wall_time = time.time()
            self._events.write(event.SerializeToString())
        self._events.flush()

    @contextmanager
    def _telling_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._tell(f"TensorBoard gets no more logs: cannot write {self._folder}: {reason_of(error)}")
            self.close()
