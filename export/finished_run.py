"""Finds the run that becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import RunError
from runtime.schema import Decision, Metrics, RunConfig
from train.placed_cells import VALIDATION, cells_of_part
from train.run_folder import CONFIG_NAME, TO_FINISH, TO_RECOVER_BEST, RunFolder


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
        return RunFolder(self.folder).best_model


def find_run(folder: Path, tell: Callable[[str], None] = print) -> FinishedRun:
    """Open a run folder, or the best by validation accuracy of the finished runs in a folder of runs.

    Raises RunError where there is no finished run.
    """
    if RunFolder(folder).exists:
        return _open(folder)
    found = [config.parent for config in sorted(folder.glob(f"*/{CONFIG_NAME}"))]
    runs = []
    for run in found:
        try:
            runs.append((_open(run), _validated_on(run)))
        except RunError as error:
            if run == found[-1] and not runs:
                raise
            tell(f"left out: {error}")
    if not runs:
        raise RunError(
            f"expected a run folder, or a folder of them, at {folder}, found neither; "
            "make one with `python -m train fit`"
        )
    best, its_cells = max(runs, key=lambda run: run[0].validation.accuracy.value)
    elsewhere = [run.folder for run, cells in runs if cells != its_cells]
    if elsewhere:
        tell(
            f"{best.folder} was validated on other cells than {elsewhere[0]}, so their accuracies do not compare; name "
            "the run that is meant with --run"
        )
    return best


def _validated_on(run: Path) -> list[str]:
    """Return the SHA-256 of each cell of the validation part."""
    return [cell.sha256 for cell in cells_of_part(RunFolder(run).cells(), VALIDATION)]


def _open(path: Path) -> FinishedRun:
    folder = RunFolder(path)
    folder.refuse_unvalidated()
    best_epochs = [epoch.epoch for epoch in folder.history() if epoch.best]
    if not best_epochs:
        raise RunError(f"expected a finished run at {path}, found no best epoch in history.csv; {TO_FINISH}")
    if not folder.best_model.is_file():
        raise RunError(f"expected a finished run at {path}, found no {folder.best_model.name}; {TO_RECOVER_BEST}")
    return FinishedRun(path, folder.config(), folder.metrics()[VALIDATION], folder.decision(), max(best_epochs))
