from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

import runtime
from runtime import results
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import Classifier, review_band
from runtime.classify import MOST_EMPTY_TOLD, MOST_PRINTED, main, report_groups
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE, REFUSED, TERMINATED, run_command
from runtime.demo import demo_cells
from runtime.errors import OutputError, UsageError
from runtime.groups import GroupCounts
from runtime.inputs import find_inputs, read_list
from runtime.locks import try_lock
from runtime.schema import Decision, Prediction
from tests.runtime.another_user import another_user, needs_root, open_folder
from tests.runtime.full_disk import disk_with_room_for

CellFile = Callable[[str], Path]
ROOT = Path(__file__).parents[2]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.DictReader(stream))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "runtime.classify", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_example_in_the_readme_runs(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = (ROOT / "runtime" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    cell_file("cells/a.bmp")
    monkeypatch.chdir(tmp_path)
    exec(example, {})  # noqa: S102  the project's own
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(("cells/a.bmp ALL ", "cells/a.bmp healthy "))
    assert second == "cells/b.bmp  None error cannot be opened: No such file or directory"


def test_a_folder_gives_a_row_for_each_cell_in_the_order_of_names(cell_file: CellFile, tmp_path: Path) -> None:
    for name in ("cells/b.bmp", "cells/a.png", "cells/sub/c.bmp"):
        cell_file(name)
    assert main([str(tmp_path / "cells"), "--out", str(tmp_path / "r.csv")]) == DONE
    rows = rows_of(tmp_path / "r.csv")
    assert list(rows[0]) == ["path", "label", "p_all", "status", "reason", "seconds"]
    assert [Path(row["path"]).name for row in rows] == ["a.png", "b.bmp", "c.bmp"]
    assert {(row["status"], row["reason"].split(":")[0]) for row in rows} == {("review", "blurred")}, "it is drawn"
    assert all(row["label"] == ("ALL" if float(row["p_all"]) >= 0.5 else "healthy") for row in rows)


def test_json_lines_hold_the_same_values_as_csv(cell_file: CellFile, tmp_path: Path) -> None:
    cell_file("cells/a.bmp")
    (tmp_path / "cells" / "b.bmp").write_bytes(b"")
    for name in ("r.csv", "r.jsonl"):
        assert main([str(tmp_path / "cells"), "--out", str(tmp_path / name)]) == PARTLY_DONE
    good, bad = (json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines())
    good_row, bad_row = rows_of(tmp_path / "r.csv")
    assert good["p_all"] == pytest.approx(float(good_row["p_all"]), abs=1e-6)
    assert (bad["label"], bad["p_all"], bad["status"], bad["reason"]) == ("", None, "error", "the file is empty")
    assert (bad_row["label"], bad_row["p_all"], bad_row["status"]) == ("", "", "error")


def test_bad_files_cost_their_own_rows_and_exit_code_2(
    cell_file: CellFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = cell_file("cells/good.bmp")
    for name, content in {
        "cut.bmp": good.read_bytes()[:9999],
        "empty.png": b"",
        "notes.txt": b"hello",
        "page.dcm": b"?" * 300,
    }.items():
        (tmp_path / "cells" / name).write_bytes(content)
    (tmp_path / "cells" / "labels.csv").write_text("path,label\n")
    (tmp_path / "cells" / ".hidden.bmp").write_bytes(b"")
    assert main([str(tmp_path / "cells"), "--out", str(tmp_path / "r.csv")]) == PARTLY_DONE
    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "r.csv")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "cut.bmp": "error",
        "empty.png": "error",
        "good.bmp": "review",
        "notes.txt": "error",
        "page.dcm": "error",
    }
    said = capsys.readouterr().err
    assert "4 not readable" in said
    assert "left out 2 files of the folders: hidden, beside images" in said


def test_the_threshold_decides_the_label(cell_file: CellFile, tmp_path: Path) -> None:
    cell = cell_file("cell.bmp")
    for threshold, label in (("0", "ALL"), ("1", "healthy")):
        assert main([str(cell), "--threshold", threshold, "--out", str(tmp_path / "r.csv")]) == DONE
        assert [row["label"] for row in rows_of(tmp_path / "r.csv")] == [label]


def test_a_file_name_may_hold_anything(cell_file: CellFile, tmp_path: Path) -> None:
    names = ['comma, "quote".bmp', "line\nbreak.bmp", "carriage\rreturn.bmp", "ü 細胞.bmp"]
    if sys.platform.startswith("linux"):
        names.append(os.fsdecode(b"not-utf8-\xff.bmp"))
    for name in names:
        cell_file(f"cells/{name}")
    assert main([str(tmp_path / "cells"), "--out", str(tmp_path / "r.csv")]) == DONE
    assert {Path(row["path"]).name for row in rows_of(tmp_path / "r.csv")} == set(names)


REFUSALS: dict[str, tuple[list[str], str]] = {
    "no path": ([], "expected an image or a folder of images, received no path"),
    "missing": (["/no/such/folder"], "expected an image or a folder of images at /no/such/folder, found nothing"),
    "empty folder": (["{tmp}"], "expected images in {tmp}, found none"),
    "other output": (["{cell}", "--out", "{tmp}/r.xlsx"], "expected an output name ending in .csv or .jsonl"),
    "output is a folder": (
        ["{cell}", "--out", "{tmp}/folder.csv"],
        "expected a file name, found the folder {tmp}/folder.csv",
    ),
    "output below a file": (["{cell}", "--out", "{cell}/r.csv"], "cannot write"),
    "no bundle": (["{cell}", "--bundle", "{tmp}"], "expected a bundle with a bundle.json"),
    "no such backend": (["{cell}", "--backend", "cuda"], "expected the provider CUDAExecutionProvider"),
    "no such list": (["--list", "{tmp}/none.txt"], "expected a list of paths that can be read at {tmp}/none.txt"),
    "resume without out": (["{cell}", "--resume"], "expected the --out of the run that was cut off"),
    "pattern of nothing": (["{tmp}/*.tif"], "expected an image or a folder of images at {tmp}/*.tif, found nothing"),
    "out over the table of the maps": (
        ["{cell}", "--out", "{tmp}/index.csv", "--explain", "{tmp}/x/.."],
        "expected another place for --out than for index.csv of --explain",
    ),
    "out over the list": (
        ["--list", "{tmp}/list.csv", "--out", "{tmp}/list.csv"],
        "expected another place for --list than for --out",
    ),
    "roll-up over the list": (
        ["--list", "{tmp}/r.folders.csv", "--out", "{tmp}/r.csv", "--group-by", "folder"],
        "expected another place for --list than for the roll-up beside --out",
    ),
    "page in the place of the maps": (
        ["{cell}", "--html", "{tmp}/x.html", "--explain", "{tmp}/x.html"],
        "expected another place for --html than for --explain",
    ),
    "a list without a name": (["{cell}", "--list", ""], "expected a list of paths that can be read"),
    "too long a name": (["{cell}", "--out", "{tmp}/" + "x" * 256 + ".csv"], "cannot write"),
    "demo and paths": (["{cell}", "--demo"], "expected either --demo or paths"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_is_one_line_with_exit_code_1_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the process goes on after the command
    work = tmp_path / "work"
    (work / "folder.csv").mkdir(parents=True)
    cell = tmp_path / "cell.bmp"
    cell.write_bytes(b"not looked at")
    places = {"tmp": str(work), "cell": str(cell)}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main([argument.format(**places) for argument in arguments]))
    assert ended.value.code == REFUSED
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: " + message.format(**places))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["--batch-size", "0"], ["--threshold", "2"], ["--treshold", "0.5"]])
def test_a_wrong_option_is_exit_code_1_too(arguments: list[str]) -> None:
    done = run("--demo", *arguments)
    assert done.returncode == REFUSED
    assert len(done.stderr.splitlines()) == 1


def test_the_demo_needs_no_data_and_says_that_its_cells_are_drawn() -> None:
    done = run("--demo")
    assert done.returncode == DONE
    assert len(done.stdout.splitlines()) == 10
    assert "drawn" in done.stderr
    assert "not a diagnosis" in done.stderr


def test_interrupting_ends_quietly_and_keeps_the_rows_that_were_done(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = str(cell_file("cell.bmp"))
    whole = Classifier.classify

    def interrupted(self: Classifier, paths: object) -> object:
        yield from whole(self, [cell, cell])
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "classify", interrupted)
    assert main([cell, "--out", str(tmp_path / "r.csv")]) == INTERRUPTED
    assert not (tmp_path / "r.csv").exists()
    [partial] = tmp_path.glob("r.csv.*.partial")
    assert len(rows_of(partial)) == 2
    said = capsys.readouterr().err
    assert "interrupted: 2 files" in said
    assert f"kept in {partial}" in said


def test_a_process_that_is_killed_leaves_every_row_that_was_made(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Classifier.classify
    left: list[int] = []

    def looked_at(self: Classifier, paths: Iterable[str]) -> Iterator[Prediction]:
        for prediction in whole(self, paths):
            yield prediction
            left.extend(len(rows_of(partial)) for partial in six_cells.glob("r.csv.*.partial"))

    monkeypatch.setattr(Classifier, "classify", looked_at)
    assert main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv")]) == PARTLY_DONE
    assert left == [1, 2, 3, 4, 5, 6]


def test_two_runs_with_one_output_never_mix_their_rows(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = str(cell_file("one.bmp")), str(cell_file("other.bmp"))
    whole = Classifier.classify

    def slow(self: Classifier, paths: object) -> object:
        yield from whole(self, [one])
        monkeypatch.setattr(Classifier, "classify", whole)
        assert main([other, "--out", str(tmp_path / "r.csv")]) == DONE  # from first row to last while this one runs
        yield from whole(self, [one])

    monkeypatch.setattr(Classifier, "classify", slow)
    assert main([one, "--out", str(tmp_path / "r.csv")]) == DONE
    assert [row["path"] for row in rows_of(tmp_path / "r.csv")] == [one, one]
    assert not list(tmp_path.glob("*.partial"))


def test_where_the_name_beside_the_table_is_too_long_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "sources_path", lambda partial: partial.with_name("x" * 300))
    with pytest.raises(OutputError, match=r"cannot write .*r\.csv: "):
        results.ResultsFile(tmp_path / "r.csv", run="of-this-bundle")
    assert not list(tmp_path.iterdir())


def test_a_closed_standard_output_is_an_error_of_one_line(cell_file: CellFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="found it closed; use --out"):
        main([str(cell_file("cell.bmp"))])


def test_hidden_folders_are_left_out_like_hidden_files(cell_file: CellFile, tmp_path: Path) -> None:
    for name in ("cells/a.png", "cells/.thumbnails/a.png", "cells/.b.png"):
        cell_file(name)
    assert main([str(tmp_path / "cells"), "--out", str(tmp_path / "r.csv")]) == DONE
    assert [Path(row["path"]).name for row in rows_of(tmp_path / "r.csv")] == ["a.png"]


def test_a_folder_that_cannot_be_read_is_refused_before_anything_is_classified(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cells/a.png", "cells/closed/b.png"):
        cell_file(name)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"expected a folder that can be read at .*closed, found: Permission denied"):
        main([str(tmp_path / "cells"), "--out", str(tmp_path / "r.csv")])
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to one process")
def test_ctrl_c_in_the_middle_of_a_real_run_is_quiet(cell_file: CellFile, tmp_path: Path) -> None:
    cell = cell_file("cells/0.bmp")
    for number in range(1, 3000):
        (tmp_path / "cells" / f"{number}.bmp").hardlink_to(cell)
    command = [sys.executable, "-m", "runtime.classify", str(tmp_path / "cells"), "--out", str(tmp_path / "r.csv")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(map(rows_of, tmp_path.glob("r.csv.*.partial"))):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in said
    assert not (tmp_path / "r.csv").exists()
    [kept] = tmp_path.glob("r.csv.*.partial")
    assert rows_of(kept)


def test_a_reader_that_goes_away_ends_the_run_quietly() -> None:
    command = [sys.executable, "-m", "runtime.classify", "--demo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()  # before the process has written anything
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == REFUSED
    assert "Traceback" not in said
    assert "Exception" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_an_error_of_one_line(unbuffered: str) -> None:
    command = [sys.executable, "-m", "runtime.classify", "--demo"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == REFUSED
    assert done.stderr.endswith("error: cannot write to standard output: No space left on device; use --out\n")
    assert "Traceback" not in done.stderr


def test_no_training_library_is_in_the_process() -> None:
    code = """
import sys
for name in ("tensorflow", "keras", "onnx", "tf2onnx", "sklearn", "scipy"):
    sys.modules[name] = None
import importlib, pkgutil, runtime
for module in pkgutil.walk_packages(runtime.__path__, "runtime."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in ("fsspec", "pyarrow", "ray", "tritonclient"):  # of extras that may be absent
            raise
from runtime.classify import MOST_PRINTED, main, report_groups
sys.exit(main(["--demo"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == DONE, done.stderr


def test_the_default_bundle_is_small_and_says_what_it_is() -> None:
    size = sum(path.stat().st_size for path in DEFAULT_BUNDLE.rglob("*"))
    assert size < 8 * 2**20
    card = (DEFAULT_BUNDLE / "MODEL_CARD.md").read_text()
    for words in ("not a diagnosis", "doi 10.7937/tcia.2019.dc64i46r", "95 % intervals", "split by image"):
        assert words in card


def test_the_default_bundle_tells_real_cells_apart(real_cells: Path) -> None:
    paths = [str(path) for path in sorted((real_cells / "bmp").glob("*.bmp"))]
    with Classifier() as classifier:
        labels = [prediction.label for prediction in classifier.classify(paths)]
    right = sum(label == ("ALL" if "_all" in path else "healthy") for label, path in zip(labels, paths, strict=True))
    assert right >= 9, labels


def test_the_rows_of_an_audit_say_which_image_and_what_judged_it(cell_file: CellFile, tmp_path: Path) -> None:
    cell = cell_file("cells/a.bmp")
    (tmp_path / "cells" / "b.bmp").write_bytes(b"broken")
    assert main([str(tmp_path / "cells"), "--audit", "--threshold", "0.3", "--out", str(tmp_path / "r.csv")]) == 2
    good, bad = rows_of(tmp_path / "r.csv")
    assert good["sha256"] == hashlib.sha256(cell.read_bytes()).hexdigest()
    assert bad["sha256"] == hashlib.sha256(b"broken").hexdigest(), "a damaged file is named by its content, too"
    assert datetime.fromisoformat(good["time"]).tzinfo == timezone.utc
    assert good["bundle"] == Bundle.open(DEFAULT_BUNDLE).content_sha256
    assert (good["threshold"], good["precision"], good["version"]) == ("0.3", "fp32", runtime.__version__)
    assert "CPUExecutionProvider" in good["backend"]


def test_a_cell_near_the_threshold_is_for_review_and_the_band_follows_the_threshold(
    cell_file: CellFile, tmp_path: Path
) -> None:
    cell = cell_file("cell.bmp")  # p_all 0.94
    reasons = {}
    for threshold in ("0.5", "0.9"):
        assert main([str(cell), "--threshold", threshold, "--out", str(tmp_path / "r.csv")]) == DONE
        [row] = rows_of(tmp_path / "r.csv")
        reasons[threshold] = row["reason"]
    assert "near the threshold" not in reasons["0.5"]
    assert reasons["0.9"].endswith("; near the threshold: p_all is between 0.780 and 0.958")


@pytest.mark.parametrize("start", [0.5, 0.2, 0.999])
def test_the_band_moves_in_log_odds_and_stays_within_0_and_1(start: float) -> None:
    def log_odds(p_all: float) -> float:
        return math.log(p_all / (1 - p_all))

    low, high = (1 / (1 + math.exp(-log_odds(start) + reach)) for reach in (0.9, -0.9))
    decision = Decision("none", start, 1.0, 0.1, 0.1, low, high)
    for threshold in (0.001, 0.2, 0.85, 0.999):
        moved = review_band(decision, threshold)
        assert [log_odds(p_all) - log_odds(threshold) for p_all in moved] == pytest.approx([-0.9, 0.9])
    assert review_band(decision, start) == (low, high), "exactly"
    assert review_band(decision, 0) == (0, 0)
    assert review_band(decision, 1) == (1, 1)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_band_at_the_end_of_the_scale_moves_to_a_number(start: float) -> None:
    decision = Decision("none", start, 1.0, 0.1, 0.1, 0.0 if start == 0 else 0.9, 0.1 if start == 0 else 1.0)
    low, high = review_band(decision, 0.5)
    assert 0 <= low <= 0.5 <= high <= 1


def cut_off_run(folder: Path, rows: int, monkeypatch: pytest.MonkeyPatch, name: str = "r.csv", *more: str) -> Path:
    """Classify a folder until so many rows were made, and stop as a power cut does; return what is left."""
    whole = Classifier.classify

    def interrupted(self: Classifier, paths: Iterable[str]) -> Iterator[Prediction]:
        yield from islice(whole(self, paths), rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "classify", interrupted)
        assert main([str(folder / "cells"), "--out", str(folder / name), *more]) == INTERRUPTED
    [partial] = folder.glob(f"{name}.*.partial")
    return partial


def answers(path: Path) -> list[tuple[str, ...]]:
    rows = rows_of(path) if path.suffix == ".csv" else [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["path"], row["label"], row["p_all"], row["reason"]) for row in rows]


@pytest.fixture
def six_cells(cell_file: CellFile, tmp_path: Path) -> Path:
    for name in ("a", "b", 'comma, "quote"', "carriage\rreturn", "line\nbreak"):
        cell_file(f"cells/{name}.bmp")
    (tmp_path / "cells" / "broken.bmp").write_bytes(b"?")
    return tmp_path


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
@pytest.mark.parametrize("torn", [0, 1, 25])  # bytes of the last row that did not reach the disk
def test_a_run_that_was_cut_off_goes_on_and_gives_what_a_whole_one_gives(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch, name: str, torn: int
) -> None:
    whole, out = six_cells / f"whole{Path(name).suffix}", six_cells / name
    assert main([str(six_cells / "cells"), "--out", str(whole)]) == PARTLY_DONE
    partial = cut_off_run(six_cells, 5, monkeypatch, name)
    partial.write_bytes(partial.read_bytes()[: -torn or None])
    classified: list[str] = []
    classify = Classifier.classify

    def counted(self: Classifier, paths: Iterable[str]) -> Iterator[Prediction]:
        classified.extend(paths)
        return classify(self, classified)

    monkeypatch.setattr(Classifier, "classify", counted)
    assert main([str(six_cells / "cells"), "--out", str(out), "--resume"]) == PARTLY_DONE, "also of the rows kept"
    assert answers(out) == answers(whole)
    assert len(classified) == (1 if torn == 0 else 2), "the torn row is made again, no other"
    assert not list(six_cells.glob("*.partial"))


def test_images_that_changed_after_the_run_began_are_classified_anew(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = six_cells / "cells" / "a.bmp", six_cells / "cells" / "b.bmp"
    other = six_cells / "other.bmp"
    with Image.open(demo_cells()[-1]) as image:
        image.save(other)
    time.sleep(0.05)  # longer than the file system's clock stands still
    cut_off_run(six_cells, 5, monkeypatch)
    b.write_bytes(other.read_bytes())
    os.utime(other, (1, 1))  # as a copy that keeps the time of an old file
    other.replace(a)
    command = [str(six_cells / "cells"), "--out"]
    assert main([*command, str(six_cells / "r.csv"), "--resume"]) == PARTLY_DONE
    assert "\nkept 3 rows of the run that was cut off\n" in capsys.readouterr().err
    assert main([*command, str(six_cells / "whole.csv")]) == PARTLY_DONE
    assert sorted(answers(six_cells / "r.csv")) == sorted(answers(six_cells / "whole.csv"))


def test_each_folder_without_images_is_told(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell_file("cells/a.bmp")
    for name in ("empty", "listed", *map(str, range(MOST_EMPTY_TOLD))):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / "notes.csv").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("listed\ncells/a.bmp\n")
    assert main(["cells", "empty", "--list", "list.txt", "--out", "r.csv"]) == DONE
    told = capsys.readouterr().err
    assert [line for line in told.splitlines() if "no images" in line] == ["no images in empty", "no images in listed"]
    assert main(["cells", "empty", *map(str, range(MOST_EMPTY_TOLD)), "--out", "r.csv"]) == DONE
    told = capsys.readouterr().err
    assert told.count("no images in ") == MOST_EMPTY_TOLD + 1
    assert "\nno images in 1 more folder of those that were named\n" in told


@pytest.mark.parametrize("way", ["another current folder", "a link", "a renamed folder"])
def test_rows_are_kept_only_where_the_same_paths_still_lead_to_the_same_files(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    one, other = six_cells / "cells", six_cells / "elsewhere" / "cells"
    other.mkdir(parents=True)
    for path in one.iterdir():
        shutil.copy(demo_cells()[-1], other / path.name)
        os.utime(other / path.name, ns=(0, path.stat().st_mtime_ns))
    os.link(one / "a.bmp", six_cells / "kept")
    (six_cells / "kept").replace(other / "a.bmp")  # the same file in both folders
    if way == "a link":
        one = one.rename(six_cells / "one")
        (six_cells / "cells").symlink_to(one)
    monkeypatch.chdir(six_cells)
    time.sleep(0.05)  # longer than the file system's clock stands still: no file changes after the run began
    cut_off_run(Path(), 5, monkeypatch)
    if way == "another current folder":
        monkeypatch.chdir(six_cells / "elsewhere")
    elif way == "a link":
        (six_cells / "cells").unlink()
        (six_cells / "cells").symlink_to(other)
    else:
        one.rename(six_cells / "one")
        other.rename(six_cells / "cells")
    assert main(["cells", "--out", str(six_cells / "r.csv"), "--resume"]) == DONE
    assert "\nkept 1 row of the run that was cut off\n" in capsys.readouterr().err
    assert main(["cells", "--out", str(six_cells / "whole.csv")]) == DONE
    assert sorted(answers(six_cells / "r.csv")) == sorted(answers(six_cells / "whole.csv"))
    assert not list(six_cells.glob(".*")), "nothing is left beside the table"


@pytest.mark.parametrize("left", ["", "\xff\n", "0123456789abcdef 450 of another version\n", "0123456789abcdef 450\n"])
def test_without_what_tells_of_which_files_its_rows_are_no_row_is_kept(
    left: str, six_cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time.sleep(0.05)
    partial = cut_off_run(six_cells, 5, monkeypatch)
    sources = six_cells / f".{partial.name}.files"
    sources.unlink()
    if left:
        sources.write_text(left, encoding="latin-1")
    assert main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume"]) == PARTLY_DONE
    assert "\nkept 0 rows of the run that was cut off\n" in capsys.readouterr().err
    assert len(rows_of(six_cells / "r.csv")) == 6


@pytest.mark.usefixtures("capsys")  # otherwise standard error is a file, which may not grow either
def test_a_disk_that_fills_up_says_how_to_go_on(six_cells: Path) -> None:
    whole, out = six_cells / "whole.csv", six_cells / "r.csv"
    assert main([str(six_cells / "cells"), "--out", str(whole)]) == PARTLY_DONE
    expected = r"cannot write .*r\.csv: .*; the rows so far are kept in r\.csv\..*\.partial: continue with --resume"
    with disk_with_room_for(whole.stat().st_size // 2), pytest.raises(OutputError, match=expected):
        main([str(six_cells / "cells"), "--out", str(out)])
    assert not out.exists()
    assert main([str(six_cells / "cells"), "--out", str(out), "--resume"]) == PARTLY_DONE
    assert answers(out) == answers(whole)


@pytest.mark.usefixtures("capsys")
def test_a_table_that_cannot_be_begun_is_named_and_leaves_nothing(six_cells: Path) -> None:
    with disk_with_room_for(0), pytest.raises(OutputError, match=r"^cannot write .*r\.csv: File too large; choose"):
        main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv")])
    assert not [*six_cells.glob("*r.csv*")]


def test_sigterm_says_as_ctrl_c_does_where_the_rows_are_kept(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(*_: object) -> Iterator[Prediction]:
        raise SystemExit(TERMINATED)

    monkeypatch.setattr(Classifier, "classify", terminated)
    with pytest.raises(SystemExit) as stopped:
        main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv")])
    assert stopped.value.code == TERMINATED
    told = capsys.readouterr().err
    assert "interrupted: 0 files" in told
    assert told.endswith(".partial: continue with --resume\n")


def test_a_run_goes_on_more_than_once(six_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_run(six_cells, 2, monkeypatch)
    whole = Classifier.classify

    def interrupted(self: Classifier, paths: Iterable[str]) -> Iterator[Prediction]:
        yield from islice(whole(self, paths), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "classify", interrupted)
        assert main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume"]) == INTERRUPTED
    assert main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume"]) == PARTLY_DONE
    assert len(rows_of(six_cells / "r.csv")) == len({row["path"] for row in rows_of(six_cells / "r.csv")}) == 6


def test_a_run_that_was_cut_off_while_its_page_was_written_goes_on_too(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = [str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--html", str(six_cells / "r.html")]
    with monkeypatch.context() as patch:
        patch.setattr("runtime.classify.ContactSheet.write", interrupted)
        assert main(command) == INTERRUPTED
    assert capsys.readouterr().err.endswith(".partial: continue with --resume\n")
    assert main([*command, "--resume"]) == PARTLY_DONE
    assert "kept 6 rows of the run that was cut off" in capsys.readouterr().err
    assert (len(rows_of(six_cells / "r.csv")), (six_cells / "r.html").exists()) == (6, True)


def test_rows_of_another_threshold_are_not_mixed_in(six_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = cut_off_run(six_cells, 2, monkeypatch)
    with pytest.raises(OutputError, match=r"r\.csv.*partial was begun with another bundle, precision, threshold"):
        main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume", "--threshold", "0.4"])
    assert list(six_cells.glob("r.csv*")) == [partial], "what was left is still there"


def test_a_file_that_is_given_more_than_once_is_taken_once_in_its_first_place_and_that_is_said(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cells/b.bmp", "cells/sub/a.bmp", "cells/sub/.hidden.bmp"):
        cell_file(name)
    (tmp_path / "link").symlink_to("cells", target_is_directory=True)
    (tmp_path / "list.txt").write_text("cells/sub/a.bmp\ngone.bmp\ngone.bmp\n")
    monkeypatch.chdir(tmp_path)
    names = ["cells/sub", "cells", "link", "cells/./b.bmp", "--list", "list.txt", "--out", "r.csv"]
    assert main(names) == PARTLY_DONE
    assert [row["path"] for row in rows_of(tmp_path / "r.csv")] == ["cells/sub/a.bmp", "cells/b.bmp", "gone.bmp"]
    told = capsys.readouterr().err
    assert "left out 6 paths to files that were already given" in told
    assert "left out 1 file of the folders" in told
    assert "no images" not in told
    assert find_inputs(["cells/sub", "cells/sub/.hidden.bmp"]).left_out == 0, "one that is named itself is wanted"


def test_nothing_to_resume_is_said_and_a_finished_run_is_not_done_again(
    cell_file: CellFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(cell_file("a.bmp")), "--out", str(tmp_path / "r.csv"), "--resume"]) == DONE
    assert "that was cut off: starting with the first file" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "r.csv")) == 1
    before = (tmp_path / "r.csv").stat()
    with pytest.raises(UsageError, match=r"found that .*r\.csv is complete; omit --resume to classify all files again"):
        main([str(cell_file("a.bmp")), "--out", str(tmp_path / "r.csv"), "--resume"])
    assert (tmp_path / "r.csv").stat() == before


def test_what_is_older_than_the_complete_table_is_not_gone_on_with(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial_path = cut_off_run(six_cells, 5, monkeypatch)
    command = [str(six_cells / "cells"), "--out", str(six_cells / "r.csv")]
    assert main(command) == PARTLY_DONE
    os.utime(partial_path, (1, 1))
    with pytest.raises(UsageError, match="is complete"):
        main([*command, "--resume"])


def test_a_clock_that_stepped_back_costs_time_and_no_rows(six_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [str(six_cells / "cells"), "--out", str(six_cells / "r.csv")]
    assert main(command) == PARTLY_DONE
    complete = answers(six_cells / "r.csv")
    later = time.time() + 3600
    os.utime(six_cells / "r.csv", (later, later))
    cut_off_run(six_cells, 2, monkeypatch)
    with pytest.raises(UsageError, match="is complete"):  # the unfinished table seems to be the older one
        main([*command, "--resume"])
    assert main(command) == PARTLY_DONE
    assert answers(six_cells / "r.csv") == complete


def test_all_that_cut_off_runs_left_goes_when_one_of_them_is_completed(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = cut_off_run(six_cells, 2, monkeypatch)
    moved = shorter.rename(six_cells / "moved")
    cut_off_run(six_cells, 4, monkeypatch)
    moved.rename(shorter)
    assert main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume"]) == PARTLY_DONE
    assert not list(six_cells.glob("*.partial"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_run_that_is_not_cut_off_is_not_gone_on_with(six_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial_path = cut_off_run(six_cells, 2, monkeypatch)
    with partial_path.open("a") as stream:
        try_lock(stream)
        with pytest.raises(OutputError, match=r"found that another run is writing r\.csv\..*; wait for it, or stop it"):
            main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume"])
    assert partial_path.exists()


def test_rows_of_files_that_are_not_named_any_more_are_told(
    six_cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off_run(six_cells, 3, monkeypatch)
    (six_cells / "cells" / "a.bmp").unlink()
    assert main([str(six_cells / "cells"), "--out", str(six_cells / "r.csv"), "--resume"]) == PARTLY_DONE
    assert "kept rows of files that this command line does not name: 1" in capsys.readouterr().err


def test_a_page_and_a_roll_up_that_cannot_be_written_leave_a_complete_table_and_exit_code_2(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: object, *_: object) -> None:
        raise OutputError("cannot write it")

    monkeypatch.setattr("runtime.classify.GroupCounts.write", fail)
    monkeypatch.setattr("runtime.classify.ContactSheet.write", fail)
    command = [str(cell_file("a.bmp")), "--out", str(tmp_path / "r.csv"), "--group-by", "folder"]
    assert main([*command, "--html", str(tmp_path / "r.html")]) == PARTLY_DONE
    assert len(rows_of(tmp_path / "r.csv")) == 1
    message = "error: cannot write it; the results table is complete without it"
    assert capsys.readouterr().err.count(message) == 2, "the page is tried though the roll-up failed"


@pytest.mark.parametrize(("name", "option"), [("r.csv", "--out"), ("r.html", "--html")])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_one_and_the_result_comes_to_where_it_leads(
    name: str, option: str, is_there: bool, cell_file: CellFile, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere" / "without suffix"
    if is_there:
        target.parent.mkdir()
        target.write_text("old")
    (tmp_path / name).symlink_to(target)
    assert main([str(cell_file("cell.bmp")), option, str(tmp_path / name)]) == DONE
    assert (tmp_path / name).is_symlink()
    written = target.read_text(encoding="utf-8")
    assert written.startswith("path,label,p_all" if option == "--out" else "<!DOCTYPE html>")
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_run_goes_on_behind_a_link(six_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = cut_off_run(six_cells, 3, monkeypatch)
    (six_cells / "link.csv").symlink_to("r.csv")
    assert main([str(six_cells / "cells"), "--out", str(six_cells / "link.csv"), "--resume"]) == PARTLY_DONE
    assert len(rows_of(six_cells / "r.csv")) == 6
    assert not partial.exists(), "what was left is used up"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(("name", "option"), [("r.csv", "--out"), ("r.html", "--html")])
@pytest.mark.parametrize("is_linked", [True, False])
def test_a_pipe_is_not_replaced(name: str, option: str, is_linked: bool, cell_file: CellFile, tmp_path: Path) -> None:
    pipe = tmp_path / ("pipe" if is_linked else name)
    os.mkfifo(pipe)
    if is_linked:
        (tmp_path / name).symlink_to(pipe)
    with pytest.raises(OutputError, match=f"expected a file name, found a device or a pipe at .*{name}; choose"):
        main([str(cell_file("cell.bmp")), option, str(tmp_path / name)])
    assert pipe.is_fifo()


@needs_root
def test_a_cell_in_a_folder_that_cannot_be_entered_is_not_called_missing() -> None:
    with open_folder() as folder:
        (folder / "closed").mkdir(mode=0o700)
        (folder / "closed" / "cell.bmp").touch()
        for name in ("closed/cell.bmp", "closed/*"):
            with another_user(), pytest.raises(UsageError, match=f"at .*/{re.escape(name)}, found no permission to"):
                find_inputs([str(folder / name)])


@needs_root
@pytest.mark.parametrize("option", ["--out", "--html", "--explain"])
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_folder_that_cannot_be_written_is_refused_at_once(
    option: str, mode: int, cell_file: CellFile, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_folder() as folder:
        (folder / "closed" / "maps").mkdir(parents=True)
        cell = cell_file("cell.bmp").rename(folder / "cell.bmp")
        name = {"--out": "r.csv", "--html": "r.html", "--explain": "maps"}[option]
        for each in (folder / "closed" / "maps", folder / "closed"):
            each.chmod(mode)
        with another_user(), pytest.raises(OutputError, match=r"cannot write .*: Permission denied; choose a place"):
            main([str(cell), option, str(folder / "closed" / name)])
    assert not capsys.readouterr().out, "no row was made"


def test_the_screen_shows_the_first_of_many_groups_where_a_file_holds_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = GroupCounts("folder")
    for number in range(MOST_PRINTED + 2):
        groups.add(Prediction(f"g{number}/a.bmp", "ALL", 0.9, "ok", "", 0.1))
    report_groups(groups, tmp_path / "r.csv")
    shown = capsys.readouterr().err
    assert f"g{MOST_PRINTED - 1} " in shown
    assert f"g{MOST_PRINTED} " not in shown
    assert "with 2 more folders" in shown
    report_groups(groups, None)
    assert f"g{MOST_PRINTED + 1} " in capsys.readouterr().err, "nowhere else"


def test_a_pattern_of_cells_names_no_map_that_was_drawn_of_them(cell_file: CellFile, tmp_path: Path) -> None:
    cell, drawn = cell_file("cells/a.png"), cell_file("cells/maps/a.12345678.map.png")
    found = find_inputs([str(tmp_path / "cells" / "**" / "*.png")])
    assert (found.paths, found.left_out) == ((str(cell),), 1)
    assert find_inputs([str(drawn)]).paths == (str(drawn),), "one that is named itself is wanted"


def test_a_roll_up_leaves_a_link_in_its_place(cell_file: CellFile, tmp_path: Path) -> None:
    (tmp_path / "r.folders.csv").symlink_to("table")
    assert main([str(cell_file("a.png")), "--out", str(tmp_path / "r.csv"), "--group-by", "folder"]) == DONE
    assert (tmp_path / "r.folders.csv").is_symlink()
    assert (tmp_path / "table").read_text(encoding="utf-8").startswith("group,cells,all")


def test_a_pattern_stands_for_the_files_that_match(cell_file: CellFile, tmp_path: Path) -> None:
    for name in ("x/1.bmp", "x/2.png", "x/y/3.bmp", "[odd].bmp"):
        cell_file(name)
    given = {"x/*.bmp": ["1.bmp"], "**/*.bmp": ["[odd].bmp", "1.bmp", "3.bmp"], "[odd].bmp": ["[odd].bmp"]}
    for pattern, expected in given.items():
        found = find_inputs([str(tmp_path / pattern)])
        assert [Path(path).name for path in found.paths] == expected


@pytest.mark.parametrize("pattern", ["cells/**", "cells/**/*", "cells/**/*.bmp", "c*/**/sub/*", "**/*.bmp", "*"])
def test_a_pattern_gives_each_file_once_though_links_lead_back_up(
    cell_file: CellFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("cells/sub/a.bmp", "cells/sub/deep/b.bmp", "cells/.hidden/c.bmp"):
        cell_file(name)
    for link, target in {"cells/up": ".", "cells/sub/up": "..", "cells/sub/again": "../sub"}.items():
        (tmp_path / link).symlink_to(target, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    found = find_inputs([pattern])
    assert sorted(Path(path).name for path in found.paths) == ["a.bmp", "b.bmp"]
    assert all(path.startswith("cells/") for path in found.paths)


def test_names_in_folders_are_filtered_and_what_is_left_out_is_counted(cell_file: CellFile, tmp_path: Path) -> None:
    for name in ("cells/1_a.bmp", "cells/sub/2_a.png", "cells/3_b.bmp"):
        cell_file(name)
    found = find_inputs([str(tmp_path / "cells")], include=["*_a.*"])
    assert [Path(path).name for path in found.paths] == ["1_a.bmp", "2_a.png"]
    assert found.left_out == 1
    with pytest.raises(UsageError, match=r"found none whose name matches \*\.tif"):
        find_inputs([str(tmp_path / "cells")], include=["*.tif"])


def test_a_list_names_files_and_one_that_is_missing_costs_its_own_row(cell_file: CellFile, tmp_path: Path) -> None:
    cells = [cell_file("a b.bmp"), cell_file("c.bmp")]
    lines = [str(cells[0]), "", str(tmp_path / "gone.bmp"), str(cells[1])]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode())
    assert main(["--list", str(tmp_path / "list.txt"), "--out", str(tmp_path / "r.csv")]) == PARTLY_DONE
    assert [(Path(row["path"]).name, row["reason"][:16]) for row in rows_of(tmp_path / "r.csv")] == [
        ("a b.bmp", "blurred: the sha"),
        ("gone.bmp", "cannot be opened"),
        ("c.bmp", "blurred: the sha"),
    ]


def test_a_list_may_begin_with_the_mark_that_windows_editors_write(cell_file: CellFile, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{cell_file('a.bmp')}\n", encoding="utf-8-sig")
    assert read_list(str(tmp_path / "list.txt")) == [str(tmp_path / "a.bmp")]


def test_a_list_in_utf_16_or_of_find_print0_and_a_closed_standard_input_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in ("a.bmp".encode("utf-16"), "a.bmp".encode("utf-16-le"), b"a.bmp\0b.bmp\0"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UsageError, match=r"one in each line, at .*list\.txt, found null characters, as in UTF-16"):
            read_list(str(tmp_path / "list.txt"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="at -, found: standard input is closed"):
        read_list("-")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has names that are not UTF-8")
def test_a_list_may_come_from_standard_input_and_hold_any_bytes(cell_file: CellFile, tmp_path: Path) -> None:
    cell = cell_file(os.fsdecode(b"\xff.bmp"))
    command = [sys.executable, "-m", "runtime.classify", "--list", "-"]
    done = subprocess.run(command, cwd=ROOT, input=os.fsencode(cell) + b"\n", capture_output=True, check=False)
    assert done.returncode == DONE
    assert done.stdout.splitlines()[1].startswith(os.fsencode(cell))
