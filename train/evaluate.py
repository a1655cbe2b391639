"""A run on one part of its cells: the five metrics with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from runtime.errors import RunError, UsageError
from runtime.schema import DEFAULT_THRESHOLD, Metrics
from train.batches import Batches
from train.dataset import find_cells
from train.metrics import measure, metrics_table
from train.prepared import PreparedImages, prepare_images
from train.run_folder import RunFolder
from train.splits import cells_of_part

if TYPE_CHECKING:
    from numpy.typing import NDArray


def evaluate(
    run: Path, data: Path, part: str, *, cache: Path | None = None, tell: Callable[[str], None] = print
) -> None:
    """Measure a run's best model on a part of its cells, found in `data` by their content.

    Raises RunError for a folder without a finished run, UsageError for a part without cells, DataError where cells
    of the part are not in `data`.
    """
    folder = RunFolder(run)
    size = folder.config().options.image_size
    with folder.claimed():
        evaluate_part(folder, prepare_images(find_cells(data), size, cache), part, tell)


def evaluate_part(folder: RunFolder, images: PreparedImages, part: str, tell: Callable[[str], None]) -> Metrics:
    """Measure the best model on a part of the prepared images; write metrics.json and print the table."""
    config = folder.config()
    cells = cells_of_part(folder.cells(), part)
    if not cells:
        raise UsageError(
            f"expected cells in the {part} part of {folder.path}, found none: it was fitted with "
            f"--fractions {' '.join(f'{share:g}' for share in config.options.fractions)}; name another --split-part"
        )
    batches = Batches(images, cells, batch_size=config.options.batch_size)
    p_all = predict(load_best(folder), batches)
    labels = np.array([cell.label == 1 for cell in cells])
    metrics = measure(labels, p_all, DEFAULT_THRESHOLD)
    folder.add_metrics(part, metrics)
    tell(metrics_table({config.options.model: metrics}))
    tell(f"{part} part, split by {config.options.split}, {metrics.interval_method}")
    return metrics


def load_best(folder: RunFolder) -> Any:
    """Load best.keras; raise RunError where there is none."""
    try:
        return keras.models.load_model(folder.best_model)
    except (OSError, ValueError) as error:
        raise RunError(
            f"expected a model at {folder.best_model}, found: {' '.join(str(error).split())}; "
            "finish the run with `python -m train fit --resume`"
        ) from error


def predict(model: Any, batches: Batches) -> NDArray[np.float32]:
    """Return p_all, float32 [N], of all cells of `batches` in their order."""
    p_all: NDArray[np.float32] = model.predict(batches, verbose=0)[:, 0]
    return p_all
