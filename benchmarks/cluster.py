"""python -m benchmarks.cluster: an archive on Ray beside runtime.classify, on the same files and CPUs.

Each command is a process of its own, and each round gives every one a small job and a large one. What the large one
takes more is steady work; the rest, which both have, is the start. So the start of Ray and of its workers, and what
they read ahead meanwhile, are no part of the rate. What counts are the ratios within a round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import footprint
from benchmarks.archive_plan import Constants, Machines, plan_of
from benchmarks.cells import given_or_drawn, linked_cells
from benchmarks.peak_memory import run_alone_measured, run_measured
from benchmarks.record import FAILED, OK, Row, check_record_folder, failed, write_record
from benchmarks.turns import Candidate, Turns, ratio_columns, tried_in_turns
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.command_line import (
    DONE,
    PARTLY_DONE,
    ArgumentParser,
    positive_float,
    positive_int,
    print_table,
    run_command,
)
from runtime.cpus import available_cpus
from runtime.demo import demo_cells
from runtime.errors import AllnetError, MeasurementError
from runtime.inputs import spread_over
from runtime.outcomes import nouns
from runtime.reading import CellReader

AUDIT = "classify --audit"  # whose rows are those of the cluster
PLAIN = "classify"
SMALL_JOB = 4  # how many times smaller than the large one
MOST_READ = 256  # files, to learn what reading costs
FIGURES = ("cells_per_second", "ratio", "lowest", "highest", "start_s")


@dataclass(frozen=True)
class Job:
    """A folder of cells."""

    folder: Path
    cells: int


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.cluster",
        description="Rate of runtime.classify_cluster beside runtime.classify, its driver's memory, and a plan on "
        "paper for an archive. On the CPUs that this process may use: `taskset` in front chooses them.",
        epilog="Exit codes: 0 measured; 1 refused; 2 a measurement failed.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--data", type=Path, metavar="DIR", help="images; default: drawn cells as 450x450 BMP")
    parser.add_argument("--cells", type=positive_int, default=8192, metavar="N", help="of the large job; default 8192")
    parser.add_argument("--workers", type=positive_int, nargs="+", default=[1, 2], metavar="N", help="default 1 2")
    parser.add_argument("--rounds", type=positive_int, default=3, help="after one that warms up; default 3")
    parser.add_argument(
        "--driver-images",
        type=positive_int,
        nargs="*",
        default=[1000, 10_000],
        metavar="N",
        help="small drawn cells, for the memory of the command's own process; default 1000 10000",
    )
    parser.add_argument("--plan", type=positive_int, metavar="N", help="cells of an archive to plan for")
    parser.add_argument("--machines", type=positive_int, default=1, metavar="N", help="of the plan; default 1")
    parser.add_argument("--cpus-each", type=positive_int, metavar="N", help="of the plan's machines; default: as here")
    parser.add_argument("--price-per-cpu-hour", type=positive_float, metavar="PRICE", help="in any currency")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where cluster.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    with given_or_drawn(options.data, options.cells) as files, TemporaryDirectory() as folder:
        small = linked(Path(folder) / "small", files, max(options.cells // SMALL_JOB, 1))
        large = linked(Path(folder) / "large", files, options.cells)
        turns = timed_jobs(commands_of(options.bundle, options.workers), small, large, options.rounds)
        rates = rate_rows(turns, small.cells, large.cells)
        constants = measured_constants(options.bundle, options.workers, files, rates, turns, large)
        driver = cluster_command(options.bundle, max(options.workers))
        drivers = [driver_row(driver, Path(folder), count) for count in options.driver_images]
    print_table(rates)
    print(
        f"Steady cells a second on {available_cpus()} CPUs; ratio: the rate as a share of {AUDIT}'s in the same round"
    )
    print(f"start_s: what a job takes beside; jobs of {small.cells} and {large.cells} cells, {options.rounds} rounds")
    if drivers:
        print_table(drivers)
        print("Peak memory of the command's own process, without Ray's; 2^20 bytes")
    machines = Machines(options.machines, options.cpus_each or available_cpus(), options.price_per_cpu_hour)
    plan = [{"plan": name, "value": value} for name, value in planned(options.plan, constants, machines).items()]
    if plan:
        print_table(plan)
        print("On paper: as if each CPU worked as fast as here, and the store gave files as fast as they are wanted")
    content = {"rates": rates, "drivers": drivers, "constants": constants and asdict(constants), "plan": plan}
    write_record(options.out, "cluster", options.bundle, {**content, "seconds": turns.seconds})
    return PARTLY_DONE if any(row["status"] == FAILED for row in rates + drivers) else DONE


def linked(folder: Path, files: Sequence[str], count: int) -> Job:
    """Make a job of `count` names of the files."""
    return Job(linked_cells(folder, files, count), count)


def cluster(workers: int) -> str:
    """Return the name of the cluster's rows."""
    return f"classify_cluster, {workers} {nouns(workers, 'worker')}"


def commands_of(bundle: Path, workers: Sequence[int]) -> dict[str, list[str]]:
    """Return the command lines that are compared, without input and output."""
    return {
        PLAIN: footprint.command(bundle),
        AUDIT: footprint.command(bundle, "--audit"),
        **{cluster(number): cluster_command(bundle, number) for number in workers},
    }


