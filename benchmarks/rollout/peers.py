"""Classify beside what one would write by hand: the same files and the same network, in turns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.peers import CLASSIFY, Workload, classify, missing_peers, openers
from benchmarks.record import FAILED, OK, Row, skipped
from benchmarks.rollout.cases import Case, opened
from benchmarks.rollout.options import RolloutOptions
from benchmarks.turns import Turns, ratio_columns, tried_in_turns


def peers(options: RolloutOptions, case: Case, paths: Sequence[str]) -> dict[str, Any]:
    """Return a row for each peer, with its time as a multiple of classify's in the same round.

    `largest_difference` is that of p_all from classify's: near 0 it is really the same network on the same pixels.
    """
    files = list(islice(cycle(paths), options.peer_cells))
    with opened(options, case) as classifier, TemporaryDirectory() as folder:
        file = classifier.bundle.path(classifier.bundle.variant(case.precision))
        workload = Workload(classifier.bundle, file, files, options.batch_size, options.run)
        missing = missing_peers(workload)
        candidates = {CLASSIFY: lambda: lambda: classify(classifier, files, Path(folder)), **openers(workload, missing)}
        turns = tried_in_turns(candidates, options.rounds)
    return {
        "case": case.name,
        "files": len(files),
        "rounds": options.rounds,
        "rows": rows_of(turns, len(files)) + [{"peer": name, **skipped(reason)} for name, reason in missing.items()],
        "seconds": {name: [round(second, 5) for second in own] for name, own in turns.seconds.items()},
    }


def rows_of(turns: Turns, files: int) -> list[Row]:
    """Sum up each candidate; without classify to compare with, all others have a rate alone."""
    baseline = turns.seconds.get(CLASSIFY)
    rows: list[Row] = []
    for name, own in turns.seconds.items():
        row: Row = {"peer": name, "cells_per_second": round(files / float(np.median(own)), 1)}
        if baseline:
            answers = [np.asarray(turns.results[key], np.float64) for key in (name, CLASSIFY)]
            row |= ratio_columns(own, baseline)
            row["largest_difference"] = round(float(np.max(np.abs(answers[0] - answers[1]))), 7)
        rows.append(row | {"status": OK})
    return rows + [{"peer": name, "status": FAILED, "reason": reason} for name, reason in turns.failures.items()]
