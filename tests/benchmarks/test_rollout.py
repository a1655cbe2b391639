"""That a rollout measures what it says, survives what fails, and that its report shows it; no test here is timed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure

from benchmarks.record import failed, skipped
from benchmarks.rollout import __main__ as rollout
from benchmarks.rollout import cases as cases_module
from benchmarks.rollout import latency, measurement, parity, plots, report, sustained, verdict
from benchmarks.rollout.budget import Budget
from benchmarks.rollout.busy import CpuSeconds, LoadWatch, busiest_processes, others_share
from benchmarks.rollout.material import found_material
from benchmarks.rollout.options import RolloutOptions, quick
from benchmarks.rollout.page import table
from benchmarks.rollout.record import failures_of
from benchmarks.rollout.report import write_report
from benchmarks.rollout.scaling import cpu_counts
from benchmarks.rollout.verdict import verdict_of
from benchmarks.windows import WindowPlan
from export.fewest_cells import too_few_to_prove
from export.scoring import BATCH_SIZE, Scores
from export.seen import Seen
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.command_line import DONE, PARTLY_DONE, REFUSED
from runtime.errors import BackendError, BundleError, DataError, OutputError, UsageError
from runtime.html_page import text
from runtime.schema import ImageSpec, Prediction, Tolerance
from tests.benchmarks.a_record import GOOD, a_record
from tests.tiny_bundle import onnx_answers, record_hashes, write_onnx, write_tiny_bundle
from train.dataset import Cell

CellFile = Callable[[str], Path]
SHORT = [
    *("--quick", "--batch-sizes", "1", "3", "--batch-size", "4", "--sustained", "0.01"),
    *("--rounds", "1", "--peer-cells", "8", "--starts", "1"),
]
SMALL_IMAGE = ImageSpec(12, 12)
ONE_RUN = WindowPlan(0.0, 1, 3, 3, 0.0, 0.0, 1)


def too_few(labels: Iterable[int]) -> str:
    return f"{len(list(labels))} are too few"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch the machine for a moment only, and make slots so short that a run has some.

    The package's model gives the few drawn cells one label, which is not what most tests are about.
    """

    def briefer(options: RolloutOptions, *, is_large: bool = False) -> RolloutOptions:
        window = WindowPlan(0.0, 2, 3, 4, 1.0, 0.0, 1)
        options = replace(quick(options, is_large=is_large), case_seconds=None)  # however slow the machine is
        return replace(options, window=window, quiet_seconds=0.01, slot_seconds=0.1, start_cells=4, part_runs=2)

    monkeypatch.setattr(rollout, "quick", briefer)
    monkeypatch.setattr(verdict, "too_few_to_prove", too_few)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and one whole rollout has: processes of their own, and rendering what was drawn."""
    monkeypatch.setattr(measurement, "cold_start", lambda *_: {"rows": []})
    monkeypatch.setattr(Figure, "savefig", lambda _, stream, **__: stream.write("<svg></svg>"))


def record_in(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return content


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell a process's peak memory")
def test_a_short_rollout_of_the_packages_bundle_measures_everything(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: a slot as long as the run would end without a reading of the sensors.
    monkeypatch.setattr(sustained, "slot_seconds", lambda options, _: options.slot_seconds)
    (tmp_path / "budget.json").write_text('{"memory_mb": 100000}')
    bundle = shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")  # where its run is not at hand
    arguments = ["--bundle", str(bundle), "--data", str(drawn), "--budget", str(tmp_path / "budget.json"), *SHORT]
    code = rollout.main([*arguments, "--out", str(tmp_path / "out"), "--precisions", "fp32", "int8"])
    record = record_in(tmp_path / "out")
    sections = record["sections"]
    assert list(failures_of(record)) == []
    # What fails on drawn cells, which the model was not made for, is parity alone.
    passed = sections["parity"]["passed"]
    assert code == (DONE if passed else REFUSED)
    assert record["verdict"]["may_be_deployed"] == ("open" if passed else "no")
    assert [re.sub(": .*", "", doubt) for doubt in record["verdict"]["unsure"]] == [
        "parity is with the fp32 graph, which differs from the Keras model by what converting changed",
        "whether the model was fitted on these cells is not known",
    ]
    cases = [("cpu", "fp32"), ("cpu", "int8")]
    assert [(row["backend"], row["precision"]) for row in sections["cold_start"]["rows"]] == cases
    assert {(row["backend"], row["precision"], row["cells"]) for row in sections["latency"]["rows"]} == {
        (*case, size) for case in cases for size in (1, 3)
    }
    for row in sections["latency"]["rows"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert len(row["windows_ms"]) == row["windows"]
    for part in sections["latency"]["parts"]:
        assert min(part[name] for name in ("preprocess_ms", "inference_ms", "postprocess_ms")) > 0
    [row] = sections["sustained"]["rows"]
    assert row["cells"] > 0
    assert sections["sustained"]["readings"][0]["memory_mb"] > 0
    assert (sections["parity"]["reference"], sections["parity"]["reference_case"]) == ("fp32 graph", "cpu fp32")
    assert [row["variant"] for row in sections["parity"]["rows"]] == ["cpu fp32", "cpu int8"]
    assert len(sections["parity"]["answers"]["cpu int8"]) == len(sections["parity"]["cells"]) == 30
    assert sections["peers"]["rows"][0] | {"cells_per_second": 0} == {
        "peer": "classify",
        "cells_per_second": 0,
        "ratio": 1.0,
        "lowest": 1.0,
        "highest": 1.0,
        "largest_difference": 0.0,
        "status": "ok",
    }
    for row in sections["peers"]["rows"]:
        assert row["status"] == "skipped" or row["largest_difference"] < 1e-4, "it is the same network"
    assert record["environment"]["cpu_flags"]
    assert (record["schema_version"], record["options"]["batch_size"]) == (6, 4)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    check_page(page)
    box = page[page.index('<div class="verdict') : page.index('<div class="tiles">')]
    assert [caution for caution in record["verdict"]["cautions"] if f"<li>{text(caution)}</li>" not in box] == []
    assert "python -m benchmarks.compare OLD" in capsys.readouterr().out


def check_page(page: str) -> None:
    """Nothing is fetched, every id is there once, no stand-in for a color is left."""
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "#0a0b" not in page
    assert "#0a0c" not in page
    assert page.count("<svg") == 6


def test_without_data_drawn_cells_are_timed_and_nothing_is_judged(no_processes: None, tmp_path: Path) -> None:
    assert rollout.main(["--out", str(tmp_path), "--precisions", "fp32", *SHORT]) == DONE
    record = record_in(tmp_path)
    [row] = record["sections"]["parity"]["rows"]
    assert row == {"status": "skipped", "reason": "no labelled data was given (--data): latency only"}
    assert record["verdict"]["may_be_deployed"] == "open"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "latency only" in page
    assert "files (drawn cells of the package as 450x450 BMP files) over and over" in page


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a.bmp", "b.bmp"), "expected a name like UID_11_2_3_all.bmp"),
        (("all/a.bmp", "all/b.bmp"), "expected cells of both classes in .*, found 2 ALL and 0 healthy"),
    ],
)
def test_unlabelled_and_one_class_data_are_timed_and_their_parity_fails(
    names: tuple[str, ...], reason: str, cell_file: CellFile, no_processes: None, tmp_path: Path
) -> None:
    for name in names:
        cell_file(f"cells/{name}")
    arguments = ["--data", str(tmp_path / "cells"), "--out", str(tmp_path / "out"), "--precisions", "fp32", *SHORT]
    assert rollout.main(arguments) == PARTLY_DONE
    record = record_in(tmp_path / "out")
    [(section, row)] = failures_of(record)
    assert section == "parity"
    assert re.search(reason, row["reason"])
    assert "\n" not in row["reason"]
    assert record["sections"]["latency"]["rows"][0]["status"] == "ok"


def test_a_missing_backend_is_a_row_that_failed(drawn: Path, no_processes: None, tmp_path: Path) -> None:
    arguments = ["--data", str(drawn), "--out", str(tmp_path), "--precisions", "fp32", "--backends", "cpu", "tensorrt"]
    assert rollout.main([*arguments, *SHORT]) == PARTLY_DONE
    reasons = {name: row["reason"] for name, row in failures_of(record_in(tmp_path))}
    assert reasons.keys() == {"latency", "parity"}
    assert "expected an engine of precision fp32" in reasons["latency"]
    assert "failed: expected an engine" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_is_named_and_is_another_is_refused_before_anything_is_measured(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BundleError, match=r"expected the Keras model of the bundle at .*, found none"):
        rollout.main(["--data", str(drawn), "--run", str(tmp_path / "none"), "--out", str(tmp_path / "out"), *SHORT])
    assert "measuring" not in capsys.readouterr().err


def test_a_backend_that_is_to_be_deployed_and_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="expected an engine of precision"):
        rollout.main(["--out", str(tmp_path), "--backend", "tensorrt", *SHORT])


def test_a_backend_that_fails_in_the_middle_costs_its_own_rows(
    drawn: Path, no_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxRuntimeBackend._infer

    def infer(self: OnnxRuntimeBackend, cells: Any) -> Any:
        if len(cells) == 3 and "int8" in self.model_file:  # type: ignore[attr-defined]
            raise BackendError("the card fell off the bus")
        return real(self, cells)

    opening = OnnxRuntimeBackend.__init__

    def opened(self: OnnxRuntimeBackend, model: Path, *others: Any) -> None:
        self.model_file = model.name  # type: ignore[attr-defined]
        opening(self, model, *others)

    monkeypatch.setattr(OnnxRuntimeBackend, "_infer", infer)
    monkeypatch.setattr(OnnxRuntimeBackend, "__init__", opened)
    arguments = ["--data", str(drawn), "--out", str(tmp_path), "--precisions", "fp32", "int8"]
    assert rollout.main([*arguments, *SHORT]) == PARTLY_DONE
    sections = record_in(tmp_path)["sections"]
    good = [row for row in sections["latency"]["rows"] if row["status"] == "ok"]
    measured = {(row["precision"], row["measured"], row["cells"]) for row in good}
    # classify makes smaller batches of three files.
    assert measured == {*product(("fp32", "int8"), ("model", "file to result"), (1, 3))} - {("int8", "model", 3)}
    [bad] = [row for row in sections["latency"]["rows"] if row["status"] == "failed"]
    assert (bad["precision"], bad["reason"]) == ("int8", "the card fell off the bus")
    # The batches of the gate have 8, 1 and 5 cells, so that 3 are left of 8.
    assert [(row["variant"], row["status"]) for row in sections["parity"]["rows"]] == [
        ("cpu fp32", "ok"),
        ("cpu int8", "failed"),
    ]


def test_a_measurement_that_breaks_is_a_row_and_its_traceback_is_shown(
    no_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(measurement, "peers", breaks)
    assert rollout.main(["--out", str(tmp_path), "--precisions", "fp32", *SHORT]) == PARTLY_DONE
    assert dict(failures_of(record_in(tmp_path))) == {
        "peers": {"status": "failed", "reason": "ZeroDivisionError: a bug"}
    }
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("latency", ["latency", "scaling", "sustained", "parity", "peers"]),
        ("scaling", ["scaling", "sustained", "parity", "peers"]),
    ],
)
def test_ctrl_c_keeps_what_was_measured(
    part: str, lost: list[str], drawn: Path, no_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, part, interrupted)
    code = rollout.main(["--data", str(drawn), "--out", str(tmp_path), *SHORT])
    record = record_in(tmp_path)
    assert code == PARTLY_DONE
    assert record["verdict"]["may_be_deployed"] == "open"
    assert all(row["status"] == "ok" for row in record["sections"]["latency"]["rows"] if part != "latency")
    assert [(name, row["reason"]) for name, row in failures_of(record)] == [(name, "interrupted") for name in lost]
    assert "interrupted" in (tmp_path / "report.html").read_text()


def test_ctrl_c_before_anything_was_measured_leaves_the_older_record(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, "cold_start", interrupted)
    (tmp_path / "record.json").write_text("of ten minutes")
    with pytest.raises(KeyboardInterrupt):
        rollout.main(["--data", str(drawn), "--out", str(tmp_path), *SHORT])
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "of ten minutes"
    assert f"the record and report in {tmp_path} will be replaced" in capsys.readouterr().err


def test_figures_are_printed_where_no_record_can_be_written_any_more(
    drawn: Path, no_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space")

    monkeypatch.setattr(rollout, "write", full)
    with pytest.raises(OutputError):
        rollout.main(["--data", str(drawn), "--out", str(tmp_path), *SHORT])
    assert "file to result" in capsys.readouterr().out


def test_a_variant_that_decides_otherwise_may_not_be_deployed(
    drawn: Path, no_processes: None, tmp_path: Path, tiny_bundle: Path
) -> None:
    golden = Bundle.open(tiny_bundle).golden()
    model = tiny_bundle / "model.int8.onnx"
    write_onnx(model, "int8", seed=1)  # calls every cell ALL, which the other graphs call none
    answers: dict[str, Any] = {**golden.p_all, "int8": onnx_answers(model, golden.cells)}
    np.savez(tiny_bundle / "golden.npz", cells=golden.cells, **answers)
    record_hashes(tiny_bundle)
    out = tmp_path / "out"
    assert rollout.main(["--bundle", str(tiny_bundle), "--data", str(drawn), "--out", str(out), *SHORT]) == REFUSED
    record = record_in(out)
    assert record["verdict"]["may_be_deployed"] == "no"
    beside = "parity of cpu int8 (deployed is cpu fp32, which passed): "
    assert any(reason.startswith(beside) for reason in record["verdict"]["against"])
    flips = record["sections"]["parity"]["flipped"]
    by_subject = sum(row["flipped"]["cpu int8"] for row in record["sections"]["parity"]["subjects"])
    assert by_subject == sum(flip["variant"] == "cpu int8" for flip in flips) > 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "May not be deployed" in page
    assert "data:image/jpeg;base64," in page


def test_the_keras_model_is_the_reference_where_it_is_at_hand(
    bundle: Path, finished_run: Path, drawn: Path, no_processes: None, tmp_path: Path
) -> None:
    arguments = ["--bundle", str(bundle), "--run", str(finished_run), "--data", str(drawn), "--out", str(tmp_path)]
    assert rollout.main([*arguments, *SHORT]) == DONE
    sections = record_in(tmp_path)["sections"]
    assert (sections["parity"]["reference"], sections["parity"]["reference_case"]) == ("Keras model", None)
    fitted, chosen_on = sections["parity"]["fitted"], sections["parity"]["chosen_on"]
    assert 0 < fitted < 30
    assert fitted + chosen_on == 30
    assert sections["parity"]["doubts"] == [
        f"accuracy flatters the model: it was fitted on {fitted} of the 30 cells",
        f"accuracy flatters the model: epoch, temperature and threshold were chosen on {chosen_on} of the 30 cells",
    ]
    assert "Intervals: bootstrap over images, " in (tmp_path / "report.html").read_text(encoding="utf-8")
    [keras] = [row for row in sections["peers"]["rows"] if row["peer"].startswith("keras")]
    assert keras["largest_difference"] < 1e-4


def test_of_few_cells_parity_proves_nothing(
    cell_file: CellFile, no_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 10)
    cell_file("cells/all/a.bmp")
    cell_file("cells/hem/b.png")
    arguments = ["--data", str(tmp_path / "cells"), "--out", str(tmp_path / "out"), "--precisions", "fp32", *SHORT]
    rollout.main(arguments)
    section = record_in(tmp_path / "out")["sections"]["parity"]
    assert (
        "parity proves nothing, compared on too few cells for a proof: 1 ALL and 1 healthy, where 10 of each class "
        "are needed"
    ) in section["doubts"]
    assert [row["verdict"] for row in section["rows"]] == ["NOT PROVED"]


def test_a_reference_that_has_no_number_for_a_cell_judges_nothing(
    drawn: Path, no_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity.FP32Graph, "predict", lambda _, cells: np.full(len(cells), np.nan, np.float32))
    bundle = shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")  # where its run is not at hand
    arguments = ["--bundle", str(bundle), "--data", str(drawn), "--out", str(tmp_path / "out"), "--precisions", "fp32"]
    assert rollout.main([*arguments, *SHORT]) == PARTLY_DONE
    reasons = dict(failures_of(record_in(tmp_path / "out")))
    assert reasons["parity"]["reason"].startswith(
        "expected a number from the fp32 graph for each of 30 cells, found none"
    )


def test_a_variant_that_fails_says_how_it_went_for_what_is_deployed() -> None:
    record = a_record(p_all=1 - GOOD)
    proofs = record["sections"]["parity"]["proofs"]
    failures = proofs["cpu fp32"]["failures"]
    proofs["cpu int8"] = {"failures": ["flips"]}
    assert verdict_of(record)["against"] == [
        *(f"parity of cpu fp32: {failure}" for failure in failures),
        "parity of cpu int8 (deployed is cpu fp32, which failed too): flips",
    ]
    assert failures


def test_a_model_that_gives_every_cell_one_label_is_not_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = GOOD * np.float32(0.5)
    constant = "a constant classifier: it calls each of the 60 labelled cells healthy"
    assert constant not in verdict_of(a_record(p_all=healthy))["against"], "of too few cells that says nothing"
    monkeypatch.setattr(verdict, "too_few_to_prove", too_few_to_prove)
    assert constant in verdict_of(a_record(p_all=healthy))["against"]
    assert constant not in verdict_of(a_record(p_all=GOOD))["against"]


def test_a_model_that_is_no_better_than_chance_on_the_cells_is_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = 1 - GOOD
    assert verdict_of(a_record(p_all=swapped))["unsure"] == [], "of too few cells that says nothing"
    monkeypatch.setattr(verdict, "too_few_to_prove", too_few_to_prove)
    [said] = verdict_of(a_record(p_all=swapped, tolerance=Tolerance()))["unsure"]
    assert said.startswith("on these cells the model may be no better than chance: its AUC is 0.000 (0.000 to ")
    assert verdict_of(a_record(p_all=swapped, tolerance=Tolerance()))["may_be_deployed"] == "open"
    assert verdict_of(a_record(p_all=GOOD))["may_be_deployed"] == "yes"


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (Seen(0, 0, None), []),
        (
            Seen(0, 20, None),
            ["accuracy flatters the model: epoch, temperature and threshold were chosen on 20 of the 20 cells"],
        ),
        (None, ["whether the model was fitted on these cells is not known: its run is not at hand (--run)"]),
    ],
)
def test_cells_on_which_the_threshold_was_chosen_keep_a_verdict_open(seen: Seen | None, found: list[str]) -> None:
    labels = np.arange(20) % 2 == 0
    cells = [Cell(Path(), int(label), "5", "") for label in labels]
    scores = Scores(cells, labels, np.zeros(20, np.float32), {}, {})
    record = a_record(budget=[{"limit": "sensitivity", "kept": True}])
    assert list(parity.doubts(parity.KERAS, "", seen, scores)) == found
    record["sections"]["parity"]["doubts"] = found
    assert verdict_of(record)["may_be_deployed"] == ("open" if found else "yes")


def test_answers_that_are_no_numbers_count_as_the_wrongest_everywhere(tiny_bundle: Path) -> None:
    cells = [Cell(Path(f"{number}.bmp"), int(number % 2 == 0), "5", f"{number}") for number in range(40)]
    labels = np.array([cell.label == 1 for cell in cells])
    reference = np.where(labels, 0.9, 0.1).astype(np.float32)
    answers = reference.copy()
    answers[[0, 1, 3]] = np.nan  # one ALL cell and two healthy ones of twenty each
    scores = Scores(cells, labels, reference, {"cpu fp32": {BATCH_SIZE: answers}}, {})
    bundle = Bundle.open(tiny_bundle)
    section = parity.judged(bundle, scores, parity.verdicts_of(bundle, scores, None), None)
    metrics = section["metrics"]["cpu fp32"]
    assert (metrics["sensitivity"]["value"], metrics["specificity"]["value"]) == (0.95, 0.9)
    figures = section["proofs"]["cpu fp32"]["variant"]
    assert {name: metrics[name]["value"] for name in figures} == pytest.approx(figures, abs=1e-6)
    assert [section["answers"]["cpu fp32"][number] for number in (0, 1, 3)] == [0, 1, 1]
    assert [(flip["path"], flip["p_all"]) for flip in section["flipped"]] == [("0.bmp", 0), ("1.bmp", 1), ("3.bmp", 1)]
    [subject] = section["subjects"]
    assert (subject["right"], subject["flipped"]) == ({"keras": 40, "cpu fp32": 37}, {"cpu fp32": 3})


def test_a_bundle_of_another_schema_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    manifest = tiny_bundle / "bundle.json"
    manifest.write_text(re.sub(r'"schema_version": \d+', '"schema_version": 99', manifest.read_text()))
    with pytest.raises(BundleError, match=rf"expected {manifest} of schema_version \d+, found 99"):
        rollout.main(["--bundle", str(tiny_bundle), "--out", str(tmp_path / "out"), *SHORT])


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        rollout.main(["--out", str(tmp_path / "file" / "out"), *SHORT])


def test_a_budget_with_an_unknown_limit_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_text('{"speed": 1}')
    with pytest.raises(UsageError, match="found speed"):
        rollout.main(["--out", str(tmp_path), "--budget", str(tmp_path / "budget.json"), *SHORT])


def test_files_that_cannot_be_read_are_left_out_and_named(cell_file: CellFile, tmp_path: Path) -> None:
    cell_file("cells/all/a.bmp")
    (tmp_path / "cells" / "all" / "b.bmp").write_bytes(b"BM")
    with found_material(tmp_path / "cells", SMALL_IMAGE) as material:
        assert [Path(path).name for path in material.paths] == ["a.bmp"]
        assert [Path(path).name for path in material.left_out] == ["b.bmp"]


def test_data_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(b"BM")
    with (
        pytest.raises(DataError, match=r"expected images that can be read in .*, found none .*a\.bmp: "),
        found_material(tmp_path, SMALL_IMAGE),
    ):
        pass


def test_the_package_measures_where_no_training_library_is_installed(tmp_path: Path) -> None:
    blocked = ("tensorflow", "keras", "onnx", "tf2onnx", "sklearn", "openvino", "pynvml")
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name in {blocked!r} else find(name, *rest)\n"
        "from benchmarks.rollout.measurement import measure\nfrom benchmarks.rollout.report import write_report\n"
        "from benchmarks.compare import main\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_full_slot_counts_and_the_last_one_does_not() -> None:
    assert sustained.cells_by_slot([0.1, 0.9, 1.0, 3.5, 4.2], 1.0) == [2, 1, 0, 1]
    assert sustained.cells_by_slot([0.1, 0.2], 1.0) == [2]


def test_files_that_come_at_once_are_timed_in_the_batches_of_classify(
    cell_file: CellFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    infer = OnnxRuntimeBackend.infer

    def noted(self: OnnxRuntimeBackend, cells: Any, **options: Any) -> Any:
        sizes.append(len(cells))
        return infer(self, cells, **options)

    monkeypatch.setattr(OnnxRuntimeBackend, "infer", noted)
    options = RolloutOptions(DEFAULT_BUNDLE, Path(), batch_size=4, batch_sizes=(20,), window=ONE_RUN, part_runs=1)
    section = latency.latency(options, [cases_module.Case("cpu", "fp32")], [str(cell_file("a.bmp"))])
    assert [(row["measured"], row["cells"]) for row in section["rows"]] == [("model", 20), ("file to result", 20)]
    assert set(sizes) == {20, 4, 2, 1}


def test_each_run_from_file_to_result_takes_the_next_files(
    cell_file: CellFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[str]] = []
    classify = Classifier.classify

    def noted(self: Classifier, paths: Iterable[str]) -> Iterator[Prediction]:
        taken.append([Path(path).name for path in paths])
        return classify(self, paths)

    monkeypatch.setattr(Classifier, "classify", noted)
    options = RolloutOptions(DEFAULT_BUNDLE, Path(), batch_sizes=(2,), window=ONE_RUN, part_runs=4)
    cells = [str(cell_file(f"{name}.bmp")) for name in "abc"]
    latency.latency(options, [cases_module.Case("cpu", "fp32")], cells)
    assert taken[:3] == [["a.bmp", "b.bmp"], ["c.bmp", "a.bmp"], ["b.bmp", "c.bmp"]]
    assert taken[-4:] == [["a.bmp"], ["b.bmp"], ["c.bmp"], ["a.bmp"]]


def test_a_file_that_went_away_is_a_failure_and_no_fast_cell(cell_file: CellFile, tmp_path: Path) -> None:
    cells = [str(cell_file("a.bmp")), str(tmp_path / "gone.bmp")]
    options = RolloutOptions(DEFAULT_BUNDLE, Path(), batch_sizes=(2,), window=ONE_RUN)
    [*_, row] = latency.latency(options, [cases_module.Case("cpu", "fp32")], cells)["rows"]
    assert row["status"] == "failed"
    with (
        Classifier(ClassifierOptions(DEFAULT_BUNDLE, "cpu")) as classifier,
        pytest.raises(DataError, match=r"expected a cell that can be classified at .*gone\.bmp, found: "),
    ):
        sustained.classify_for(classifier, cells, 10.0, tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("minutes", "cell_seconds", "slot"),
    [(10, 0.001, 5), (10, 0.2, 12.8), (2, 0.001, 5), (0.1, 0.001, 0.6), (0.1, 0.02, 1.3)],
)
def test_a_slot_is_long_enough_for_some_batches_and_short_in_a_short_run(
    minutes: float, cell_seconds: float, slot: float
) -> None:
    options = RolloutOptions(Path(), Path(), batch_size=16, slot_seconds=5, sustained_minutes=minutes)
    assert sustained.slot_seconds(options, cell_seconds) == pytest.approx(slot)


@pytest.mark.parametrize(("last", "slowed"), [(95.0, False), (85.0, True)])
def test_a_machine_that_slows_down_when_warm_is_seen(last: float, slowed: bool) -> None:
    row = sustained.summary([100.0, 100.0, 100.0, 97.0, last, last], seconds=60.0)
    assert row["slowed_down"] is slowed
    assert row["last_to_first"] == last / 100


def test_the_thirds_of_a_run_of_less_than_a_minute_differ_by_chance_and_are_not_compared() -> None:
    row = sustained.summary([100.0, 100.0, 100.0, 97.0, 60.0, 60.0], seconds=59.0)
    assert (row["last_to_first"], row["slowed_down"], row["slowest"]) == (None, None, 60)


def test_a_run_within_one_slot_has_the_rate_of_the_time_that_passed_and_no_slowdown(
    tmp_path: Path, no_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 0.2 s a cell, in batches of 16: two of them in a slot of 13 s.
    moments = [*[3.2] * 16, *[6.4] * 16]
    monkeypatch.setattr(sustained, "classify_for", lambda *_: (moments, [200.0] * 32))
    monkeypatch.setattr(sustained, "slot_seconds", lambda *_: 13.0)
    (tmp_path / "budget.json").write_text('{"slowdown": 0.05}')
    arguments = ["--out", str(tmp_path), "--precisions", "fp32", "--budget", str(tmp_path / "budget.json"), *SHORT]
    assert rollout.main(arguments) == REFUSED
    record = record_in(tmp_path)
    [row] = record["sections"]["sustained"]["rows"]
    assert (row["cells_per_minute"], row["median_slot"], row["slowest"], row["fastest"]) == (300, 300, 300, 300)
    assert record["sections"]["sustained"]["cells_per_minute"] == [300]
    assert (row["last_to_first"], row["slowed_down"]) == (None, None)
    assert record["verdict"]["against"] == [
        "budget: slowdown is not measured, expected at most 0.05: the sustained run was too short to tell; "
        "one of --sustained 10 does"
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    said = "Whether the machine slowed down was not measured: that takes a run of 1 minute or more that fills 3 slots."
    assert said in page
    assert ">not measured</td>" in page


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ([100.0], None),
        ([100.0, 50.0], None),
        ([0.0, 50.0, 50.0], None),
        ([100.0, 75.0, 50.0], 0.5),
        ([100.0, 100.0, 75.0, 75.0, 60.0, 40.0], 0.5),
    ],
)
def test_thirds_are_compared_where_there_are_slots_enough(rates: list[float], found: float | None) -> None:
    assert sustained.last_to_first(rates) == found


def test_the_sustained_rate_is_of_all_the_time_its_slow_part_too(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = 0.03 + 0.06 * np.arange(6000), 360.3 + 0.6 * np.arange(400)
    moments = [*fast.tolist(), *slow.tolist(), 600.0]
    monkeypatch.setattr(sustained, "opened", lambda *_: nullcontext(Mock(classify=lambda _: [])))
    monkeypatch.setattr(sustained, "classify_for", lambda *_: (moments, [60.0] * len(moments)))
    options = RolloutOptions(Path(), Path(), slot_seconds=60)
    section = sustained.sustained(options, cases_module.Case("cpu", "fp32"), ["a.bmp"], Mock(read=dict, left_out=[]))
    [row] = section["rows"]
    assert section["cells_per_minute"] == [1000] * 6 + [100] * 4
    assert (row["cells_per_minute"], row["median_slot"], row["slowest"]) == (640.1, 1000, 100)


def test_a_sustained_run_ends_when_its_time_is_over(tmp_path: Path, cell_file: CellFile) -> None:
    cell = str(cell_file("a.bmp"))
    ticks: Iterator[float] = iter(np.arange(0, 1000, 0.5).tolist())
    with Classifier(ClassifierOptions(DEFAULT_BUNDLE, "cpu")) as classifier:
        moments, milliseconds = sustained.classify_for(
            classifier, [cell], 10.0, tmp_path / "results.csv", lambda: next(ticks)
        )
    assert 0 < len(moments) == len(milliseconds) <= 20
    assert memoryview(moments).nbytes == 8 * len(moments), "else the memory that is measured would seem to have a leak"
    assert (tmp_path / "results.csv").exists()


def test_throttling_is_known_only_where_the_machine_tells() -> None:
    assert sustained.extremes([{"memory_mb": 5.0}, {"memory_mb": 7.0}]) == {"most_memory_mb": 7, "throttled": None}
    assert sustained.extremes([{"gpu_throttled": 0.0}, {"gpu_throttled": 1.0}])["throttled"] is True
    assert sustained.extremes([{"cpu_throttle_events": 0.0}])["throttled"] is False


def test_other_work_is_what_the_machine_did_less_what_we_did() -> None:
    before = CpuSeconds(machine=100, idle=50, own=10)
    assert others_share(before, CpuSeconds(machine=120, idle=55, own=15)) == pytest.approx(0.5)
    assert others_share(before, CpuSeconds(machine=120, idle=70, own=10)) == 0
    assert others_share(before, before) == 0
    readings = iter([before, CpuSeconds(120, 68, 11), CpuSeconds(140, 83, 11)])
    watch = LoadWatch(lambda: next(readings))
    watch.note("first")
    assert not watch.is_busy
    watch.note("second")
    assert watch.shares == {"first": 0.05, "second": 0.25}
    assert watch.is_busy


def test_the_numbers_of_cpus_end_with_all_of_them() -> None:
    assert [cpu_counts(count) for count in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_a_verdict_needs_a_budget_and_no_failure() -> None:
    record = a_record()
    assert verdict_of(record) == {"may_be_deployed": "yes", "against": [], "unsure": [], "cautions": []}
    record["budget"] = None
    assert verdict_of(record)["may_be_deployed"] == "open"
    record["budget"] = [{"limit": "p95_ms", "sense": "at most", "value": 5.0, "found": 10.0, "kept": False}]
    assert verdict_of(record)["against"] == ["budget: p95_ms is 10, expected at most 5"]
    record = a_record()
    record["sections"]["peers"]["rows"].append({"peer": "third", **failed(BackendError("no card"))})
    assert verdict_of(record)["unsure"] == ["peers of third failed: no card"]
    record = a_record()
    record["bundle"]["variants"][0]["proved"] = False
    assert verdict_of(record)["against"] == ["the bundle's fp32 is not proved: runtime.classify refuses it"]
    record = a_record()
    record["sections"]["parity"]["doubts"] = ["the moon is full"]
    assert (verdict_of(record)["may_be_deployed"], verdict_of(record)["unsure"]) == ("open", ["the moon is full"])
    for row in record["sections"]["latency"]["rows"]:
        row["status"] = "failed"
        row["reason"] = "no"
    assert verdict_of(record)["against"] == ["nothing could be measured"]


def _unsteady(record: dict[str, Any]) -> None:
    for row in record["sections"]["latency"]["rows"]:
        row["agreed"] = False


def _warm(record: dict[str, Any]) -> None:
    record["sections"]["sustained"]["rows"][0] |= {"last_to_first": 0.7, "slowed_down": True, "throttled": True}


def _late(record: dict[str, Any]) -> None:
    record["sections"]["cold_start"]["rows"].append({"backend": "cpu", "precision": "int8", **skipped("time was over")})


@pytest.mark.parametrize(
    ("change", "cautions"),
    [
        (
            lambda record: record["load"].update(busy=True),
            [
                "the machine was busy: other processes took up to 50% of its CPUs, so times are longer and "
                "ratios to the peers smaller than on a quiet one"
            ],
        ),
        (
            _unsteady,
            [
                "2 of 2 timings are unsteady, a single file on cpu fp32 among them: their windows did not agree within "
                "10%"
            ],
        ),
        (
            _warm,
            [
                "the machine slowed down: the sustained run's last third had 70.0% of the first one's rate",
                "the machine throttled in the sustained run, as its sensors tell",
            ],
        ),
        (
            lambda record: record["options"].update(sustained_minutes=2.0),
            ["a sustained run of 2 minutes does not show whether the machine slows down when it is warm"],
        ),
        (
            lambda record: record["options"].update(sustained_minutes=1.0),
            ["a sustained run of 1 minute does not show whether the machine slows down when it is warm"],
        ),
        (
            lambda record: record["options"].update(sustained_minutes=0.08),
            ["a sustained run of 5 seconds does not show whether the machine slows down when it is warm"],
        ),
        (
            lambda record: record["options"].update(sustained_minutes=0.02),
            ["a sustained run of 1 second does not show whether the machine slows down when it is warm"],
        ),
        (_late, ["cold start of cpu int8 was not measured: time was over"]),
        (
            lambda record: record["sections"]["parity"].update(unreadable={"a.bmp": "the file is empty"}),
            ["1 of 61 labelled cells could not be read and are not judged, such as a.bmp: the file is empty"],
        ),
    ],
)
def test_what_the_figures_cannot_be_trusted_for_stands_in_the_verdict_and_changes_no_answer(
    change: Callable[[dict[str, Any]], None], cautions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = a_record()
    change(record)
    record["verdict"] = verdict_of(record)
    assert record["verdict"] == {"may_be_deployed": "yes", "against": [], "unsure": [], "cautions": cautions}
    rollout.print_verdict(record)
    said = ["May it be deployed: yes, with caution", *(f"- caution: {line}" for line in cautions)]
    assert capsys.readouterr().out.splitlines() == said


def test_other_processes_take_no_more_than_all_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_reading() -> dict[tuple[int, str], float]:
        used = time.perf_counter() * (psutil.cpu_count() or 1)
        time.sleep(0.02)
        return {(0, "another"): used}

    monkeypatch.setattr("benchmarks.rollout.busy._seconds_by_process", slow_reading)
    assert busiest_processes(0.02)[0]["share"] <= 1


def test_the_roc_goes_from_nothing_to_everything_and_takes_equal_scores_at_once() -> None:
    labels = np.array([True, False, True, False])
    false_positives, sensitivity = plots.roc(labels, np.array([0.9, 0.5, 0.5, 0.1]))
    assert false_positives.tolist() == [0, 0, 0.5, 1]
    assert sensitivity.tolist() == [0, 0.5, 1, 1]


def test_a_sustained_run_of_one_slot_is_seen_as_marks_in_the_pages_colors() -> None:
    def marks(slots: int) -> list[str]:
        readings = [{"second": 10.0 * slot, "memory_mb": 151.0} for slot in range(slots)]
        section = {"slot_seconds": 10.0, "cells_per_minute": [612.0] * slots, "readings": readings}
        svg = plots.sustained_picture({"sections": {"sustained": section}})
        return re.findall(r'clip-path[^>]*>\s*<use [^>]*style="(fill: [^;"]*)', svg)

    assert marks(1) == ["fill: var(--s1)"] * 2
    assert marks(2) == []


def test_a_page_shows_names_as_text_and_a_failed_row_with_its_reason() -> None:
    rows: list[dict[str, Any]] = [
        {"a": "<b>", "n": 1234.4, "status": "ok"},
        {"a": "x", "status": "failed", "reason": "it <i>broke</i>"},
    ]
    html = table(rows, {"a": "name", "n": "ms"})
    assert "&lt;b&gt;" in html
    assert '<td class="number">1,234</td>' in html
    assert 'colspan="1">failed: it &lt;i&gt;broke&lt;/i&gt;' in html


def test_limits_of_any_size_are_shown_with_their_decimals(
    tmp_path: Path, no_processes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "budget.json").write_text('{"p95_ms": 400000, "slowdown": 0.9875, "delta_auc": 0.00002}')
    rollout.main(["--out", str(tmp_path), "--precisions", "fp32", "--budget", str(tmp_path / "budget.json"), *SHORT])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    budget = page[page.index('id="budget"') : page.index('id="parity"')]
    terminal = capsys.readouterr().out
    for limit in ("400,000", "0.9875", "2e-05"):
        assert f'<td class="number">{limit}</td>' in budget
        assert f" {limit} " in terminal


def test_every_limit_has_a_meaning_on_the_page() -> None:
    assert report.MEANINGS.keys() == Budget.__dataclass_fields__.keys()


def test_what_speaks_against_a_bundle_stands_apart_from_what_is_not_decided(tmp_path: Path, no_processes: None) -> None:
    (tmp_path / "budget.json").write_text('{"p95_ms": 0.001}')
    rollout.main(["--out", str(tmp_path), "--precisions", "fp32", "--budget", str(tmp_path / "budget.json"), *SHORT])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    order = (
        *("May not be deployed", "budget: p95_ms is"),
        *("Also not decided:", "parity was not judged", "Cautions:"),
    )
    places = [page.index(said) for said in order]
    assert places == sorted(places)
    assert "95 of 100 files take less" in page


def test_the_names_of_the_cases_stand_below_the_curves() -> None:
    rows = [
        {"backend": "cpu", "precision": precision, "measured": name, "cpus": 1, "cells_per_second": 1.0}
        for name in ("model", "file to result")
        for precision in ("fp32", "int8")
    ]
    figure = Figure(layout="constrained")
    plots._rates(figure, rows, "cpus", "CPUs")
    figure.draw_without_rendering()
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cpu fp32", "cpu int8"]
    assert legend.get_window_extent().y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)


def test_rates_near_each_other_leave_room_above_the_highest() -> None:
    rows = [
        {"backend": "cpu", "precision": "fp32", "measured": name, "cpus": cpus, "cells_per_second": rate}
        for name in ("model", "file to result")
        for cpus, rate in ((1, 115.5), (2, 123.8))
    ]
    figure = Figure()
    plots._rates(figure, rows, "cpus", "CPUs")
    assert list(figure.axes[0].get_ylim()) == pytest.approx([0, 1.1 * 123.8])


def test_a_page_of_failures_alone_can_be_written(tmp_path: Path, no_processes: None) -> None:
    assert rollout.main(["--out", str(tmp_path), "--precisions", "fp32", *SHORT]) == DONE
    record = record_in(tmp_path)
    for section in record["sections"].values():
        section.clear()
        section["rows"] = [failed(BackendError("no card"))]
    record["verdict"] = verdict_of(record)
    page = write_report(record, tmp_path).read_text(encoding="utf-8")
    assert page.count("failed: no card</td>") == 6
    assert "nothing could be measured" in page


def test_a_variant_for_a_cpu_is_measured_on_the_cpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(write_tiny_bundle(tmp_path / "bundle", ("fp32", "int8_cpu")))
    monkeypatch.setattr(cases_module, "has_provider", lambda _: True)  # there seems to be a GPU
    found = cases_module.cases_of(
        bundle, RolloutOptions(bundle.folder, bundle.folder), cases_module.Case("cuda", "fp32")
    )
    assert [case.name for case in found] == ["cuda fp32", "cpu fp32", "cpu int8_cpu"]


def test_the_deployed_case_is_measured_first_then_its_precision_elsewhere_then_its_other_precisions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cases_module, "usable_backends", lambda _: ["openvino", "cpu"])
    found = cases_module.cases_of(
        Bundle.open(DEFAULT_BUNDLE), RolloutOptions(DEFAULT_BUNDLE, Path()), cases_module.Case("cpu", "fp32")
    )
    of_the_cpu, elsewhere = ["cpu fp16", "cpu int8"], ["openvino fp16", "openvino int8"]
    assert [case.name for case in found] == ["cpu fp32", "openvino fp32", *of_the_cpu, *elsewhere]


def test_the_cases_that_quick_has_no_time_for_are_rows_that_say_so(cell_file: CellFile) -> None:
    cases = [cases_module.Case("cpu", precision) for precision in ("fp32", "int8", "fp16")]
    options = RolloutOptions(DEFAULT_BUNDLE, Path(), batch_sizes=(1,), window=ONE_RUN, part_runs=1, case_seconds=0.0)
    section = latency.latency(options, cases, [str(cell_file("a.bmp"))])
    late = {"status": "skipped", "reason": "the 0 s that --quick has for this were over"}
    assert [row["precision"] for row in section["rows"] if row["status"] == "ok"] == ["fp32", "fp32"]
    assert section["rows"][2:] == [{**case.columns, **late} for case in cases[1:]]
    whole = latency.latency(replace(options, case_seconds=None), cases, [str(cell_file("a.bmp"))])
    assert [row["status"] for row in whole["rows"]] == ["ok"] * 6


def test_quick_takes_fewer_cells_of_a_large_network_but_for_what_was_chosen_by_hand(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    asked: list[RolloutOptions] = []

    def measure(options: RolloutOptions, *_: object) -> None:
        asked.append(options)
        raise DataError("seen")

    monkeypatch.setattr(measurement, "measure", measure)
    for limit in (np.inf, 0.0):
        monkeypatch.setattr(cases_module, "LARGE_S", limit)
        with pytest.raises(DataError, match="seen"):
            rollout.main(["--bundle", str(tiny_bundle), "--out", str(tiny_bundle), "--quick", "--peer-cells", "24"])
    assert [(options.cells, options.batch_sizes, options.peer_cells) for options in asked] == [
        (300, (1, 16), 24),
        (64, (1, 2), 24),
    ]


def test_engines_are_measured_in_the_precisions_that_were_built(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_bundle / "engines").mkdir()
    (tiny_bundle / "engines" / "card-fp16.engine").write_bytes(b"")
    monkeypatch.setattr(cases_module, "has_provider", lambda name: name == "cpu")
    bundle = Bundle.open(tiny_bundle)
    deployed = cases_module.Case("cpu", "fp32")
    found = cases_module.cases_of(bundle, RolloutOptions(tiny_bundle, tiny_bundle), deployed)
    assert [case.name for case in found] == ["cpu fp32", "cpu fp16", "cpu int8", "tensorrt fp16"]


def test_an_answer_just_below_the_threshold_stays_below_it_in_the_record() -> None:
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(decision=SimpleNamespace(threshold=0.9)))
    answers = np.array([0.9, 0.1], np.float32)  # float32(0.9) is 0.8999999762
    scores = Scores([], np.array([True, False]), answers, {"cpu fp32": {BATCH_SIZE: answers}}, {})
    assert parity.judged(bundle, scores, (), None)["answers"]["cpu fp32"][0] < 0.9
