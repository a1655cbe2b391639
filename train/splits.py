"""Puts each cell into one part: training, validation or test.

Whatever the split, an unreadable file is in no part, of identical files one is kept, and a separate test part is left
whole: what would leak into it is left out of the other parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import DataError, UsageError
from runtime.schema import SplitOptions
from train.dataset import Cell, refuse_one_class
from train.groups import groups_of_subjects
from train.placed_cells import (
    CELLS_NAME,
    DUPLICATE,
    LEFT_OUT,
    PARTS,
    TEST,
    TRAINING,
    UNREADABLE,
    VALIDATION,
    PlacedCell,
    cells_of_part,
    read_cells,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEALS = 200  # random orders of the groups, of which the one that meets the shares best is taken


def split_cells(
    cells: Sequence[Cell], test_cells: Sequence[Cell], unreadable: Iterable[str], options: SplitOptions, seed: int
) -> list[PlacedCell]:
    """Put each cell into a part.

    - "image": at random, each class on its own, so that all parts have the same share of ALL. This is the paper's
      protocol: cells of one subject stand in several parts, so its figures say nothing about unseen subjects.
    - "subject": whole groups of subjects, again each class on its own; or the named subjects into validation.
    - "folds": one of the release's own folders is the validation part.
    - "fixed": as in the cells.csv of another run.

    Args:
        cells: All cells that were found.
        test_cells: Cells of a separate test part.
        unreadable: SHA-256 of the files from which no picture could be read.
        options: How to split.
        seed: Makes the split repeatable; the order of `cells` does not matter, only their content.

    Raises UsageError or DataError where the options do not fit the cells, or where a part would lack a class.
    """
    refuse_unfit_split(options)
    unreadable = frozenset(unreadable)
    subject_to_group = groups_of_subjects([*cells, *test_cells], unreadable)
    left_out: list[Cell] = []
    if options.kind == "subject":
        tested = {subject_to_group[cell.subject] for cell in test_cells if cell.subject}
        left_out = [cell for cell in cells if subject_to_group.get(cell.subject) in tested]
    settled = {cell.sha256: LEFT_OUT for cell in left_out}
    settled |= {cell.sha256: TEST for cell in test_cells}
    settled |= dict.fromkeys(unreadable, UNREADABLE)
    free = [cell for cell in cells if cell.sha256 not in settled]
    with _telling_of({cell.subject for cell in left_out}):
        sha256_to_part = {**_dealt(free, subject_to_group, options, seed), **settled}
        # The cells of a separate test part come first, so that of identical files theirs is kept.
        placed = [_place(cell, subject_to_group, sha256_to_part) for cell in (*test_cells, *cells)]
        _refuse_missing_classes(placed, has_test=bool(test_cells) or _deals_a_test_part(options))
    return _keep_first_of_identical(placed)


def _dealt(
    cells: Sequence[Cell], subject_to_group: Mapping[str, str], options: SplitOptions, seed: int
) -> dict[str, str]:
    if options.kind == "image":
        return _by_image(cells, _shares(options), seed)
    if options.kind == "subject":
        return _by_subject(cells, subject_to_group, options, seed)
    if options.kind == "folds":
        return _by_fold(cells, options.validation_fold)
    return _as_before(cells, Path(options.source))


@contextmanager
def _telling_of(left_out: Collection[str]) -> Iterator[None]:
    """Add to an error of too few cells that subjects were left out, which may be its cause."""
    try:
        yield
    except DataError as error:
        if not left_out:
            raise
        raise DataError(
            f"{error}; {len(left_out)} subjects (such as {min(left_out)}) are left out, since they are in --test-data"
        ) from error


def refuse_unfit_split(options: SplitOptions) -> None:
    """Raise UsageError for options that contradict each other."""
    if options.kind in ("image", "subject") and not options.validation_subjects:
        refuse_unfit_fractions(options.fractions)
    needed = {
        "--validation-subjects": ("subject", bool(options.validation_subjects), False),
        "--validation-fold": ("folds", bool(options.validation_fold), True),
        "--split-of": ("fixed", bool(options.source), True),
    }
    for option, (kind, is_given, is_needed) in needed.items():
        if is_given and options.kind != kind:
            raise UsageError(f"expected --split {kind} with {option}, received --split {options.kind}")
        if is_needed and not is_given and options.kind == kind:
            raise UsageError(f"expected {option} with --split {kind}, received none; add it")


def refuse_unfit_fractions(fractions: Sequence[float]) -> None:
    """Raise UsageError unless there are three shares that sum to 1, the first two of them above 0."""
    training, validation, test = fractions
    if not (training > 0 and validation > 0 and test >= 0 and abs(sum(fractions) - 1) < 1e-6):
        raise UsageError(
            "expected three shares for training, validation and test that sum to 1, the first two above 0, "
            f"received {' '.join(f'{share:g}' for share in fractions)}; for example 0.6 0.2 0.2"
        )


def _shares(options: SplitOptions) -> tuple[float, ...]:
    """Return the shares of the parts; a separate test part leaves its share to the other two."""
    training, validation, test = options.fractions
    if not options.test_data:
        return options.fractions
    return (training / (1 - test), validation / (1 - test), 0.0)


def _by_image(cells: Sequence[Cell], shares: Sequence[float], seed: int) -> dict[str, str]:
    sha256_to_part: dict[str, str] = {}
    for label in (0, 1):
        hashes = sorted({cell.sha256 for cell in cells if cell.label == label})
        shuffled = np.random.default_rng([seed, label]).permutation(np.array(hashes, dtype=object))
        ends = np.rint(np.cumsum(shares) * len(hashes)).astype(int)
        for part, start, end in zip(PARTS, [0, *ends[:-1]], ends, strict=True):
            sha256_to_part |= {str(sha256): part for sha256 in shuffled[start:end]}
    return sha256_to_part


def _by_subject(
    cells: Sequence[Cell], subject_to_group: Mapping[str, str], options: SplitOptions, seed: int
) -> dict[str, str]:
    nameless = [cell for cell in cells if not cell.subject]
    if nameless:
        raise DataError(
            f"expected the subject of each cell for a split by subject, found none for {len(nameless)} cells "
            f"(such as {nameless[0].path}); give a .csv table with the column subject, or use --split image"
        )
    if options.validation_subjects:
        group_to_part = _named_groups(subject_to_group, options.validation_subjects)
    else:
        group_to_part = _dealt_groups(cells, subject_to_group, _shares(options), seed)
    return {cell.sha256: group_to_part[subject_to_group[cell.subject]] for cell in cells}


def _named_groups(subject_to_group: Mapping[str, str], subjects: Sequence[str]) -> dict[str, str]:
    unknown = [subject for subject in subjects if subject.upper() not in subject_to_group]
    if unknown:
        raise UsageError(
            f"expected --validation-subjects out of {' '.join(subject_to_group)}, received {' '.join(unknown)}"
        )
    chosen = {subject_to_group[subject.upper()] for subject in subjects}
    return {group: VALIDATION if group in chosen else TRAINING for group in subject_to_group.values()}


def _dealt_groups(
    cells: Sequence[Cell], subject_to_group: Mapping[str, str], shares: Sequence[float], seed: int
) -> dict[str, str]:
    """Deal the groups of each class so that the parts' numbers of cells come near their shares."""
    group_to_part: dict[str, str] = {}
    for label, name in enumerate(("healthy", "ALL")):
        hashes = {cell.sha256: subject_to_group[cell.subject] for cell in cells if cell.label == label}
        groups, sizes = np.unique(list(hashes.values()), return_counts=True)
        parts = np.flatnonzero(np.array(shares) > 0)
        if len(groups) < len(parts):
            raise DataError(
                f"expected at least {len(parts)} {name} subjects, one for each part, found {len(groups)} "
                f"({', '.join(groups)}); add cells of others, or lower the number of parts with --fractions"
            )
        targets = np.array(shares)[parts] * sizes.sum()
        rng = np.random.default_rng([seed, label])
        deals = [_one_deal(sizes[order], targets)[np.argsort(order)] for order in _orders(rng, len(groups))]
        best = min(deals, key=lambda deal: _unevenness(deal, sizes, targets))
        group_to_part |= {str(group): PARTS[parts[place]] for group, place in zip(groups, best, strict=True)}
    return group_to_part


