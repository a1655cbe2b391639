"""python -m benchmarks.kserve: load on a model behind Triton or runtime.serve, by the public Triton client.

Before the load each batch is asked for alone; under load every answer must be that of its own cells.
"""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.command_line import import_quietly

    import_quietly()

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.record import Row, check_record_folder, reason_of, write_record
from benchmarks.service import percentiles
from runtime.command_line import (
    DONE,
    REFUSED,
    ArgumentParser,
    batch_size,
    positive_float,
    positive_int,
    print_table,
    run_command,
)
from runtime.demo import DEMO_CELLS
from runtime.errors import ServerError, UsageError
from runtime.inputs import find_inputs, spread_over
from runtime.preprocessing import load_cell
from runtime.schema import ImageSpec
from runtime.served_model import ServedModel
from runtime.token_file import add_token_argument, find_token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Answered = tuple[NDArray[np.uint8], NDArray[np.float32]]  # a batch, and p_all of it alone

DIFFERENT_BATCHES = 64
MOST_CELLS = 256
# Other cells in a batch change the last digits of float32 and the third one of float16; another cell's answer lies
# further away.
SAME_P_ALL = 2e-3


@dataclass
class Load:
    """What a client met."""

    milliseconds: list[float] = field(default_factory=list)  # of each answer
    wrong: int = 0  # answers that are not those of their cells
    errors: Counter[str] = field(default_factory=Counter)


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.kserve",
        description="Send cells from many clients at once to a model of a Triton server, or of runtime.serve.",
        epilog="Exit codes: 0 measured; 1 refused, or an answer was missing or another cell's.",
    )
    parser.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8000")
    parser.add_argument("--model", required=True, metavar="NAME", help="network and precision, such as compact_fp32")
    parser.add_argument("--data", type=Path, default=DEMO_CELLS, metavar="DIR", help="images; default: drawn cells")
    parser.add_argument(
        "--clients", type=positive_int, nargs="+", default=[1, 8, 32], metavar="N", help="at once; default 1 8 32"
    )
    parser.add_argument("--batch-size", type=batch_size, default=1, metavar="N", help="cells a request; default 1")
    parser.add_argument("--seconds", type=positive_float, default=10.0, metavar="S", help="for each; default 10")
    add_token_argument(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where kserve.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    token = find_token(options.token_file)
    paths = find_inputs([str(options.data)]).paths
    with ServedModel(options.url, options.model, token) as model:
        batches = batches_of(paths, options.batch_size, model.image)
        alone = [model.infer(batch) for batch in batches]
    refuse_alike(alone)
    batches_with_answers = list(zip(batches, alone, strict=True))
    rows = []
    for clients in options.clients:
        started = time.perf_counter()

        def client(number: int, end: float = started + options.seconds) -> Load:
            with ServedModel(options.url, options.model, token) as model:  # here: it is of one thread alone
                return ask_until(model, end, rotated(batches_with_answers, number))

        with ThreadPoolExecutor(clients) as pool:
            loads = list(pool.map(client, range(clients)))
        rows.append(row_of(clients, options.batch_size, joined(loads), time.perf_counter() - started))
    print_table(rows)
    write_record(options.out, "kserve", None, {"url": options.url, "model": options.model, "rows": rows})
    return REFUSED if any(row["wrong"] or row["errors"] for row in rows) else DONE


def batches_of(paths: Sequence[str], size: int, image: ImageSpec) -> list[NDArray[np.uint8]]:
    """Return different batches, uint8 RGB [size, height, width, 3], of at most MOST_CELLS cells, which they share.

    Raises UnreadableCellError for a file that is no image.
    """
    cells = [load_cell(path, image) for path in spread_over(paths, MOST_CELLS)]
    firsts = spread_over(range(len(cells)), DIFFERENT_BATCHES)
    return [np.stack([cells[(first + place) % len(cells)] for place in range(size)]) for first in firsts]


def refuse_alike(answers: Sequence[NDArray[np.float32]]) -> None:
    """Raise UsageError where the batches' answers are all alike: the answer for other cells would pass for right."""
    if len(answers) < 2 or all(is_same(answers[0], other) for other in answers[1:]):
        raise UsageError(
            "expected cells with different answers in --data, so that a mixed-up one is noticed, found none; take "
            "other cells"
        )


def is_same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Say whether two answers can be of the same cells."""
    return bool((np.abs(one - other) <= SAME_P_ALL).all())


def rotated(items: Sequence[Answered], first: int) -> Iterator[Answered]:
    """Yield the items for ever, each client from another place on."""
    return islice(cycle(items), first % len(items), None)


def ask_until(model: ServedModel, end: float, batches: Iterable[Answered]) -> Load:
    """Send one batch after the other until the time is over; each comes with what was answered to it alone."""
    load = Load()
    for batch, expected in batches:
        started = time.perf_counter()
        if started >= end:
            break
        try:
            p_all = model.infer(batch)
        except ServerError as error:
            load.errors[reason_of(error)] += 1
            continue
        load.milliseconds.append((time.perf_counter() - started) * 1e3)
        load.wrong += not is_same(p_all, expected)
    return load


def joined(loads: Iterable[Load]) -> Load:
    """Return what all clients met together."""
    whole = Load()
    for load in loads:
        whole.milliseconds += load.milliseconds
        whole.wrong += load.wrong
        whole.errors += load.errors
    return whole


def row_of(clients: int, size: int, load: Load, seconds: float) -> Row:
    """Sum up what this many clients met; without an answer the latencies are NaN."""
    answered = len(load.milliseconds)
    return {
        "clients": clients,
        "cells_a_request": size,
        "answers": answered,
        "cells_per_second": round(answered * size / seconds, 1),
        **percentiles(load.milliseconds or [float("nan")]),
        "wrong": load.wrong,
        "errors": load.errors.total(),
        "most_frequent_error": next((text for text, _ in load.errors.most_common(1)), ""),
    }


if __name__ == "__main__":
    run_command(main)
