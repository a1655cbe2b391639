"""python -m benchmarks.service: the HTTP service beside runtime.classify on the same files.

The service runs as a process of its own, and this one is all its clients. In each round the same files are classified
and sent to the service, so that a busy machine slows both. What counts are the ratios within a round, and the
processors' time of a cell, which a busy machine changes less. The clients take theirs on the same machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from benchmarks.cells import given_or_drawn, repeated_for
from benchmarks.http_load import Exchange, exchange, multipart_request
from benchmarks.latency import refuse_without_answer
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.started_service import StartedService
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import DEFAULT_BATCH_SIZE, Classifier, ClassifierOptions
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
from runtime.results import ResultsFile

SAME_P_ALL = 2e-5  # how far p_all may lie from classify's: other cells are in the batch


class Service(StartedService):
    """python -m runtime.serve in a process of its own."""

    def __init__(self, bundle: Path, batch_size: int) -> None:
        super().__init__(["runtime.serve", "--port", "0"], bundle, batch_size, sign=" answers: ")
        self.host = self.first_line.split()[0].removeprefix("http://")
        name, _, port = self.host.rpartition(":")
        self.address = (name, int(port))
        self._usage = psutil.Process(self._process.pid)

    def memory_mb(self) -> float:
        """Return the resident memory, 2^20 bytes."""
        return round(self._usage.memory_info().rss / 2**20, 1)

    def cpu_seconds(self) -> float:
        """Return the processors' time that it took."""
        times = self._usage.cpu_times()
        return times.user + times.system


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.service",
        description="Rate and latency of runtime.serve, beside runtime.classify on the same files, on the CPU.",
        epilog="Exit codes: 0 measured; 1 refused, or an answer was missing, an error or another file's.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--data", type=Path, metavar="DIR", help="images; default: drawn cells as 450x450 BMP")
    parser.add_argument("--cells", type=positive_int, default=512, metavar="N", help="different files; default 512")
    parser.add_argument("--clients", type=positive_int, default=64, metavar="N", help="at once; default 64")
    parser.add_argument("--files", type=positive_int, default=1, metavar="N", help="in a request; default 1")
    parser.add_argument("--seconds", type=positive_float, default=60.0, metavar="S", help="of all rounds; default 60")
    parser.add_argument("--rounds", type=positive_int, default=6, help="default 6")
    parser.add_argument("--singles", type=positive_int, default=100, metavar="N", help="lone requests; default 100")
    parser.add_argument("--batch-size", type=batch_size, default=DEFAULT_BATCH_SIZE, metavar="N")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where service.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    settings = ClassifierOptions(bundle=options.bundle, backend="cpu", batch_size=options.batch_size)
    with (
        given_or_drawn(options.data, options.cells) as paths,
        Classifier(settings) as classifier,
        Service(options.bundle, options.batch_size) as service,
    ):
        rounds, exchanges, memory = rounds_of(
            classifier,
            service,
            paths,
            files=options.files,
            clients=options.clients,
            rounds=options.rounds,
            seconds=options.seconds / options.rounds,
        )
        singles = singles_of(classifier, service, islice(cycle(paths), options.singles))
        wrong = wrong_answers(exchanges, requests_of(paths, options.files), classifier)
    load = load_row(rounds, exchanges)
    print(service.first_line)
    print_table([load])
    print("cells a second; share: the service's rate as a share of classify's; cpu: milliseconds a cell")
    print_table(singles)
    print(
        f"{options.clients} clients, {options.files} files a request, {len(paths)} files; {len(exchanges)} answers, "
        f"{wrong} of them wrong; the service's memory in MB: {memory}"
    )
    content = {"service": service.first_line, "load": load, "rounds": rounds, "singles": singles, "wrong": wrong}
    write_record(options.out, "service", options.bundle, {**content, "memory_mb": memory})
    return REFUSED if wrong else DONE


def requests_of(paths: Sequence[str], files: int) -> list[list[str]]:
    """Return the files of each request."""
    return [list(islice(cycle(paths), start, start + files)) for start in range(0, len(paths), files)]


