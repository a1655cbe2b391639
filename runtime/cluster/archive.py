"""One job from beginning to end: its terms, its listing, its blocks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from runtime.bundle import Bundle
from runtime.classifier import ClassifierOptions
from runtime.classifier_arguments import classifier_options
from runtime.cluster.arguments import DEFAULT_BLOCK_SIZE
from runtime.cluster.connection import connected, only_own_lines
from runtime.cluster.failures import Failures
from runtime.cluster.flow import LARGEST_BLOCK_BYTES, TRIES_OF_A_BLOCK, Steps, finished_blocks, probe_model
from runtime.cluster.job import (
    LISTING,
    Terms,
    Wanted,
    clear_abandoned,
    done_blocks,
    read_terms,
    refuse_other_terms,
    write_terms,
)
from runtime.cluster.listing import Listed, read_block, write_listing
from runtime.cluster.pool import Pool, pool_of
from runtime.cluster.result_block import Counts
from runtime.cluster.stages import ReadingStage, WritingStage
from runtime.cluster.storage import is_url
from runtime.errors import ClusterError, UsageError
from runtime.outcomes import nouns
from runtime.shift import ShiftCheck
from runtime.summary import Summary

MOST_NAMED = 5  # blocks in an error
FILES_TO_LIST_A_FOLDER = 10  # how many files' patience: a folder of a store may hold a million


class Archive:
    """A job in an output folder that this process holds."""

    def __init__(self, options: argparse.Namespace, tell: Callable[[str], None]) -> None:
        """Take what the command line says; raise UsageError where the job in the folder was begun otherwise."""
        self.summary = Summary()
        self.unopened = 0  # files that could not be opened, which the same command tries again
        self.output: Path = options.out.resolve()
        self._options = options
        self._block_size: int = options.block_size or DEFAULT_BLOCK_SIZE
        self._tell = tell
        self._bundle = Bundle.open(options.bundle)
        self.shift = ShiftCheck(self._bundle.manifest.typical.subjects)
        self._wanted = self._wanted_terms()
        self._begun = read_terms(self.output)
        if self._begun:
            refuse_other_terms(self.output, self._begun, self._wanted)

    def classify(self) -> Terms:
        """Classify what is left; return the terms. Raises ClusterError where blocks are missing at the end."""
        clear_abandoned(self.output)
        left = self._left(self._begun) if self._begun else None
        if self._begun and not left:
            self._tell("everything is classified already")
            return self._begun
        # Before Ray is started: a wrong name must not cost that.
        listed = Listed(self._begun.files, self._begun.left_out) if self._begun else self._list()
        with only_own_lines(), connected(self._options.address) as capacity:
            pool = pool_of(capacity, self._options.workers, self._options.gpus)
            asked = self._asked(pool)
            model = probe_model(asked, self._bundle.content_sha256, pool)
            self._tell(
                f"{model.description}, {pool.workers} {nouns(pool.workers, 'worker')} on {capacity.cpus:g} "
                f"{nouns(capacity.cpus, 'CPU')} and {capacity.gpus:g} {nouns(capacity.gpus, 'GPU')}; "
                f"ALL from p_all {self._wanted.threshold:g} on. For research, not a diagnosis."
            )
            terms = self._begun or self._begin(listed, model.precision)
            blocks = range(terms.blocks) if left is None else left
            self._classify_blocks(terms, blocks, replace(asked, precision=terms.precision), pool)
        return terms

    def _wanted_terms(self) -> Wanted:
        options, manifest = self._options, self._bundle.manifest
        if (most := LARGEST_BLOCK_BYTES // (manifest.image.height * manifest.image.width * 3)) < self._block_size:
            raise UsageError(f"expected a --block-size of at most {most} for this bundle, received {self._block_size}")
        names = (name if is_url(name) else os.path.abspath(name) for name in options.inputs)  # noqa: PTH100  patterns
        return Wanted(
            inputs=tuple(names),
            include=tuple(options.include),
            block_size=options.block_size,
            bundle=self._bundle.content_sha256,
            precision=None if options.precision == "auto" else options.precision,
            threshold=manifest.decision.threshold if options.threshold is None else options.threshold,
        )

    def _asked(self, pool: Pool) -> ClassifierOptions:
        """Return what the workers open: the precision that the job was begun with, if it was."""
        asked = classifier_options(self._options, audit=True)
        precision = self._begun.precision if self._begun else asked.precision
        return replace(asked, bundle=asked.bundle.resolve(), precision=precision, threads=pool.threads_each)

    def _list(self) -> Listed:
        wanted, timeout_s = self._wanted, self._options.timeout * FILES_TO_LIST_A_FOLDER
        return write_listing(self.output / LISTING, wanted.inputs, wanted.include, self._block_size, timeout_s)

    def _begin(self, listed: Listed, precision: str) -> Terms:
        wanted = self._wanted
        terms = Terms(
            inputs=wanted.inputs,
            include=wanted.include,
            block_size=self._block_size,
            files=listed.files,
            left_out=listed.left_out,
            bundle=wanted.bundle,
            model=self._bundle.served_name(precision),
            precision=precision,
            threshold=wanted.threshold,
        )
        write_terms(self.output, terms)
        return terms

    def _left(self, terms: Terms) -> list[int]:
        """Return the blocks that have no file, or one with files that could not be opened; count the others."""
        left: list[int] = []
        following = 0
        for block, counts in done_blocks(self.output, terms.blocks):
            left.extend(range(following, block))
            following = block + 1
            if counts.unopened:
                left.append(block)
            else:
                self._add(counts)
        left.extend(range(following, terms.blocks))
        self.summary.resumed = self.summary.rows
        self._tell(f"kept {self.summary.rows} of {terms.files} {nouns(terms.files, 'row')} from before")
        return left

    def _classify_blocks(self, terms: Terms, left: Sequence[int], options: ClassifierOptions, pool: Pool) -> None:
        manifest = self._bundle.manifest
        steps = Steps(
            ReadingStage(self.output / LISTING, manifest.image, manifest.typical, self._options.timeout),
            options,
            terms.bundle,
            WritingStage(self.output),
        )
        missing, failures = set(left), Failures()
        with tqdm(total=terms.files, initial=self.summary.rows, unit="cell", disable=None, leave=False) as progress:
            for block, counts in finished_blocks(left, steps, pool, failures):
                missing.discard(block)
                self._add(counts)
                progress.update(counts.outcomes.rows)
        if missing:
            raise self._failed(terms, sorted(missing), failures)

    def _failed(self, terms: Terms, failed: list[int], failures: Failures) -> ClusterError:
        named = ", ".join(map(str, failed[:MOST_NAMED])) + (", …" if len(failed) > MOST_NAMED else "")
        files = read_block(self.output / LISTING, failed[0])
        advice = (
            f"; where a worker is lost again in each of {TRIES_OF_A_BLOCK} tries, look for a file among them that "
            "kills the process reading it"
        )
        return ClusterError(
            f"expected all {terms.blocks} {nouns(terms.blocks, 'block')}, found {len(failed)} failed "
            f"({nouns(len(failed), 'block')} {named}; the first holds "
            f"{files[0].path} to {files[-1].path}): {failures}; the others are kept, the same command tries these again"
            f"{advice if failures.of_worker else ''}"
        )

    def _add(self, counts: Counts) -> None:
        self.summary.merge(counts.outcomes)
        self.shift.found.merge(counts.appearances)
        self.unopened += counts.unopened
