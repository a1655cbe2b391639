"""The files of a run folder: what each is called, how it is written and read.

config.json, cells.csv, leaks.json, history.csv, best.keras, scores-<part>.csv, decision.json, metrics.json,
`resume-<epoch>.keras`, `kept-<epoch>.keras`, teacher.csv, run.lock and logs. A line of history.csv is what makes an
epoch finished: it is written last, after the state that it refers to. metrics.json is there once all epochs are, and
only where it holds the validation part is decision.json of the present best.keras: an earlier one stays for its aim.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from filelock import FileLock, Timeout

from runtime.cell_names import shell_word
from runtime.errors import RunError
from runtime.files import output_errors, write_csv_aside, write_text_aside, written_aside
from runtime.schema import Decision, Metrics, RunConfig, run_record_from_json, to_json
from train.placed_cells import CELLS_NAME, VALIDATION, PlacedCell, read_cells, write_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from train.leaks import LeakReport

CONFIG_NAME = "config.json"
LOCK_NAME = "run.lock"
TO_FINISH = "finish it with the command that began it and --resume"
# Of a run that is finished: there is no epoch left in which --resume would write it.
TO_RECOVER_BEST = "put the run's own best.keras back, or fit again with another --out"
SCORE_COLUMNS = ("sha256", "label", "group", "p_all")


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


def has_stopped_getting_better(history: Sequence[Epoch], patience: int) -> bool:
    """Say whether early stopping with a patience in epochs, 0 for none, ends a run after `history`."""
    return 0 < patience <= len(history) and not any(epoch.best for epoch in history[-patience:])


@dataclass(frozen=True)
class StoredScores:
    """What the best model says of the cells of a part."""

    hashes: list[str]  # SHA-256 of each cell
    labels: NDArray[np.bool_]  # [N], True for ALL
    groups: list[str]  # of subjects; empty where the subject is not known
    p_all: NDArray[np.float64]  # [N], before calibration


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

    def kept_model(self, epoch: int) -> Path:
        """The float32 network after `epoch` that is validated and kept, where that is not the trained one itself."""
        return self.path / f"kept-{epoch}.keras"

    @property
    def teaching(self) -> Path:
        """What the teacher says of the training cells, where there is a teacher."""
        return self.path / "teacher.csv"

    @property
    def logs(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "logs"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self._config_path.exists()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep other processes of this toolkit out of it; remove it where no run was begun.

        Raises RunError where another process has it, OutputError where it cannot be written.
        """
        was_there = self.path.exists()
        with output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK_NAME)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(
                    f"expected a run folder that no other process uses, found one at work in {self.path}; "
                    "wait for it to end, or choose another --out"
                ) from error
        try:
            self._forget_unfinished_files()
            yield
        finally:
            if not self.exists:
                self._cells_path.unlink(missing_ok=True)
                self.teaching.unlink(missing_ok=True)
            lock.release()
            if not self.exists:
                (self.path / LOCK_NAME).unlink(missing_ok=True)
                if not was_there:
                    with suppress(FileNotFoundError):  # someone else may have deleted it meanwhile
                        self.path.rmdir()

    @property
    def holds_something_else(self) -> bool:
        """Whether there is something at the path that is no run: a file, or a folder with other things in it."""
        if self.path.is_dir():
            return not self.exists and any(entry.name != LOCK_NAME for entry in self.path.iterdir())
        return self.path.exists()

    def _forget_unfinished_files(self) -> None:
        """Delete what a process that was killed while it saved a network has left."""
        for name in ("best", "resume", "kept"):
            for path in self.path.glob(f".{name}*.keras"):
                path.unlink(missing_ok=True)

    def write_config(self, config: RunConfig) -> None:
        """Write config.json."""
        write_text_aside(self._config_path, to_json(config))

    def config(self) -> RunConfig:
        """Read config.json; raise RunError where there is none."""
        return run_record_from_json(RunConfig, self._text(self._config_path), str(self._config_path))

    def write_leaks(self, leaks: LeakReport) -> None:
        """Write leaks.json."""
        write_text_aside(self.path / "leaks.json", to_json(leaks))

    def write_cells(self, placed: list[PlacedCell]) -> None:
        """Write cells.csv."""
        write_cells(self._cells_path, placed)

    def cells(self) -> list[PlacedCell]:
        """Read cells.csv."""
        return read_cells(self._cells_path)

    def write_history(self, epochs: list[Epoch]) -> None:
        """Write history.csv with all finished epochs."""
        columns = [field.name for field in fields(Epoch)]
        write_csv_aside(self.path / "history.csv", columns, map(astuple, epochs))

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

    def refuse_unfinished(self) -> None:
        """Raise RunError unless the run was trained for all its epochs, or until early stopping ended it."""
        config, history = self.config(), self.history()
        epochs = config.options.epochs
        if len(history) < epochs and not has_stopped_getting_better(history, config.recipe.early_stopping):
            raise RunError(
                f"expected a finished run, found {len(history)} of {epochs} epochs at {self.path}; {TO_FINISH}"
            )

    def refuse_unvalidated(self) -> None:
        """Raise RunError unless the validation part was measured, and each part by the present decision."""
        measured, threshold = self.metrics(), self.decision().threshold
        if VALIDATION not in measured or any(metrics.threshold != threshold for metrics in measured.values()):
            raise RunError(f"expected a finished run at {self.path}, found none that was evaluated; {TO_FINISH}")

    def write_network(self, model: Any, path: Path) -> None:
        """Save a keras.Model, with its optimizer where it has one."""
        with written_aside(path) as aside, output_errors(path):
            model.save(aside)

    def forget_states_before(self, epoch: int) -> None:
        """Delete all states that are not needed to go on after `epoch`; killed processes may have left some."""
        for earlier in range(epoch):
            for path in (self.resume_model(earlier), self.kept_model(earlier)):
                path.unlink(missing_ok=True)

    def write_scores(self, part: str, cells: Sequence[PlacedCell], p_all: NDArray[np.floating]) -> None:
        """Write scores-<part>.csv: the network's own p_all, before calibration, of each cell of a part."""
        rows = ((cell.sha256, cell.label, cell.group, repr(float(p))) for cell, p in zip(cells, p_all, strict=True))
        write_csv_aside(self._scores_path(part), SCORE_COLUMNS, rows)

    def scores(self, part: str) -> StoredScores:
        """Read scores-<part>.csv; raise RunError where that part was not evaluated."""
        path = self._scores_path(part)
        try:
            with path.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            return StoredScores(
                hashes=[row["sha256"] for row in rows],
                labels=np.array([row["label"] == "1" for row in rows]),
                groups=[row["group"] for row in rows],
                p_all=np.array([float(row["p_all"]) for row in rows]),
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"expected the scores of the {part} part at {path}, found: {error}; write them with "
                f"`python -m train evaluate --run {shell_word(self.path)} --split-part {part} --data DIR`"
            ) from error

    def write_decision(self, decision: Decision) -> None:
        """Write decision.json."""
        write_text_aside(self._decision_path, to_json(decision))

    def aim(self) -> str:
        """Return the aim of the present decision.json, "none" before there is one."""
        return self.decision().aim if self._decision_path.exists() else "none"

    def decision(self) -> Decision:
        """Read decision.json; raise RunError where the run was not finished."""
        text = self._text(self._decision_path, TO_FINISH)
        return run_record_from_json(Decision, text, str(self._decision_path))

    def add_metrics(self, part: str, metrics: Metrics) -> None:
        """Write the metrics of a part into metrics.json beside those of other parts."""
        held = self.metrics() if self._metrics_path.exists() else {}
        content = {name: asdict(values) for name, values in {**held, part: metrics}.items()}
        write_text_aside(self._metrics_path, json.dumps(content, indent=2) + "\n")

    def metrics(self) -> dict[str, Metrics]:
        """Read metrics.json: part to metrics."""
        path = self._metrics_path
        try:
            held = json.loads(self._text(path, TO_FINISH))
            return {
                part: run_record_from_json(Metrics, json.dumps(values), f"{part} of {path}")
                for part, values in held.items()
            }
        except (ValueError, AttributeError) as error:
            raise RunError(
                f"expected the metrics of a run at {path}, found: {error}; delete it and evaluate the run again"
            ) from error

    def forget_metrics(self) -> None:
        """Delete metrics.json."""
        with output_errors(self._metrics_path):
            self._metrics_path.unlink(missing_ok=True)

    @property
    def _cells_path(self) -> Path:
        return self.path / CELLS_NAME

    @property
    def _metrics_path(self) -> Path:
        return self.path / "metrics.json"

    @property
    def _decision_path(self) -> Path:
        return self.path / "decision.json"

    def _scores_path(self, part: str) -> Path:
        return self.path / f"scores-{part}.csv"

    @property
    def _config_path(self) -> Path:
        return self.path / CONFIG_NAME

    def _text(self, path: Path, hint: str = "make one with `python -m train fit`") -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(
                f"expected a run folder with {path.name} at {self.path}, found none that can be read; {hint}"
            ) from error
