"""That each benchmark measures what it says and fails where it should; no test here is timed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from PIL import Image

from benchmarks import cluster, decoding, footprint, latency, parity, service, throughput, training, watch
from benchmarks.cells import bmp_cells, given_or_drawn, repeated_for
from benchmarks.http_load import Exchange
from benchmarks.record import write_record
from benchmarks.started_service import StartedService
from benchmarks.windows import WindowPlan
from runtime.bundle import DEFAULT_BUNDLE
from runtime.command_line import DONE, PARTLY_DONE, REFUSED
from runtime.errors import BundleError, DataError, MeasurementError, OutputError, UsageError
from tests.tiny_bundle import record_hashes

CellFile = Callable[[str], Path]


def record(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert content["measurement"] == name
    environment = content["environment"]
    assert environment["cpus"] >= 1
    assert len(environment["bundle_sha256"]) == 64
    return content


def test_parity_passes_where_the_variant_is_the_model(
    bundle: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity.main(["--bundle", str(bundle), "--data", str(drawn), "--out", str(tmp_path)]) == DONE
    [row] = record(tmp_path, "parity")["rows"]
    assert (row["variant"], row["cells"], row["flipped"], row["verdict"]) == ("fp32", 30, 0, "passed")
    said = capsys.readouterr().out
    assert "sensitivity %" in said
    assert "passed" in said


def test_parity_on_few_cells_is_no_proof(
    bundle: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 21)
    command = ["--bundle", str(bundle), "--data", str(drawn), "--out", str(tmp_path)]
    assert parity.main(command) == PARTLY_DONE
    assert [row["verdict"] for row in record(tmp_path, "parity")["rows"]] == ["NOT PROVED"]
    assert "Nothing is proved: compared on too few cells for a proof: 20 ALL and 10 healthy" in capsys.readouterr().out


def test_parity_fails_and_names_the_cells_that_flip(
    bundle: Path, finished_run: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    file = tmp_path / "bundle" / "model.fp32.onnx"
    model = onnx.load(file)
    [bias] = [i for i in model.graph.initializer if list(i.dims) == [1] and i.data_type == onnx.TensorProto.FLOAT]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([-100], np.float32), bias.name))
    onnx.save(model, file)
    record_hashes(tmp_path / "bundle")
    command = ["--bundle", str(tmp_path / "bundle"), "--data", str(drawn), "--run", str(finished_run)]
    assert parity.main(command) == REFUSED
    said = capsys.readouterr().out
    assert "FAILED" in said
    assert "another label" in said
    assert "constant classifier: it calls every cell healthy" in said


def test_parity_refuses_another_runs_model(bundle: Path, finished_run: Path, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "best.keras").write_bytes(b"another")
    with pytest.raises(BundleError, match="the bundle came from another run"):
        parity.main(["--bundle", str(bundle), "--data", str(drawn), "--run", str(tmp_path / "run")])


def test_parity_says_where_it_looked_for_the_keras_model(bundle: Path, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "far" / "away" / "bundle")
    where = rf"compact or runs/compact in {tmp_path}/far/away or above it up to .*"
    with pytest.raises(
        BundleError, match=rf"expected the Keras model of the bundle in {where}; give its run folder with --run"
    ):
        parity.main(["--bundle", str(tmp_path / "far" / "away" / "bundle"), "--data", str(drawn)])


def test_parity_needs_both_classes(bundle: Path, drawn: Path) -> None:
    with pytest.raises(DataError, match="found 20 ALL and 0 healthy"):
        parity.main(["--bundle", str(bundle), "--data", str(drawn / "all")])


def test_parity_names_its_own_option_where_that_leaves_one_class(bundle: Path, drawn: Path) -> None:
    with pytest.raises(
        UsageError, match=r"expected --cells to leave cells of both classes of .*, received 1; take more"
    ):
        parity.main(["--bundle", str(bundle), "--data", str(drawn), "--cells", "1"])


def test_parity_lists_what_it_could_not_read(
    bundle: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, tmp_path / "cells")
    (tmp_path / "cells" / "hem" / "broken.bmp").write_bytes(b"BM")
    assert parity.main(["--bundle", str(bundle), "--data", str(tmp_path / "cells")]) == PARTLY_DONE
    said = capsys.readouterr().out
    assert "broken.bmp: not an image that can be read" in said
    assert "18 of these cells are of the run's training part" in said
    assert "12 are of its validation part: epoch, temperature and threshold were chosen on them" in said


def test_latency_has_a_row_for_the_model_and_the_files_at_each_batch_size(tmp_path: Path) -> None:
    arguments = ["--batch-sizes", "1", "3", "--seconds", "0.01", "--out", str(tmp_path)]
    assert latency.main(arguments) == DONE
    content = record(tmp_path, "latency")
    assert content["model"].startswith("compact fp32 on ONNX Runtime")
    rows = content["rows"]
    assert [(row["measured"], row["cells"]) for row in rows] == [
        ("model", 1),
        ("file to result", 1),
        ("model", 3),
        ("file to result", 3),
    ]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        samples = content["samples_ms"][f"{row['measured']}, {row['cells']} at once"]
        assert len(samples) == row["runs"] >= WindowPlan.fewest_windows * WindowPlan.fewest_runs


def test_throughput_compares_all_candidates_in_the_same_rounds(
    bundle: Path, finished_run: Path, tmp_path: Path
) -> None:
    arguments = ["--bundle", str(bundle), "--keras", "--run", str(finished_run), "--cells", "11", "--batch-size", "4"]
    assert throughput.main([*arguments, "--rounds", "2", "--out", str(tmp_path)]) == DONE
    content = record(tmp_path, "throughput")
    with_openvino = ["plain Pillow and OpenVINO, in turns"] if find_spec("openvino") else []
    assert list(content["seconds"]) == [
        "classify",
        "inference alone, cells in memory",
        "decode and resize alone, all cores",
        "plain Pillow and ONNX Runtime, in turns",
        *with_openvino,
        "keras predict, 2 loading threads",
    ]
    assert content["rows"][0]["ratio"] == 1


def test_a_ratio_is_taken_within_a_round() -> None:
    row = throughput.row_of("other", [2.0, 40.0, 6.0], [1.0, 10.0, 2.0], 100)
    assert (row["ratio"], row["lowest"], row["highest"]) == (3, 2, 4)


def test_decoding_compares_the_same_pixels_and_sums_up_by_the_shortest_time(tmp_path: Path) -> None:
    assert decoding.main(["--rounds", "3", "--out", str(tmp_path)]) == DONE
    content = json.loads((tmp_path / "decoding.json").read_text())
    assert [(row["step"], row["candidate"]) for row in content["rows"]] == [
        ("decode", "Pillow"),
        ("decode", "by rows"),
        ("decode and resize", "Pillow"),
        ("decode and resize", "by rows"),
        ("decode and resize", "by rows, 2 threads"),
    ]
    assert content["rows"][0]["times_as_fast"] == content["rows"][2]["times_as_fast"] == 1
    row = decoding.row_of("decode", "by rows", {"Pillow": [8.0, 4.0, 9.0], "by rows": [7.0, 3.0, 2.0]}, 10)
    assert (row["ms_a_cell"], row["times_as_fast"]) == (200, 2)


def test_decoding_refuses_files_that_it_does_not_compare(cell_file: CellFile, tmp_path: Path) -> None:
    cell_file("cells/a.png")
    with pytest.raises(DataError, match=r"expected plain 24-bit BMP files in --data, found .*a.png; take it out"):
        decoding.main(["--data", str(tmp_path / "cells")])
    Image.new("RGB", (30, 10), "white").save(tmp_path / "wide.bmp")
    with pytest.raises(DataError, match="expected square pictures"):
        decoding.main(["--data", str(tmp_path / "wide.bmp")])


def test_watch_runs_a_real_service_beside_classify_in_the_same_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch.main(["--cells", "7", "--rounds", "2", "--singles", "2", "--out", str(tmp_path)]) == DONE
    content = record(tmp_path, "watch")
    assert [row["many files"] for row in content["rows"]] == [
        "classify",
        "watch, a folder moved in",
        "watch, moved in one by one",
    ]
    assert content["rows"][0]["ratio"] == 1
    assert {name: len(seconds) for name, seconds in content["seconds"].items()} == {
        **{row["many files"]: 2 for row in content["rows"]},
        "classify one file": 4,
        "watch": 4,
    }
    assert content["singles"][0]["added_p50_ms"] == 0
    assert "is watched" in capsys.readouterr().out


def test_the_service_is_measured_beside_classify_and_its_answers_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")
    arguments = ["--clients", "4", "--seconds", "0.6", "--rounds", "2", "--singles", "2", "--files", "2"]
    assert service.main([*arguments, "--out", str(tmp_path)]) == DONE
    content = record(tmp_path, "service")
    assert len(content["rounds"]) == 2
    assert content["wrong"] == 0
    assert [row["single"] for row in content["singles"]] == ["classify one file", "a request of one file"]
    assert "not a diagnosis" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answered", "classified", "is_right"),
    [
        (0.5, 0.5 + service.SAME_P_ALL / 2, True),
        (0.5, 0.5 + service.SAME_P_ALL * 2, False),
        (None, None, True),
        (None, 0.5, False),
        (0.5, None, False),
    ],
)
def test_an_answer_is_right_where_classify_says_the_same(
    answered: float | None, classified: float | None, is_right: bool
) -> None:
    body = json.dumps({"results": [{"path": "a.bmp", "p_all": answered}]}).encode()
    assert service.is_right(Exchange(0, 0.1, HTTPStatus.OK, body), [("a.bmp", classified)]) is is_right


@pytest.mark.parametrize("module", [service, watch])
def test_a_file_without_an_answer_is_not_timed(module: Any, cell_file: CellFile, tmp_path: Path) -> None:
    cell_file("cells/a.png")
    (tmp_path / "cells" / "b.png").write_text("no image")
    arguments = ["--data", str(tmp_path / "cells"), "--cells", "2", "--rounds", "1", "--singles", "1"]
    with pytest.raises(DataError, match=r"expected a cell that can be classified at .*\.png, found: "):
        module.main(arguments)


def test_the_service_measurement_says_why_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"runtime\.serve did not start: error: expected a bundle"):
        service.Service(tmp_path, batch_size=1)


def test_watch_says_why_the_service_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="did not start: error: expected a bundle"):
        watch.Service(tmp_path, tmp_path, batch_size=1)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell a process's peak memory")
def test_a_service_that_says_much_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    (tmp_path / "talkative.py").write_text(f"""
import pathlib, sys, time
print("is up", file=sys.stderr, flush=True)
print("." * 2**20, file=sys.stderr)
pathlib.Path({str(said)!r}).touch()
time.sleep(60)
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with StartedService(["talkative"], tmp_path, 1, sign="is up"):
        wait_until(said.exists)


