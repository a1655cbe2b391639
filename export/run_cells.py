"""The files of the cells that a run was fitted and validated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path

from export.fewest_cells import FEWEST_TO_CONVERT, too_few_to_prove
from export.finished_run import FinishedRun
from export.scoring import limited
from runtime.command_line import tell
from runtime.errors import DataError, UsageError, reason_of
from runtime.files import sha256_of_file
from runtime.inputs import spread_over
from train.dataset import Cell, Labelled, find_cells
from train.placed_cells import PARTS, TRAINING, VALIDATION, PlacedCell, cells_of_part, refuse_other_labels
from train.run_folder import RunFolder


def validation_cells(run: FinishedRun, data: Path | None, limit: int | None) -> list[Cell]:
    """Return the cells of the run's validation part, or `limit` of them.

    Args:
        run: A finished run.
        data: Where the cells are now; None: where they were when the run was fitted.
        limit: At most so many, evenly spread.

    Raises DataError where a cell is missing, its file is another one or is labelled otherwise than in the run, and
    where they are of one class, UsageError where `limit` leaves too few for a proof.
    """
    part, where = cells_of_part(RunFolder(run.folder).cells(), VALIDATION), f"the validation part of {run.folder}"
    placed = limited(part, limit, where)
    few = too_few_to_prove(cell.label for cell in placed)
    if few and len(placed) < len(part):
        raise UsageError(
            f"expected --cells to leave enough of {where}, received {limit}, {few}; take more, or leave --cells out"
        )
    return [_recorded(cell) for cell in placed] if data is None else _all_found(placed, find_cells(data))


def training_cells(run: FinishedRun, data: Path | None, limit: int) -> list[Cell]:
    """Return at most `limit` cells of the run's training part, of both classes, evenly spread.

    `data` may hold cells of other parts as well: they are left out, and that is told. Raises DataError where it holds
    none of the training part, one that is labelled otherwise than in the run, or too few of a class to tell from them
    how cells look.
    """
    placed = RunFolder(run.folder).cells()
    training = cells_of_part(placed, TRAINING)
    if data is None:
        _refuse_few(training, f"the training part of {run.folder}")
        return [_recorded(cell) for cell in spread_over(training, limit)]
    files = find_cells(data)
    at_hand = _found(training, files)
    others = _parts_of(placed, {file.sha256 for file in files} - {cell.sha256 for cell in at_hand})
    if not at_hand:
        raise DataError(
            f"expected cells of the run's training part in {data}, found {others}; choose the folder that the run was "
            "fitted on with --calibration-data"
        )
    _refuse_few(at_hand, f"the training part of {data}")
    if others:
        tell(f"of the cells in {data}, {others} are left out: how cells look is taken from the training part alone")
    return spread_over(at_hand, limit)


def _parts_of(placed: Sequence[PlacedCell], found: Set[str]) -> str:
    """Count the files of these hashes by the part of the run that they are of, in words; nothing where there are none.

    A duplicate is of the part of the cell that was kept in its place.
    """
    sha256_to_part = {cell.sha256: cell.part for cell in placed if cell.part in PARTS}
    parts = Counter(sha256_to_part.get(sha256, "no") for sha256 in found)
    return ", ".join(f"{count} of {part} part" for part, count in sorted(parts.items()))


def _refuse_few(cells: Sequence[Labelled], where: str) -> None:
    of_all = sum(cell.label for cell in cells)
    healthy = len(cells) - of_all
    if min(of_all, healthy) < FEWEST_TO_CONVERT:
        raise DataError(
            f"expected at least {FEWEST_TO_CONVERT} cells of each class in {where}, found {of_all} ALL and {healthy} "
            "healthy; give more of the run's training cells with --calibration-data, or fit on more"
        )


def _recorded(cell: PlacedCell) -> Cell:
    path = Path(cell.path)
    try:
        found = "" if sha256_of_file(path) == cell.sha256 else "another one"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        found = "none"
    except OSError as error:
        raise DataError(
            f"cannot read the cell of the run at {path}: {reason_of(error)}; make it readable, or say with "
            "--data where the cells lie now"
        ) from error
    if found:
        raise DataError(
            f"expected the cell of the run at {path}, found {found}; say with --data where the cells lie now"
        )
    return Cell(path, cell.label, cell.subject, cell.sha256)


def _all_found(placed: Sequence[PlacedCell], files: Sequence[Cell]) -> list[Cell]:
    cells = _found(placed, files)
    found = {cell.sha256 for cell in cells}
    missing = [cell.path for cell in placed if cell.sha256 not in found]
    if missing:
        raise DataError(
            f"expected the {len(placed)} validation cells of the run in --data, {len(missing)} are missing, such as "
            f"{missing[0]}; point --data to the folder that the run was fitted on"
        )
    return cells


def _found(placed: Sequence[PlacedCell], files: Sequence[Cell]) -> list[Cell]:
    """Return the placed cells that are among the files, with the run's labels.

    Raises DataError where a file is labelled otherwise.
    """
    refuse_other_labels(placed, files)
    sha256_to_path = {file.sha256: file.path for file in files}
    return [
        Cell(sha256_to_path[cell.sha256], cell.label, cell.subject, cell.sha256)
        for cell in placed
        if cell.sha256 in sha256_to_path
    ]
