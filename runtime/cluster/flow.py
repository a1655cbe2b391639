"""The steps as one Ray Data flow: blocks in, counts out, everything between streams through the object store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.classifier import ClassifierOptions
from runtime.cluster.cell_table import BLOCK, BUG, FAILURE
from runtime.cluster.failures import Failures, noted
from runtime.cluster.pool import READING_CPUS, WORKER_CPUS, WRITING_CPUS, Pool
from runtime.cluster.result_block import Counts
from runtime.cluster.stages import COUNTS, ReadingStage, ScoringStage, WritingStage, opened_classifier
from runtime.errors import ClusterError, one_line

# Workers may be lost with their machines at any time; a block is tried only so often: it may be what kills them.
TRIES_OF_A_BLOCK = 4  # as often as Ray tries a task
BLOCKS_IN_A_WAVE = 65536  # what the driver has Ray know of at a time: its memory does not grow with the archive
LONGEST_REASON = 300  # characters; Ray's errors fill pages
LARGEST_BLOCK_BYTES = 96 * 2**20  # of pixels; Ray Data would cut a table of more than 128 MiB


@dataclass(frozen=True)
class Steps:
    """What is done with a block."""

    read: ReadingStage
    options: ClassifierOptions  # of the workers
    bundle: str  # the hash that they must find
    write: WritingStage


@dataclass(frozen=True)
class Model:
    """What a worker of the cluster opened."""

    description: str
    precision: str


def probe_model(options: ClassifierOptions, bundle: str, pool: Pool) -> Model:
    """Open the bundle where a worker will, once; raise what its opening raises."""
    import ray

    def probe() -> tuple[str, str]:
        with opened_classifier(options, bundle) as classifier:
            return classifier.description, classifier.precision

    remote = ray.remote(num_cpus=WORKER_CPUS, num_gpus=pool.gpus_each, max_retries=TRIES_OF_A_BLOCK - 1)(probe)
    try:
        return Model(*ray.get(remote.remote()))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ClusterError(f"expected a worker to open the bundle, found it lost: {_reason(error)}") from error


def finished_blocks(
    blocks: Sequence[int], steps: Steps, pool: Pool, failures: Failures
) -> Iterator[tuple[int, Counts]]:
    """Yield each block when its file stands, in any order, and what it holds.

    A block whose worker was lost on every try, or whose task Ray could not run, is left out: the caller sees that it is
    missing, and `failures` says why. Raises ClusterError for what a step raised, after which nothing more is begun.
    """
    with noted(failures):
        for first in range(0, len(blocks), BLOCKS_IN_A_WAVE):
            yield from _wave(blocks[first : first + BLOCKS_IN_A_WAVE], steps, pool)


def _wave(blocks: Sequence[int], steps: Steps, pool: Pool) -> Iterator[tuple[int, Counts]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    # What the steps raise comes as rows; an errored block is one that Ray failed at.
    DataContext.get_current().max_errored_blocks = -1
    whole: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    task: dict[str, Any] = {"max_retries": TRIES_OF_A_BLOCK - 1, **whole}
    flow = ray.data.from_items([{BLOCK: block} for block in blocks], override_num_blocks=len(blocks))
    with warnings.catch_warnings():
        # Retries have no named parameter; without them Ray tries a block for ever.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        flow = flow.map_batches(steps.read, num_cpus=READING_CPUS, **task)
        flow = flow.map_batches(
            ScoringStage,
            fn_constructor_args=(steps.options, steps.bundle),
            compute=ActorPoolStrategy(size=pool.workers),
            num_cpus=WORKER_CPUS,
            num_gpus=pool.gpus_each or None,
            max_restarts=-1,
            max_task_retries=TRIES_OF_A_BLOCK - 1,
            **whole,
        )
        flow = flow.map_batches(steps.write, num_cpus=WRITING_CPUS, **task)
    try:
        for outcome in flow.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from outcomes(outcome.to_pylist())
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"the cluster was lost: {_reason(error)}; the blocks so far are kept: run the same command to continue"
        ) from error


def outcomes(rows: list[dict[str, Any]]) -> Iterator[tuple[int, Counts]]:
    """Take what the last step gave of blocks; raise ClusterError for a failure, RuntimeError for a bug."""
    for row in rows:
        if row.get(BUG):
            raise RuntimeError(f"a step failed on a machine of the cluster:\n{row[BUG]}")
        if row.get(FAILURE):
            raise ClusterError(row[FAILURE])
        yield row[BLOCK], Counts.from_json(row[COUNTS])


def _reason(error: BaseException) -> str:
    return one_line(error)[:LONGEST_REASON]
