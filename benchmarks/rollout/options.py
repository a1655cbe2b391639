"""What a rollout measures, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.windows import AGREEING, WindowPlan
from runtime.classifier import DEFAULT_BATCH_SIZE


@dataclass(frozen=True)
class RolloutOptions:
    """Options of a rollout; `backend` and `precision` name what is to be deployed, as for runtime.classify."""

    bundle: Path
    out: Path
    data: Path | None = None
    run: Path | None = None  # where the Keras model lies; None: looked for near the bundle
    budget: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    backends: tuple[str, ...] = ()  # to be measured; none: all that are available
    precisions: tuple[str, ...] = ()  # to be measured; none: all that the bundle has
    batch_size: int = DEFAULT_BATCH_SIZE  # of classify
    quick: bool = False
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # of the model, and how many files come at once
    window: WindowPlan = field(default_factory=WindowPlan)
    sustained_minutes: float = 10.0
    slot_seconds: float = 5.0  # of the sustained run, for each of which there is a rate; a short run has shorter ones
    cells: int | None = None  # for parity; None: all
    scaling_batches: int = 4  # of files, for each CPU; the first are small, so that one alone is none of full size
    rounds: int = 7  # of the peers
    peer_cells: int = 256  # files in a round
    starts: int = 6  # of the process for each variant, to its first row, and as many for its peak memory
    start_cells: int = 256  # files that it classifies for its peak memory; no more warm up a sustained run
    part_runs: int = 50
    case_seconds: float | None = None  # of a part of the rollout, after which it begins no further case; None: no limit
    quiet_seconds: float = 2.0  # for which the machine is watched before anything is measured

    def as_record(self) -> dict[str, Any]:
        """Return every option as JSON has it."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def quick(options: RolloutOptions, *, is_large: bool = False) -> RolloutOptions:
    """Return options for the same measurements, shorter; what was chosen by hand is set again by the caller.

    A network that is large on this machine has fewer cells, still enough to judge its parity.
    """
    return replace(
        options,
        quick=True,
        batch_sizes=(1, 2) if is_large else (1, 16),
        window=WindowPlan(
            seconds=0.1,
            fewest_runs=2,
            fewest_windows=AGREEING,
            most_windows=4,
            longest_seconds=1.0,
            warm_up_seconds=0.05,
            warm_up_runs=1,
        ),
        sustained_minutes=0.08,
        cells=64 if is_large else 300,
        scaling_batches=1 if is_large else 4,
        rounds=3,
        peer_cells=4 if is_large else 32,
        starts=1,
        start_cells=8 if is_large else 64,
        part_runs=5 if is_large else 15,
        case_seconds=7.0,
        quiet_seconds=0.5,
    )
