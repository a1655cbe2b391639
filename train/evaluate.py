"""A run on one part of its cells: the five metrics with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from runtime.cell_names import shell_word
from runtime.errors import DataError, UsageError
from runtime.schema import Decision
from train.batches import Batches
from train.dataset import Cell, find_cells
from train.decision import calibrated, decide, refuse_unknown_aim
from train.evaluated_run import protocol
from train.metrics import measure, metrics_table
from train.models.network import ending_in_logit, load_network
from train.placed_cells import TEST, VALIDATION, cells_of_part, refuse_other_labels
from train.prepared import PreparedImages, prepare_images
from train.run_folder import TO_RECOVER_BEST, RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray


def evaluate(
    run: Path,
    data: Path,
    part: str,
    *,
    aim: str | None = None,
    cache: Path | None = None,
    tell: Callable[[str], None] = print,
) -> bool:
    """Measure a run's best model on a part of its cells, found in `data` by their content.

    With an `aim` the threshold is chosen anew, on the validation part. Returns as `evaluate_part` does.

    Raises RunError for a folder without a finished run, or, for another part than the validation part, one whose
    threshold is of an earlier network; UsageError for a part without cells, an unknown `aim` or one out of reach,
    DataError where cells of the part are not in `data`, or are labelled otherwise there.
    """
    folder = RunFolder(run)
    folder.refuse_unfinished()
    if part != VALIDATION:
        folder.refuse_unvalidated()
    size = folder.config().options.image_size
    if aim is not None:
        refuse_unknown_aim(aim)
        if part != VALIDATION:
            raise UsageError(
                f"expected --split-part {VALIDATION} with --aim, received {part}: a threshold that is chosen on the "
                "cells it is judged by flatters the network; choose it first, then evaluate the test part"
            )
    found = find_cells(data)
    _refuse_other_cells(folder, part, data, found)
    with folder.claimed():
        return evaluate_part(folder, prepare_images(found, size, cache), part, tell, aim=aim)


def _refuse_other_cells(folder: RunFolder, part: str, data: Path, found: Sequence[Cell]) -> None:
    """Raise DataError where cells of a part are not among those found in `data`, or are labelled otherwise there."""
    hashes, options = {cell.sha256 for cell in found}, folder.config().options
    cells = cells_of_part(folder.cells(), part)
    missing = [cell for cell in cells if cell.sha256 not in hashes]
    if missing:
        source = (options.split.test_data if part == TEST else "") or options.data
        raise DataError(
            f"expected all {len(cells)} cells of the {part} part in {data}, {len(missing)} are missing (such as "
            f"{Path(missing[0].path).name}); point --data to {source}, where the run took them from"
        )
    refuse_other_labels(cells, found)


def evaluate_part(
    folder: RunFolder, images: PreparedImages, part: str, tell: Callable[[str], None], aim: str | None = None
) -> bool:
    """Measure the best model on a part of the prepared images; write scores and metrics, and print the table.

    On the validation part this also chooses temperature, threshold and review band, for `aim` or as before. Returns
    whether they keep the aim from before: where the network no longer reaches it, they are chosen without one.
    """
    config = folder.config()
    cells = cells_of_part(folder.cells(), part)
    if not cells:
        raise UsageError(
            f"expected cells in the {part} part of {folder.path}, found none; name another --split-part, or fit with "
            "other --fractions or with --test-data"
        )
    network = load_network(folder.best_model, TO_RECOVER_BEST)
    p_all = unrounded(network, Batches(images, cells, batch_size=config.options.batch_size))
    folder.write_scores(part, cells, p_all)
    if part != VALIDATION:
        _measure(folder, part, tell)
        return True
    labels, given_up = np.array([cell.label == 1 for cell in cells]), ""
    try:
        decision = decide(labels, p_all, folder.aim() if aim is None else aim)
    except UsageError as error:
        if aim is not None:
            raise
        decision, given_up = decide(labels, p_all), str(error)
    folder.write_decision(decision)
    _measure(folder, part, tell)
    tell(_describe(decision))
    _measure_again(folder, tell)
    if given_up:
        tell(
            f"the run's own aim is given up, and its threshold is {decision.threshold:g} until `python -m train "
            f"evaluate --run {shell_word(folder.path)} --data DIR --aim AIM` chooses another: {given_up}"
        )
    return not given_up


def _measure(folder: RunFolder, part: str, tell: Callable[[str], None]) -> None:
    """Measure the scores of a part by the present decision; write the metrics and print their table."""
    config, decision, scores = folder.config(), folder.decision(), folder.scores(part)
    metrics = measure(
        scores.labels,
        calibrated(scores.p_all, decision.temperature),
        decision.threshold,
        scores.groups if config.unseen_subjects else None,
    )
    folder.add_metrics(part, metrics)
    tell(metrics_table({config.options.model: metrics}))
    tell(f"{part} part, {protocol(config, folder.cells())}; {metrics.interval_method}")


def _measure_again(folder: RunFolder, tell: Callable[[str], None]) -> None:
    """Measure the parts whose metrics are of another threshold than that of the present decision."""
    for part, metrics in folder.metrics().items():
        if metrics.threshold != folder.decision().threshold:
            tell(f"the {part} part was measured at the threshold {metrics.threshold:.4g}; with the new decision:")
            _measure(folder, part, tell)


def _describe(decision: Decision) -> str:
    return (
        f"threshold {decision.threshold:.4g} (aim: {decision.aim}), temperature {decision.temperature:.3f}, "
        f"calibration error {decision.calibration_error_before:.3f} before and {decision.calibration_error_after:.3f} "
        f"after, for review by a person: p_all {decision.review_low:.3f} to {decision.review_high:.3f}"
    )


def unrounded(network: Any, batches: Batches) -> NDArray[np.float64]:
    """Return p_all, float64 [N], of all cells of `batches` in their order, from float32 logits."""
    p_all: NDArray[np.float64] = expit(predict(ending_in_logit(network), batches).astype(np.float64))
    return p_all


def predict(model: Any, batches: Batches) -> NDArray[np.float32]:
    """Return what a network of one output, float32 [N], says of all cells of `batches` in their order."""
    with batches.telling_errors():
        answers: NDArray[np.float32] = model.predict(batches, verbose=0)[: len(batches.labels), 0]
    return answers
