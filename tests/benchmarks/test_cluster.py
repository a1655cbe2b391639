"""That the cluster's rates, memory and plan are what was measured; no process of Ray is started here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cluster, peak_memory
from benchmarks.archive_plan import Constants, Machines, plan_of
from benchmarks.peak_memory import Finished, run_alone_measured
from benchmarks.record import FAILED, OK
from benchmarks.turns import Turns
from runtime.command_line import PARTLY_DONE
from runtime.errors import MeasurementError

CLUSTER = cluster.cluster(1)


def test_the_rate_is_that_of_the_cells_which_the_large_job_has_more() -> None:
    measured = {
        f"{cluster.AUDIT}: 100 cells": [2.0, 2.0, 2.0],
        f"{cluster.AUDIT}: 400 cells": [5.0, 5.0, 5.0],  # 100 a second after a start of 1 s
        f"{CLUSTER}: 100 cells": [12.0, 12.0, 12.0],
        f"{CLUSTER}: 400 cells": [16.0, 17.0, 15.0],  # 75, 60 and 100 a second
    }
    classify, rays = cluster.rate_rows(Turns(measured), 100, 400)
    assert (classify["cells_per_second"], classify["ratio"], classify["start_s"]) == (100, 1, 1)
    assert (rays["cells_per_second"], rays["start_s"]) == (75, 10.7)
    assert (rays["ratio"], rays["lowest"], rays["highest"]) == (0.75, 0.6, 1)


def test_a_job_that_failed_or_cannot_be_told_from_its_start_is_a_row_that_says_so() -> None:
    measured = {f"{cluster.AUDIT}: {cells} cells": [3.0] for cells in (100, 400)}
    measured[f"{CLUSTER}: 100 cells"] = [3.0]
    failures = {f"{CLUSTER}: 400 cells": "a worker was lost"}
    classify, rays = cluster.rate_rows(Turns(measured, failures=failures), 100, 400)
    assert (rays["status"], rays["reason"], rays["cells_per_second"]) == (FAILED, "a worker was lost", "")
    assert classify["status"] == FAILED
    assert classify["reason"] == "expected 400 cells to take longer than 100, found that they did not; give more"


def test_a_plan_is_arithmetic_on_what_was_measured() -> None:
    measured = Constants(
        cells_per_second=200, cpus=2, workers=1, start_s=36, reading_s=0.004, read_bytes=50_000, written_bytes=200
    )
    plan = plan_of(3_600_000, measured, Machines(count=5, cpus_each=2, price_of_cpu_hour=0.5))
    assert (plan["cells_per_second_of_a_cpu"], plan["cells_per_second_of_a_worker"]) == (100, 200)
    assert plan["cpu_hours"] == 10
    assert plan["hours"] == 1.01  # ten CPUs, and 36 s
    assert plan["share_of_start"] == pytest.approx(0.01 / 1.01, abs=1e-6)
    assert (plan["read_gb"], plan["written_gb"]) == (180, 0.72)
    assert plan["network_mbit_s_of_a_machine"] == 80.3  # 200 cells a second of 50,200 bytes
    assert plan["network_mbit_s_of_the_store"] == 401.6
    assert (plan["share_of_reading"], plan["share_of_inference_and_ray"]) == (0.4, 0.6)
    assert plan["price"] == 5.05
    unpriced = plan_of(3_600_000, measured, Machines(count=5, cpus_each=2))
    assert unpriced["price"] == "no --price-per-cpu-hour given"


def test_all_is_measured_on_the_same_cells_and_what_failed_does_not_end_it(
    cell_file: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cell_file("cells/a.bmp")
    monkeypatch.chdir(tmp_path)
    given: list[int] = []

    def run(command: list[str], *, quiet: bool) -> Finished:
        given.append(sum(path.exists() for path in Path(command[-3]).iterdir()))
        if "--workers" in command:
            raise MeasurementError("no Ray here")
        return Finished(0.0, 0.0)

    monkeypatch.setattr(cluster, "run_measured", run)
    monkeypatch.setattr(cluster, "run_alone_measured", lambda _: Finished(60.0, 123.4))
    command = ["--cells", "40", "--rounds", "1", "--driver-images", "5", "--plan", "1000", "--data", "cells"]
    assert cluster.main([*command, "--out", str(tmp_path)]) == PARTLY_DONE
    assert {*given} == {10, 40}
    content: dict[str, Any] = json.loads((tmp_path / "cluster.json").read_text())
    rows = {row["command"]: row for row in content["rates"]}
    assert [*rows] == [cluster.PLAIN, cluster.AUDIT, CLUSTER, cluster.cluster(2)]
    assert rows[CLUSTER]["reason"] == "no Ray here"
    assert content["drivers"] == [{"images": 5, "peak_mb": 123.4, "minutes": 1, "status": OK, "reason": ""}]
    assert content["constants"] is None
    assert "no number of workers was measured" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one process alone")
def test_the_memory_of_a_process_is_told_without_those_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, seen = tmp_path / "held", tmp_path / "seen"
    status_bytes = peak_memory.status_bytes

    def looked(process: int, name: str) -> int | None:
        is_held = held.exists()
        found = status_bytes(process, name)
        if is_held:
            seen.touch()
        return found

    monkeypatch.setattr(peak_memory, "status_bytes", looked)
    large = (
        "from pathlib import Path\ncells = bytearray(400 << 20)\n"
        f"Path({str(held)!r}).touch()\nwhile not Path({str(seen)!r}).exists(): pass"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {large!r}], check=True)"
    assert 5 < run_alone_measured([sys.executable, "-c", parent]).peak_mb < 100
    held.unlink()
    seen.unlink()
    assert run_alone_measured([sys.executable, "-c", large]).peak_mb > 400
    with pytest.raises(MeasurementError, match="failed with exit code 3; why"):
        run_alone_measured([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])
