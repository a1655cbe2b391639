"""Finds which subjects are one: the release holds the same images under several subject numbers."""

from __future__ import annotations

from collections.abc import Container, Iterable

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from runtime.errors import DataError
from train.dataset import Cell

JOINED = "="


def groups_of_subjects(cells: Iterable[Cell], unreadable: Container[str]) -> dict[str, str]:
    """Map each known subject to its group: the subjects that share identical files, directly or through others.

    Files without a picture, whose SHA-256 are `unreadable`, join none: many may be empty, or cut off alike. A group is
    named by its subjects, such as "20=21". Raises DataError where a subject has cells of both classes.
    """
    subject_to_label: dict[str, int] = {}
    hash_to_subjects: dict[str, list[str]] = {}
    for cell in cells:
        if not cell.subject:
            continue
        if subject_to_label.setdefault(cell.subject, cell.label) != cell.label:
            raise DataError(
                f"expected one label for each subject, found cells of both classes under {cell.subject} "
                f"(such as {cell.path}); correct the label, or give the two kinds of cells two subject names"
            )
        if cell.sha256 not in unreadable:
            hash_to_subjects.setdefault(cell.sha256, []).append(cell.subject)
    return _joined(sorted(subject_to_label, key=lambda name: (len(name), name)), hash_to_subjects.values())


def _joined(subjects: list[str], together: Iterable[list[str]]) -> dict[str, str]:
    number = {subject: index for index, subject in enumerate(subjects)}
    pairs = [(number[first], number[other]) for first, *others in together for other in others]
    rows, columns = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    links = coo_array(([1] * len(pairs), (rows, columns)), shape=(len(subjects), len(subjects)))
    component_of = connected_components(links, directed=False)[1]
    members: dict[int, list[str]] = {}
    for subject, component in zip(subjects, component_of, strict=True):
        members.setdefault(int(component), []).append(subject)
    return {subject: JOINED.join(names) for names in members.values() for subject in names}