def _orders(rng: np.random.Generator, length: int) -> list[NDArray[np.intp]]:
    return [rng.permutation(length) for _ in range(DEALS)]


def _one_deal(sizes: NDArray[np.intp], targets: NDArray[np.float64]) -> NDArray[np.intp]:
    """Give each group in turn to the part that it fills to the smallest share; leave no part empty."""
    held = np.zeros(len(targets))
    places = np.empty(len(sizes), dtype=np.intp)
    for index, size in enumerate(sizes):
        fill = (held + size) / targets
        if len(sizes) - index <= np.sum(held == 0):  # as many groups are left as there are empty parts
            fill[held > 0] = np.inf
        places[index] = np.argmin(fill)
        held[places[index]] += size
    return places


def _unevenness(places: NDArray[np.intp], sizes: NDArray[np.intp], targets: NDArray[np.float64]) -> float:
    """Return how far the parts lie from their shares, in cells."""
    held = np.bincount(places, weights=sizes, minlength=len(targets))
    return float(np.abs(held - targets).sum())


def _by_fold(cells: Sequence[Cell], fold: str) -> dict[str, str]:
    in_fold = {cell.sha256 for cell in cells if fold.lower() in {name.lower() for name in cell.path.parent.parts}}
    if not in_fold:
        raise UsageError(f"expected cells in a folder named {fold} for --validation-fold, found none; check the name")
    return {cell.sha256: VALIDATION if cell.sha256 in in_fold else TRAINING for cell in cells}


