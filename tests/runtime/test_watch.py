"""The command line, and the service as a process of its own: started, stopped and killed."""

from __future__ import annotations

import csv
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime.command_line import DONE, INTERRUPTED, REFUSED
from runtime.errors import AllnetError, OutputError, UsageError
from runtime.schema import Prediction
from runtime.service.watch_feed import WatchFeed
from runtime.shift import WINDOW
from runtime.watch import build_parser, command_of, main
from runtime.watching.database import FileVersion
from runtime.watching.events import has_events
from runtime.watching.result_store import ResultStore
from tests.runtime.audits import AUDIT
from tests.runtime.full_disk import disk_with_room_for
from tests.runtime.stored_rows import stored_rows
from tests.runtime.tinted import tinted

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

CellFile = Callable[[str], Path]
ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

on_unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to one process")


class Service:
    """python -m runtime.watch as a process; killed at the end where it still runs."""

    def __init__(self, folder: Path, database: Path, *arguments: str) -> None:
        self.database = database
        self._log = database.with_suffix(f".{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "runtime.watch", str(folder), "--db", str(database), *arguments]
        with self._log.open("w") as stream:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=stream)

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, question: Callable[[], bool]) -> None:
        started = time.monotonic()
        while not question():
            assert self.process.poll() is None, self.said
            assert time.monotonic() - started < PATIENCE_S, self.said
            time.sleep(0.01)

    def wait_until_it_watches(self) -> None:
        self.wait_for(lambda: "is watched" in self.said)

    def wait_for_rows(self, count: int) -> None:
        self.wait_for(lambda: self.database.exists() and row_count(self.database) >= count)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


def row_count(database: Path) -> int:
    with closing(sqlite3.connect(database)) as reader:
        [tables] = reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'results'").fetchone()
        return int(reader.execute("SELECT count(*) FROM results").fetchone()[0]) if tables else 0


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    folder = tmp_path / "cells"
    folder.mkdir()
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@on_unix
def test_kill_9_at_random_moments_under_load_loses_and_doubles_nothing(
    cell_file: CellFile, cells: Path, database: Path
) -> None:
    cell = cell_file("cell.bmp")
    content = cell.read_bytes()
    chance = random.Random(5)
    dropped = 0
    for _ in range(6):
        with Service(cells, database, "--interval", "0.05", "--batch-size", "8") as service:
            if chance.random() < 0.8:
                service.wait_until_it_watches()
            for _ in range(100):
                path = cells / f"{dropped}.bmp"
                dropped += 1
                if chance.random() < 0.7:
                    path.hardlink_to(cell)
                    continue
                if chance.random() < 0.3:
                    path.write_bytes(content[: chance.randrange(len(content))])
                    time.sleep(0.002)
                    path.write_bytes(content)
                    continue
                with path.open("wb") as stream:
                    stream.write(content[: chance.randrange(len(content))])
                    stream.flush()
                    time.sleep(0.002)
                    stream.seek(0)
                    stream.write(content)
            time.sleep(chance.random() * 0.3)
            service.stop(signal.SIGKILL)
    with Service(cells, database, "--interval", "0.05") as service:
        service.wait_for_rows(dropped)
        time.sleep(0.5)  # a doubled row would have to come, too
        assert service.stop() == DONE
    rows = [(Path(row.path).name, row.status) for row in stored_rows(database)]
    assert Counter(rows) == {(f"{number}.bmp", "review"): 1 for number in range(dropped)}


@on_unix
def test_sigterm_is_exit_0_with_a_summary_and_ctrl_c_its_usual_code(
    cell_file: CellFile, cells: Path, database: Path
) -> None:
    cell_file("cells/a.bmp")
    (cells / "b.bmp").write_bytes(b"")
    for number, code in ((signal.SIGTERM, DONE), (signal.SIGINT, INTERRUPTED)):
        with Service(cells, database, "--interval", "0.05") as service:
            service.wait_until_it_watches()
            service.wait_for_rows(1)
            assert service.stop(number) == code
            assert "For research, not a diagnosis." in service.said.splitlines()[0]
            assert "stopped: " in service.said.splitlines()[-1]
            assert "Traceback" not in service.said
    assert row_count(database) == 1


