"""The files of a run folder: what each is called, how it is written and read.

config.json, cells.csv, history.csv, best.keras, metrics.json, `resume-<epoch>.keras` and run.lock. A line of
history.csv is what makes an epoch finished: it is written last, after the state that it refers to.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from filelock import FileLock, Timeout

from runtime.errors import RunError
from runtime.files import output_errors, write_text_aside, written_aside
from runtime.schema import Metrics, RunConfig, run_record_from_json, to_json
from train.splits import PlacedCell, read_cells, write_cells

CONFIG_NAME = "config.json"
LOCK_NAME = "run.lock"


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: a line of history.csv."""

    epoch: int  # from 1
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float  # at the end of the epoch
    seconds: float
    best: int  # 1 where best.keras was written after this epoch, else 0


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, which may still be empty."""

    path: Path

    @property
    def best_model(self) -> Path:
        """The checkpoint with the best validation accuracy."""
        return self.path / "best.keras"

    def resume_model(self, epoch: int) -> Path:
        """The network and its optimizer after `epoch`."""
        return self.path / f"resume-{epoch}.keras"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self._config_path.exists()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep other processes of this toolkit out of it; remove it where no run was begun.

        Raises RunError where another process has it, OutputError where it cannot be written.
        """
        with output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK_NAME)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(
                    f"expected a run folder that no other process uses, found one at work in {self.path}; "
                    "wait for its end, or choose another --out"
                ) from error
        try:
            yield
        finally:
            lock.release()
            if not self.exists:
                (self.path / LOCK_NAME).unlink(missing_ok=True)
                self.path.rmdir()

    def write_config(self, config: RunConfig) -> None:
        """Write config.json."""
        write_text_aside(self._config_path, to_json(config))

    def config(self) -> RunConfig:
        """Read config.json; raise RunError where there is none."""
        return run_record_from_json(RunConfig, self._text(self._config_path), str(self._config_path))

    def write_cells(self, placed: list[PlacedCell]) -> None:
        """Write cells.csv."""
        write_cells(self.path / "cells.csv", placed)

    def cells(self) -> list[PlacedCell]:
        """Read cells.csv."""
        return read_cells(self.path / "cells.csv")

    def write_history(self, epochs: list[Epoch]) -> None:
        """Write history.csv with all finished epochs."""
        path = self.path / "history.csv"
        with written_aside(path) as aside, output_errors(path), aside.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(field.name for field in fields(Epoch))
            writer.writerows(astuple(epoch) for epoch in epochs)

    def history(self) -> list[Epoch]:
        """Read the finished epochs; none where history.csv does not exist yet."""
        path = self.path / "history.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            types = get_type_hints(Epoch)
            return [Epoch(**{name: types[name](value) for name, value in row.items()}) for row in rows]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"expected the finished epochs in {path}, found: {error!r}; fit the model again") from error

    def write_state(self, model: Any, epoch: int) -> None:
        """Save a keras.Model with its optimizer as the state after `epoch`."""
        path = self.resume_model(epoch)
        with written_aside(path) as aside, output_errors(path):
            model.save(aside)

    def keep_as_best(self, epoch: int) -> None:
        """Make the state after `epoch` the best model."""
        with written_aside(self.best_model) as aside, output_errors(self.best_model):
            shutil.copyfile(self.resume_model(epoch), aside)

    def add_metrics(self, part: str, metrics: Metrics) -> None:
        """Write the metrics of a part into metrics.json beside those of other parts."""
        path = self._metrics_path
        held = json.loads(self._text(path)) if path.exists() else {}
        write_text_aside(path, json.dumps({**held, part: asdict(metrics)}, indent=2) + "\n")

    def forget_metrics(self) -> None:
        """Delete metrics.json."""
        with output_errors(self._metrics_path):
            self._metrics_path.unlink(missing_ok=True)

    @property
    def _metrics_path(self) -> Path:
        return self.path / "metrics.json"

    @property
    def _config_path(self) -> Path:
        return self.path / CONFIG_NAME

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(
                f"expected a run folder with {path.name} at {self.path}, found none that can be read; "
                "make one with `python -m train fit`"
            ) from error