def _as_before(cells: Sequence[Cell], run: Path) -> dict[str, str]:
    before = {cell.sha256: cell.part for cell in read_cells(run / CELLS_NAME) if cell.part in (*PARTS, LEFT_OUT)}
    unknown = [cell for cell in cells if cell.sha256 not in before]
    if unknown:
        raise DataError(
            f"expected only cells that {run / CELLS_NAME} places, found {len(unknown)} others "
            f"(such as {unknown[0].path}); point --data to the cells of that run"
        )
    return {cell.sha256: before[cell.sha256] for cell in cells}


def _deals_a_test_part(options: SplitOptions) -> bool:
    return options.kind in ("image", "subject") and not options.validation_subjects and _shares(options)[2] > 0


def _refuse_missing_classes(placed: Sequence[PlacedCell], *, has_test: bool) -> None:
    for part in PARTS if has_test else (TRAINING, VALIDATION):
        refuse_one_class((cell for cell in placed if cell.part == part), f"the {part} part")


def _place(cell: Cell, subject_to_group: Mapping[str, str], sha256_to_part: Mapping[str, str]) -> PlacedCell:
    group = subject_to_group.get(cell.subject, "")
    return PlacedCell(str(cell.path), cell.label, cell.subject, group, sha256_to_part[cell.sha256], cell.sha256)


def _keep_first_of_identical(placed: list[PlacedCell]) -> list[PlacedCell]:
    seen: set[str] = set()
    kept = []
    for cell in placed:
        is_copy = cell.sha256 in seen and cell.part != UNREADABLE
        kept.append(replace(cell, part=DUPLICATE) if is_copy else cell)
        seen.add(cell.sha256)
    return kept


def refuse_too_few(placed: Sequence[PlacedCell], batch_size: int) -> None:
    """Raise DataError where the training part does not fill one batch."""
    size = len(cells_of_part(placed, TRAINING))
    if size < batch_size:
        raise DataError(
            f"expected at least one batch of {batch_size} cells in the training part, found {size}; "
            "add cells or lower --batch-size"
        )