def test_a_service_that_ends_by_itself_is_why_the_measurement_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weak.py").write_text("import sys; print('is up', file=sys.stderr); sys.exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        pytest.raises(MeasurementError, match=r"weak ended with exit code 3 while it was measured"),
        StartedService(["weak"], tmp_path, 1, sign="is up") as service,
    ):
        service._process.wait()
        raise ConnectionError("no answer")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("run", ["run_measured", "run_alone_measured"])
def test_what_is_measured_ends_with_the_measurement_that_is_ended(
    run: str, told: signal.Signals, tmp_path: Path
) -> None:
    sleeper = (
        f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'id')!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    code = f"""
import sys
from benchmarks import peak_memory
from runtime.command_line import run_command
peak_memory.SECONDS_TO_END = 0.1
run_command(lambda: peak_memory.{run}([sys.executable, "-c", {sleeper!r}]))
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) as measurement:
        wait_until(lambda: (tmp_path / "id").exists() and (tmp_path / "id").read_text())
        measurement.send_signal(told)
    wait_until(lambda: not psutil.pid_exists(int((tmp_path / "id").read_text())))


def wait_until(is_so: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_footprint_starts_real_processes(tmp_path: Path) -> None:
    assert footprint.main(["--starts", "1", "--files", "20", "--out", str(tmp_path)]) == DONE
    first_row, opening, imported = record(tmp_path, "footprint")["start"]
    assert opening["ratio"] == 1
    assert min(row["median_s"] for row in (first_row, opening, imported)) > 0
    [row] = record(tmp_path, "footprint")["memory"]
    assert row["files"] == 20
    assert 20 < row["peak_mb"] < 300, "the memory of the process itself, not of the one that runs the tests"


def test_memory_is_that_of_as_many_cells_as_the_row_says(cell_file: CellFile) -> None:
    cells = [str(cell_file("a.bmp")), str(cell_file("b.png"))]
    with pytest.raises(MeasurementError, match=r"expected 6 rows of runtime\.classify, found 3"):
        footprint.memory_row(footprint.command(DEFAULT_BUNDLE, "--include", "*.png"), cells, 6)
    assert footprint.memory_row(footprint.command(DEFAULT_BUNDLE), cells, 6)["files"] == 6


def test_the_files_of_a_measurement_are_bmp_of_the_releases_size() -> None:
    with bmp_cells() as paths:
        assert {Path(path).stat().st_size for path in paths} == {450 * 450 * 3 + 450 * 2 + 54}


def test_a_measurement_takes_images_from_all_over_the_data_and_drawn_ones_without(
    cell_file: CellFile, tmp_path: Path
) -> None:
    for name in "abcd":
        cell_file(f"cells/{name}.png")
    with given_or_drawn(tmp_path / "cells", 2) as paths:
        assert [Path(path).name for path in paths] == ["a.png", "c.png"]
    with given_or_drawn(None, 2) as paths:
        assert [Path(path).suffix for path in paths] == [".bmp", ".bmp"]


def test_files_are_repeated_until_the_time_is_over_and_one_is_taken_in_any_case() -> None:
    clock = itertools.count().__next__
    assert [*repeated_for(4, ["a", "b", "c"], clock)] == ["a", "b", "c", "a"]
    assert [*repeated_for(1e-9, ["a", "b"])] == ["a"]


def test_a_record_is_json_whatever_was_not_measured(tmp_path: Path) -> None:
    rows = [{"p50_ms": float("nan"), "p99_ms": np.float64("inf"), "answers": 0, "ms": (1.5, float("nan"))}]
    write_record(tmp_path, "load", None, {"rows": rows})
    content = json.loads((tmp_path / "load.json").read_text(), parse_constant=pytest.fail)
    assert content["rows"] == [{"p50_ms": None, "p99_ms": None, "answers": 0, "ms": [1.5, None]}]


@pytest.mark.parametrize("module", [cluster, decoding, latency, throughput, footprint, training, parity, watch])
def test_a_place_for_the_record_that_cannot_be_written_is_refused_before_measuring(
    module: Any, bundle: Path, drawn: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    command = ["--out", str(tmp_path / "file" / "records")]
    if module is parity:
        command += ["--bundle", str(bundle), "--data", str(drawn)]
    with pytest.raises(OutputError, match="cannot write"):
        module.main(command)
