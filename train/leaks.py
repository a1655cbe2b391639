"""What the parts of a split share that they should not: subjects, files, pictures that are nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import imagehash
import numpy as np
from PIL import Image

from runtime.outcomes import nouns
from train.dataset import in_parallel
from train.placed_cells import DUPLICATE, PARTS, PlacedCell, cells_without_subject
from train.prepared import PreparedImages

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The perceptual hash has 16 x 16 bits. On the real cells all pairs that differ in at most NEAR_BITS are pictures of
# one cell, among them whole images that the release holds twice; the nearest pair of two subjects differs in 22.
HASH_SIDE = 16
NEAR_BITS = 16
BLOCK = 512  # cells whose distances to all others are held at a time


@dataclass(frozen=True)
class NearDuplicate:
    """Two cells in two parts whose pictures are nearly the same."""

    path: str
    part: str
    other_path: str
    other_part: str
    bits: int  # of HASH_SIDE^2 in which their perceptual hashes differ


@dataclass(frozen=True)
class LeakReport:
    """What the parts of a split share."""

    shared_subjects: dict[str, tuple[str, ...]]  # two parts, such as "training and test", to the subjects in both
    subjects_sharing_files: tuple[str, ...]  # groups of subjects under whose names identical files lie
    cells_without_subject: int  # in the parts; what they share cannot be known
    shared_files: int  # identical files that were found in two places, of which one is kept
    near_duplicates: tuple[NearDuplicate, ...]

    def __str__(self) -> str:
        shared = [
            f"{len(subjects)} {nouns(len(subjects), 'subject')} in {parts}"
            for parts, subjects in self.shared_subjects.items()
        ]
        if self.cells_without_subject:
            cells = nouns(self.cells_without_subject, "cell")
            shared.append(f"the subjects of {self.cells_without_subject} {cells} are not known")
        files, pairs = nouns(self.shared_files, "file"), nouns(len(self.near_duplicates), "pair")
        return (
            f"leaks: {'; '.join(shared) or 'no subject in two parts'}; {self.shared_files} identical {files}, kept "
            f"once; {len(self.near_duplicates)} {pairs} of nearly identical pictures across parts"
        )


def leak_report(placed: Sequence[PlacedCell], images: PreparedImages) -> LeakReport:
    """Find what the parts of a split share; rotated or mirrored copies are not found."""
    in_parts = [cell for cell in placed if cell.part in PARTS]
    return LeakReport(
        shared_subjects=_shared_subjects(in_parts),
        subjects_sharing_files=tuple(sorted({cell.group for cell in placed if cell.group != cell.subject})),
        cells_without_subject=cells_without_subject(placed),
        shared_files=sum(cell.part == DUPLICATE for cell in placed),
        near_duplicates=tuple(_near_duplicates(in_parts, images)),
    )


def _shared_subjects(placed: Iterable[PlacedCell]) -> dict[str, tuple[str, ...]]:
    part_to_groups: dict[str, set[str]] = defaultdict(set)
    for cell in placed:
        if cell.group:
            part_to_groups[cell.part].add(cell.group)
    pairs = ((one, other, part_to_groups[one] & part_to_groups[other]) for one, other in combinations(PARTS, 2))
    return {f"{one} and {other}": tuple(sorted(shared)) for one, other, shared in pairs if shared}


def _near_duplicates(placed: Sequence[PlacedCell], images: PreparedImages) -> Iterable[NearDuplicate]:
    bits = perceptual_hashes(images, [cell.sha256 for cell in placed])
    parts = np.array([PARTS.index(cell.part) for cell in placed])
    for first, second, distance in near_pairs(bits):
        if parts[first] != parts[second]:
            one, other = placed[first], placed[second]
            yield NearDuplicate(one.path, one.part, other.path, other.part, distance)


def perceptual_hashes(images: PreparedImages, hashes: Sequence[str]) -> NDArray[np.float32]:
    """Return the perceptual hash of each cell as 0 and 1, float32 [N, HASH_SIDE^2]."""
    rows = images.rows(hashes)

    def bits_of(row: int) -> NDArray[np.bool_]:
        bits: NDArray[np.bool_] = imagehash.phash(Image.fromarray(images.pixels[row]), hash_size=HASH_SIDE).hash
        return bits.ravel()

    return np.stack(in_parallel(bits_of, rows, total=len(rows), title="hashing pictures")).astype(np.float32)


def near_pairs(bits: NDArray[np.float32]) -> Iterable[tuple[int, int, int]]:
    """Yield (first, second, distance) of rows that differ in at most NEAR_BITS places; bits are 0 and 1, [N, bits]."""
    ones = bits.sum(axis=1)
    for start in range(0, len(bits), BLOCK):
        block = bits[start : start + BLOCK]
        # |a xor b| = |a| + |b| - 2 |a and b|
        distance = ones[start : start + BLOCK, None] + ones[None, :] - 2 * block @ bits.T
        for row, other in np.argwhere(distance <= NEAR_BITS):
            if start + row < other:
                yield int(start + row), int(other), int(distance[row, other])