def rounds_of(
    classifier: Classifier, service: Service, paths: list[str], *, files: int, clients: int, rounds: int, seconds: float
) -> tuple[list[Row], list[Exchange], list[float]]:
    """Classify and send in turns; return each round's rates, all exchanges, and the memory before, between and after.

    A first round warms up. In each, both go on for `seconds`; a request has this many `files`.
    """
    requests = [
        multipart_request("/classify", service.host, [(path, Path(path).read_bytes()) for path in chosen])
        for chosen in requests_of(paths, files)
    ]
    rows: list[Row] = []
    exchanges: list[Exchange] = []
    memory: list[float] = []
    for turn in range(rounds + 1):
        classify_rate, classify_cpu = rate_of_classify(classifier, paths, seconds)
        started, own_cpu, its_cpu = time.perf_counter(), time.process_time(), service.cpu_seconds()
        found = exchange(service.address, requests, clients, seconds)
        elapsed = time.perf_counter() - started
        memory.append(service.memory_mb())
        if turn:
            cells = sum(one.code == HTTPStatus.OK for one in found) * files
            rows.append(
                {
                    "classify": round(classify_rate, 1),
                    "service": round(cells / elapsed, 1),
                    "share": round(cells / elapsed / classify_rate, 3),
                    "classify_cpu": round(classify_cpu * 1e3, 3),
                    "service_cpu": round((service.cpu_seconds() - its_cpu) / max(cells, 1) * 1e3, 3),
                    "clients_cpu": round((time.process_time() - own_cpu) / max(cells, 1) * 1e3, 3),
                }
            )
            exchanges += found
    return rows, exchanges, memory


def rate_of_classify(classifier: Classifier, paths: list[str], seconds: float) -> tuple[float, float]:
    """Return how many cells a second go from files to a results table, and the processors' seconds of a cell."""
    started, own_cpu, cells = time.perf_counter(), time.process_time(), 0
    with TemporaryDirectory() as folder, ResultsFile(Path(folder) / "results.csv") as results:
        for prediction in classifier.classify(repeated_for(seconds, paths)):
            refuse_without_answer(prediction)
            results.write(prediction)
            cells += 1
        return cells / (time.perf_counter() - started), (time.process_time() - own_cpu) / cells


def singles_of(classifier: Classifier, service: Service, paths: Iterable[str]) -> list[Row]:
    """Return the times of single files, classified and sent in turns, nothing else going on."""
    milliseconds: dict[str, list[float]] = {"classify one file": [], "a request of one file": []}
    for path in paths:
        started = time.perf_counter()
        list(classifier.classify([path]))
        milliseconds["classify one file"].append((time.perf_counter() - started) * 1e3)
        request = multipart_request("/classify", service.host, [(path, Path(path).read_bytes())])
        [found] = exchange(service.address, [request], 1, 0.0)
        milliseconds["a request of one file"].append(found.seconds * 1e3)
    return [{"single": name, **percentiles(values)} for name, values in milliseconds.items()]


def wrong_answers(exchanges: list[Exchange], requests: list[list[str]], classifier: Classifier) -> int:
    """Count the answers that are errors, or that are not what classify says of the very files of their request."""
    paths = list(dict.fromkeys(path for files in requests for path in files))
    p_all = {prediction.path: prediction.p_all for prediction in classifier.classify(paths)}
    return sum(not is_right(one, [(path, p_all[path]) for path in requests[one.request]]) for one in exchanges)


def is_right(one: Exchange, expected: list[tuple[str, float | None]]) -> bool:
    """Say whether an answer has these names and probabilities, in this order."""
    if one.code != HTTPStatus.OK:
        return False
    rows: list[dict[str, Any]] = json.loads(one.body)["results"]
    return len(rows) == len(expected) and all(
        row["path"] == path and is_same(row["p_all"], p) for row, (path, p) in zip(rows, expected, strict=True)
    )


def is_same(one: float | None, other: float | None) -> bool:
    """Say whether two probabilities can be of the same cell; None stands for an error."""
    if one is None or other is None:
        return one is other
    return abs(one - other) < SAME_P_ALL


def load_row(rounds: list[Row], exchanges: list[Exchange]) -> Row:
    """Sum up all rounds: rates in cells a second, latencies in milliseconds."""

    def middle(column: str) -> float:
        return round(float(np.median([row[column] for row in rounds])), 3)

    return {
        "classify": middle("classify"),
        "service": middle("service"),
        "share": middle("share"),
        "lowest": min(row["share"] for row in rounds),
        "highest": max(row["share"] for row in rounds),
        **{column: middle(column) for column in ("classify_cpu", "service_cpu", "clients_cpu")},
        **percentiles([one.seconds * 1e3 for one in exchanges]),
    }


def percentiles(milliseconds: Sequence[float]) -> Row:
    """Return the median and two high percentiles."""
    return {f"p{share}_ms": round(float(np.percentile(milliseconds, share)), 2) for share in (50, 95, 99)}


if __name__ == "__main__":
    run_command(main)
