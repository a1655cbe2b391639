"""A plan on paper for an archive of any size, from what a run measured alone."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.record import Row

HOUR_S = 3600


@dataclass(frozen=True)
class Constants:
    """What a run of benchmarks.cluster measured."""

    cells_per_second: float  # of the whole machine, steady
    cpus: int  # that it used
    workers: int
    start_s: float  # of a job, whatever its size
    reading_s: float  # a CPU's time for a cell: read, hash, decode, resize
    read_bytes: float  # a cell
    written_bytes: float  # of Parquet a cell


@dataclass(frozen=True)
class Machines:
    """What an archive is to be classified on: equal machines, each CPU as fast as those measured."""

    count: int
    cpus_each: int
    price_of_cpu_hour: float | None = None  # in any currency


def plan_of(cells: int, measured: Constants, machines: Machines) -> Row:
    """Return hours, storage, network and what drives the cost, for this number of cells."""
    cpus = machines.count * machines.cpus_each
    of_a_cpu = measured.cells_per_second / measured.cpus
    work_s = cells / (of_a_cpu * cpus)
    hours = (measured.start_s + work_s) / HOUR_S
    reading = measured.reading_s * of_a_cpu
    megabits = of_a_cpu * machines.cpus_each * (measured.read_bytes + measured.written_bytes) * 8 / 1e6
    price = machines.price_of_cpu_hour
    return {
        "cells": cells,
        "cells_per_second_of_a_cpu": round(of_a_cpu, 2),
        "cells_per_second_of_a_worker": round(measured.cells_per_second / measured.workers, 2),
        "cpu_hours": round(cells / of_a_cpu / HOUR_S, 3),
        "machines": machines.count,
        "cpus_each": machines.cpus_each,
        "hours": round(hours, 3),
        "share_of_start": round(measured.start_s / HOUR_S / hours, 6),
        "read_gb": round(cells * measured.read_bytes / 1e9, 3),
        "written_gb": round(cells * measured.written_bytes / 1e9, 3),
        "network_mbit_s_of_a_machine": round(megabits, 1),
        "network_mbit_s_of_the_store": round(megabits * machines.count, 1),
        "share_of_reading": round(reading, 3),
        "share_of_inference_and_ray": round(1 - reading, 3),
        "price": "no --price-per-cpu-hour given" if price is None else round(hours * cpus * price, 2),
        "gpus": "not measured on a GPU here",
    }