def cluster_command(bundle: Path, workers: int) -> list[str]:
    """Return a command line of the cluster, without input and output."""
    command = [sys.executable, "-m", "runtime.classify_cluster", "--bundle", str(bundle), "--backend", "cpu"]
    return [*command, "--workers", str(workers)]


def timed_jobs(commands: Mapping[str, list[str]], small: Job, large: Job, rounds: int) -> Turns:
    """Run each command on both jobs in turns; the names in the result are those of `turn_name`."""

    def opener(command: list[str], job: Job) -> Candidate:
        return partial(run_job, command, job)

    openers = {
        turn_name(name, job.cells): partial(opener, command, job)
        for name, command in commands.items()
        for job in (small, large)
    }
    return tried_in_turns(openers, rounds)


def turn_name(name: str, cells: int) -> str:
    """Name a command with a job."""
    return f"{name}: {cells} cells"


def run_job(command: list[str], job: Job) -> int:
    """Classify the job in a process of its own; return the bytes of Parquet that it left, if it leaves any."""
    with TemporaryDirectory() as folder:
        is_table = "runtime.classify" in command
        out = Path(folder) / ("results.csv" if is_table else "results")
        run_measured([*command, str(job.folder), "--out", str(out)], quiet=True)
        return sum(path.stat().st_size for path in out.rglob("*.parquet"))


def rate_rows(turns: Turns, small: int, large: int) -> list[Row]:
    """Sum up each command; one of which a job failed has a row that says so."""
    names = list(dict.fromkeys(name.rpartition(":")[0] for name in (*turns.seconds, *turns.failures)))
    rates: dict[str, list[float]] = {}
    rows: list[Row] = []
    for name in names:
        row: Row = {"command": name, **dict.fromkeys(FIGURES, ""), "status": OK, "reason": ""}
        try:
            rates[name] = steady_rates(turns, name, small, large)
        except AllnetError as error:
            row |= failed(error)
        rows.append(row)
    for row in rows:
        if own := rates.get(row["command"]):
            rate = float(np.median(own))
            row["cells_per_second"] = round(rate, 1)
            row["start_s"] = round(float(np.median(turns.seconds[turn_name(row["command"], large)])) - large / rate, 1)
            if AUDIT in rates:
                row |= ratio_columns(own, rates[AUDIT])
    return rows


def steady_rates(turns: Turns, name: str, small: int, large: int) -> list[float]:
    """Return the cells a second of each round, from what the large job takes more than the small one.

    Raises MeasurementError where a job failed, and where the difference is lost in the noise.
    """
    jobs = [turn_name(name, cells) for cells in (small, large)]
    for job in jobs:
        if job in turns.failures:
            raise MeasurementError(turns.failures[job])
    more = [long - short for short, long in zip(*(turns.seconds[job] for job in jobs), strict=True)]
    if min(more) <= 0:
        raise MeasurementError(
            f"expected {large} cells to take longer than {small}, found that they did not; give more"
        )
    return [(large - small) / seconds for seconds in more]


def measured_constants(
    bundle: Path, workers: Sequence[int], files: Sequence[str], rates: list[Row], turns: Turns, large: Job
) -> Constants | None:
    """Return what a plan needs, of the number of workers that was fastest; None where every one failed."""
    measured = {
        number: row for number in workers for row in rates if row["command"] == cluster(number) and row["status"] == OK
    }
    if not measured:
        return None
    fastest, row = max(measured.items(), key=lambda item: float(item[1]["cells_per_second"]))
    return Constants(
        cells_per_second=row["cells_per_second"],
        cpus=available_cpus(),
        workers=fastest,
        start_s=row["start_s"],
        reading_s=reading_seconds(bundle, spread_over(files, MOST_READ)),
        read_bytes=float(np.mean([Path(file).stat().st_size for file in files])),
        written_bytes=turns.results[turn_name(cluster(fastest), large.cells)] / large.cells,
    )


def reading_seconds(bundle: Path, files: Sequence[str]) -> float:
    """Return a CPU's time for reading a cell as the cluster's tasks do."""
    manifest = Bundle.open(bundle).manifest
    read = CellReader(manifest.image, manifest.typical, with_sha256=True)
    read(files[0])  # loads what decodes
    started = time.thread_time()
    for file in files:
        read(file)
    return (time.thread_time() - started) / len(files)


def planned(cells: int | None, constants: Constants | None, machines: Machines) -> Row:
    """Return the plan that was asked for, if one was and there is what it needs."""
    if not cells:
        return {}
    if constants is None:
        return {"status": FAILED, "reason": "no number of workers was measured"}
    return plan_of(cells, constants, machines)


def driver_row(command: list[str], folder: Path, count: int) -> Row:
    """Classify `count` small cells; return the peak memory of the command's own process."""
    row: Row = {"images": count, "peak_mb": "", "minutes": "", "status": OK, "reason": ""}
    try:
        cells = linked(folder / f"drawn-{count}", list(map(str, demo_cells())), count)
        done = run_alone_measured([*command, str(cells.folder), "--out", str(folder / f"out-{count}")])
    except AllnetError as error:
        return row | failed(error)
    return row | {"peak_mb": done.peak_mb, "minutes": round(done.seconds / 60, 2)}


if __name__ == "__main__":
    run_command(main)
