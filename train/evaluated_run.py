"""An evaluated run as its folder tells it: configuration, history, and the scores of its evaluated parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.schema import Decision, Metrics, RunConfig
from train.decision import calibrated, calibration_error
from train.placed_cells import PlacedCell, cells_without_subject
from train.run_folder import Epoch, RunFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PartScores:
    """The cells of a part with their calibrated probabilities."""

    hashes: list[str]  # SHA-256 of each cell
    labels: NDArray[np.bool_]  # [N], True for ALL
    p_all: NDArray[np.float64]  # [N], calibrated
    calibration_error: float
    metrics: Metrics


@dataclass(frozen=True)
class EvaluatedRun:
    """A run that was trained to its end and evaluated on its validation part at least."""

    name: str
    config: RunConfig
    protocol: str  # what the figures speak for, in a few words
    decision: Decision
    history: list[Epoch]
    parts: dict[str, PartScores]

    @property
    def best_epoch(self) -> int:
        """The epoch whose network was kept."""
        return max(epoch.epoch for epoch in self.history if epoch.best)


def protocol(config: RunConfig, cells: Sequence[PlacedCell]) -> str:
    """Say in a few words what the figures of a run on `cells` speak for."""
    kind, nameless = config.options.split.kind, cells_without_subject(cells)
    if config.unseen_subjects:
        return f"split by {kind}, no subject in several parts"
    if nameless:
        return f"split by {kind}, subjects of {nameless} cells not known"
    return f"split by {kind}, subjects in several parts"


def read_run(path: Path, name: str) -> EvaluatedRun:
    """Read a run folder; raise RunError where the run is not finished."""
    folder = RunFolder(path)
    folder.refuse_unfinished()
    folder.refuse_unvalidated()
    config, metrics, decision = folder.config(), folder.metrics(), folder.decision()
    parts = {}
    for part, of_part in metrics.items():
        scores = folder.scores(part)
        p_all = calibrated(scores.p_all, decision.temperature)
        parts[part] = PartScores(scores.hashes, scores.labels, p_all, calibration_error(scores.labels, p_all), of_part)
    return EvaluatedRun(name, config, protocol(config, folder.cells()), decision, folder.history(), parts)