@on_unix
def test_a_signal_while_the_model_is_loaded_ends_it_as_well(cells: Path, database: Path) -> None:
    with Service(cells, database) as service:
        service.wait_for(lambda: "onnxruntime" in Path(f"/proc/{service.process.pid}/maps").read_text())
        assert service.stop() == DONE
        assert "stopped: 0 files" in service.said


@on_unix
def test_results_that_cannot_be_written_at_the_end_are_counted_and_come_at_the_next_start(
    cell_file: CellFile, cells: Path, database: Path
) -> None:
    with Service(cells, database, "--interval", "0.05") as service:
        service.wait_until_it_watches()
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(3):
                cell_file(f"cells/{number}.bmp")
            service.wait_for(lambda: "database is locked" in service.said)
            time.sleep(0.5)
            assert service.stop() == REFUSED
            other.execute("ROLLBACK")
        assert "results not written: 3; their files are classified again at the next start" in service.said
        assert service.said.count("database is locked") == 1
    with Service(cells, database, "--interval", "0.05") as service:
        service.wait_for_rows(3)
        assert service.stop() == DONE


@on_unix
def test_a_second_service_on_the_database_is_refused_and_the_export_is_not(
    cell_file: CellFile, cells: Path, database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"not-utf8-\xff.bmp")
    cell_file(f"cells/{name}")
    with Service(cells, database, "--interval", "0.05", "--poll") as service:
        service.wait_for_rows(1)
        with Service(cells, database) as second:
            assert second.process.wait(timeout=PATIENCE_S) == REFUSED
            assert second.said.startswith("error: expected")
            assert "for this service alone" in second.said
            assert len(second.said.splitlines()) == 1
        assert main(["--db", str(database), "--export", str(tmp_path / "r.csv")]) == DONE
        assert service.stop() == DONE
    assert "r.csv, 1 row\n" in capsys.readouterr().err
    with (tmp_path / "r.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        [row] = csv.DictReader(stream)
    assert (row["path"], row["status"]) == (str(cells / name), "review")


@pytest.mark.parametrize("is_linked", [True, False])
def test_an_export_does_not_take_the_place_of_its_database(is_linked: bool, tmp_path: Path) -> None:
    database, out = tmp_path / "results.csv", tmp_path / ("link.csv" if is_linked else "results.csv")
    with ResultStore(database):
        pass
    if is_linked:
        out.symlink_to(database)
    before = database.read_bytes()
    with pytest.raises(UsageError, match=r"expected another file for --export than the database .*results\.csv"):
        main(["--db", str(database), "--export", str(out)])
    assert database.read_bytes() == before


@pytest.mark.usefixtures("capsys")  # otherwise standard error is a file, which may not grow either
@pytest.mark.parametrize("room", [0, 1000])
def test_an_export_to_a_full_disk_says_so_and_leaves_nothing(room: int, database: Path, tmp_path: Path) -> None:
    with ResultStore(database) as store:
        for size in range(9):
            store.add(FileVersion("a.bmp", size, 1), Prediction("a.bmp", "ALL", 0.9, "ok", "", 0.1, AUDIT))
        store.commit()
    out = tmp_path / "exported" / "r.csv"
    expected = r"^cannot write .*r\.csv: File too large; choose a place that can be written$"
    with disk_with_room_for(room), pytest.raises(OutputError, match=expected):
        main(["--db", str(database), "--export", str(out)])
    assert not [*out.parent.iterdir()]


@on_unix
def test_a_database_in_the_watched_folder_is_no_cell(cell_file: CellFile, cells: Path) -> None:
    database = cells / "results.db"
    cell_file("cells/a.bmp")
    with Service(cells, database, "--interval", "0.05") as service:
        service.wait_for_rows(1)
        (cells / "late.bmp").hardlink_to(cells / "a.bmp")
        service.wait_for_rows(2)
        assert service.stop() == DONE
        assert "2 ALL" in service.said or "2 healthy" in service.said, service.said


@on_unix
def test_cells_that_look_unusual_as_a_whole_are_told_and_their_warning_kept(
    cell_file: CellFile, cells: Path, database: Path, tmp_path: Path
) -> None:
    bluish = Path(tinted(cell_file("cell.png"), tmp_path / "bluish.png", (0.7, 0.9, 1.3)))
    for number in range(WINDOW):
        (cells / f"{number}.png").hardlink_to(bluish)
    with Service(cells, database, "--interval", "0.05") as service:
        service.wait_for_rows(WINDOW)
        assert service.stop() == DONE
        [told] = [line for line in service.said.splitlines() if line.startswith("WARNING")]
    assert "mean share of blue in the light" in told
    assert WatchFeed(database).news(0, 1).warning == told


REFUSALS: dict[str, tuple[list[str], str]] = {
    "no folder named": (["--db", "{tmp}/r.sqlite"], "expected a folder to watch, received none"),
    "no such folder": (["{tmp}/none", "--db", "{tmp}/r.sqlite"], "expected a folder at {tmp}/none, found none"),
    "a file": (["{tmp}/file", "--db", "{tmp}/r.sqlite"], "expected a folder at {tmp}/file, found none"),
    "no place for the database": (["{tmp}", "--db", "{tmp}/none/r.sqlite"], "expected a folder for the database"),
    "a foreign database": (["{tmp}", "--db", "{tmp}/file"], "cannot use the database {tmp}/file: file is not a"),
    "a folder as database": (["{tmp}", "--db", "{tmp}"], "cannot use the database {tmp}: unable to open"),
    "no bundle": (["{tmp}", "--db", "{tmp}/r.sqlite", "--bundle", "{tmp}"], "expected a bundle with a bundle.json"),
    "nothing to export": (["--db", "{tmp}/r.sqlite", "--export", "{tmp}/r.csv"], "expected the database of a"),
    "unknown export": (["--db", "{tmp}/r.sqlite", "--export", "{tmp}/r.xls"], "expected an output name ending in"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_leaves_nothing_behind(arguments: list[str], message: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "file").write_text("some text, and more of it, so that it could be the head of a database of a hundred b")
    with pytest.raises(AllnetError) as refused:
        main([argument.format(tmp=work) for argument in arguments])
    assert str(refused.value).startswith(message.format(tmp=work))
    assert "\n" not in str(refused.value)
    assert [path.name for path in work.iterdir()] == ["file"]


@pytest.mark.parametrize("arguments", [[], ["--db", "r", "--interval", "0"], ["--db", "r", "--batch-size", "0"]])
def test_a_wrong_option_is_exit_code_1(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == REFUSED


def test_the_unit_file_repeats_the_command_line_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    given = ["in", "--db", "r.sqlite", "--poll", "--threshold", "0.4", "--batch-size", "8", "--bundle", "b"]
    assert main([*given, "--systemd-unit"]) == DONE
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ExecStart=")]
    assert line.startswith(f'ExecStart="{sys.executable}" "-m" "runtime.watch" "{tmp_path}/in" "--db"')
    again = build_parser().parse_args(command_of(build_parser().parse_args(given))[3:])
    expected = vars(build_parser().parse_args(given))
    expected |= {"folder": tmp_path / "in", "db": tmp_path / "r.sqlite", "bundle": tmp_path / "b"}
    assert vars(again) == expected


def test_the_unit_of_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder at"):
        main([str(tmp_path / "none"), "--db", str(tmp_path / "r.sqlite"), "--systemd-unit"])


@on_unix
def test_the_first_line_says_how_the_folder_is_watched(cells: Path, database: Path) -> None:
    way = "by file events" if has_events() else "by a look every 1 s (for file events: pip install watchdog)"
    for arguments, expected in (([], way), (["--poll", "--interval", "3"], "by a look every 3 s, results")):
        with Service(cells, database, *arguments) as service:
            service.wait_until_it_watches()
            assert expected in service.said.splitlines()[0]
            assert "compact fp32 on ONNX Runtime" in service.said.splitlines()[0]
