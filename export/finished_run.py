"""Reads what `train` left in a run folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import RunError
from runtime.schema import Decision, Metrics, RunConfig, run_record_from_json

CONFIG = "config.json"
BEST = "best.keras"


@dataclass(frozen=True)
class FinishedRun:
    """A run with a best model that was measured on its validation part."""

    folder: Path
    config: RunConfig
    validation: Metrics
    decision: Decision
    best_epoch: int

    @property
    def keras_file(self) -> Path:
        """The checkpoint with the best validation accuracy."""
        return self.folder / BEST


def find_run(folder: Path, tell: Callable[[str], None] = print) -> FinishedRun:
    """Open a run folder, or the best by validation accuracy of the finished runs in a folder of runs.

    Raises RunError where there is no finished run.
    """
    if (folder / CONFIG).exists():
        return _open(folder)
    found = [config.parent for config in sorted(folder.glob(f"*/{CONFIG}"))]
    runs = []
    for run in found:
        try:
            runs.append(_open(run))
        except RunError as error:
            if run == found[-1] and not runs:
                raise
            tell(f"left out: {error}")
    if not runs:
        raise RunError(
            f"expected a run folder, or a folder of them, at {folder}, found neither; "
            "make one with `python -m train fit`"
        )
    return max(runs, key=lambda run: run.validation.accuracy.value)


def _open(folder: Path) -> FinishedRun:
    try:
        config = run_record_from_json(RunConfig, _text(folder / CONFIG), f"{folder / CONFIG}")
        metrics = json.loads(_text(folder / "metrics.json"))["validation"]
        decision = run_record_from_json(Decision, _text(folder / "decision.json"), f"{folder / 'decision.json'}")
        with (folder / "history.csv").open(newline="") as stream:
            best_epochs = [int(row["epoch"]) for row in csv.DictReader(stream) if row["best"] == "1"]
        if not best_epochs:
            raise ValueError(f"no best epoch in {folder / 'history.csv'}")
        (folder / BEST).stat()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"expected a finished run at {folder}, found: {error}; finish it with `python -m train fit --resume`"
        ) from error
    validation = run_record_from_json(Metrics, json.dumps(metrics), f"{folder / 'metrics.json'}")
    return FinishedRun(folder, config, validation, decision, max(best_epochs))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
