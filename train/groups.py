"""Finds which subjects are one: the release holds the same images under several subject numbers."""

from __future__ import annotations

from collections.abc import Container, Iterable

from scipy.cluster.hierarchy import DisjointSet

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
    groups = DisjointSet(sorted(subject_to_label, key=_natural))
    for first, *others in hash_to_subjects.values():
        for other in others:
            groups.merge(first, other)
    sorted_groups = [sorted(group, key=_natural) for group in groups.subsets()]
    return {subject: JOINED.join(group) for group in sorted_groups for subject in group}


def _natural(name: str) -> tuple[int, str]:
    return len(name), name  # 9 before 10
