"""The loop with a classifier that needs no model and a clock that stands still until a test moves it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from runtime.errors import BackendError, OutputError, UnopenableCellError
from runtime.schema import Prediction
from runtime.watching.database import FileVersion
from runtime.watching.folder import RETRY_PAUSES_S, WatchedFolder
from runtime.watching.news import Bell, News
from runtime.watching.result_store import ResultStore
from runtime.watching.service import SUMMARY_S, TRY_AGAIN_S, WatchService
from runtime.watching.systemd import Notifier
from tests.runtime.audits import AUDIT
from tests.runtime.fake_clock import FakeClock
from tests.runtime.stored_rows import stored_rows

INTERVAL_S = 1.0


class FakeClassifier:
    """Says p_all 0.9 of a file that holds "cell" and an error of any other; reads three batches ahead."""

    batch_size = 4

    def __init__(self) -> None:
        self.read: list[str] = []
        self.calls = 0
        self.closed: set[str] = set()  # names of files that cannot be opened
        self.before_answer: Callable[[str], None] = lambda path: None

    def classify(self, paths: Iterable[str]) -> Iterator[Prediction]:
        self.calls += 1
        remaining = iter(paths)
        ahead: list[Prediction] = []
        while True:
            for path in islice(remaining, max(3 * self.batch_size - len(ahead), 0)):
                ahead.append(self._answer(path))
            if not ahead:
                return
            for prediction in ahead[: self.batch_size]:
                self.before_answer(prediction.path)
                yield prediction
            del ahead[: self.batch_size]

    def _answer(self, path: str) -> Prediction:
        self.read.append(Path(path).name)
        if Path(path).name in self.closed:
            return Prediction(path, "", None, "error", str(UnopenableCellError("Permission denied")), 0.001, AUDIT)
        try:
            content = Path(path).read_text()
        except OSError as error:
            content = str(error)
        audit = replace(AUDIT, sha256=hashlib.sha256(content.encode()).hexdigest())
        if content == "cell":
            return Prediction(path, "ALL", 0.9, "ok", "", 0.001, audit)
        return Prediction(path, "", None, "error", f"not a cell: {content[:9]}", 0.001, audit)


class Watch:
    """A service on a folder of its own, step by step."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cells"
        self.root.mkdir(exist_ok=True)
        self.database = folder / "results.sqlite"
        self.clock = FakeClock()
        self.classifier = FakeClassifier()
        self.said: list[str] = []
        self.observed: list[Prediction] = []
        self.stopping = False
        self.store = ResultStore(self.database)
        self.news = News(Bell())
        self.service = WatchService(
            self.classifier,
            self.store,
            Bell(),
            observe=self.observed.append,
            is_stopping=lambda: self.stopping,
            notifier=Notifier({}),
            tell=self.said.append,
            clock=self.clock,
        )
        self.folder = WatchedFolder(
            str(self.root),
            self.news,
            is_known=self.service.is_known,
            with_events=False,
            interval=INTERVAL_S,
            tell=self.said.append,
            clock=self.clock,
        )

    def drop(self, *names: str, content: str = "cell") -> None:
        """Write files and let the service hear that they are complete."""
        for name in names:
            (self.root / name).write_text(content)
            self.news.file(str(self.root / name), complete=True)

    def step(self, seconds: float = 0.0) -> None:
        self.clock.pass_by(seconds)
        self.service.step(self.folder)

    def settle(self) -> None:
        """Let enough time go by for all that waits."""
        for pause in (INTERVAL_S, INTERVAL_S, *RETRY_PAUSES_S, TRY_AGAIN_S, INTERVAL_S):
            self.step(pause)

    def rows(self) -> list[tuple[str, str]]:
        """Return name and status of each row."""
        return [(Path(row.path).name, row.status) for row in stored_rows(self.database)]

    def close(self) -> None:
        self.folder.close()
        self.store.close()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    made.close()


def write_cell(path: str) -> None:
    Path(path).write_text("cell")


@pytest.mark.parametrize("time_ns", [-(10**18), 10**19])
def test_a_file_of_any_time_is_classified_once(watch: Watch, time_ns: int) -> None:
    (watch.root / "a.bmp").write_text("cell")
    os.utime(watch.root / "a.bmp", ns=(time_ns, time_ns))
    if (watch.root / "a.bmp").stat().st_mtime_ns != time_ns:
        pytest.skip("this file system knows no such time")
    watch.settle()
    watch.settle()
    assert (watch.rows(), watch.classifier.read) == ([("a.bmp", "ok")], ["a.bmp"])


def names(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number:03}.bmp" for number in range(count)]


def test_what_lies_there_at_the_start_is_classified_once_however_often_it_restarts(tmp_path: Path) -> None:
    reads = 0
    for _ in range(3):
        watch = Watch(tmp_path)
        for name in names(10):
            if not (watch.root / name).exists():
                (watch.root / name).write_text("cell")
        watch.settle()
        reads += len(watch.classifier.read)
        watch.close()
    assert reads == 10
    watch = Watch(tmp_path)
    assert sorted(watch.rows()) == [(name, "ok") for name in names(10)]
    watch.close()


def test_each_row_is_shown_to_who_observes_them(watch: Watch) -> None:
    watch.drop(*names(5))
    watch.step()
    assert [Path(row.path).name for row in watch.observed] == names(5)


def test_many_files_are_one_stream_and_each_batch_is_written_as_it_comes_out(watch: Watch) -> None:
    written: list[int] = []
    watch.classifier.before_answer = lambda _: written.append(len(watch.rows()))
    watch.drop(*names(40))
    watch.step()
    assert watch.classifier.calls == 1, "the pipeline is not drained for each batch"
    assert written == [number // 4 * 4 for number in range(40)]
    assert len(watch.rows()) == 40


def test_a_slow_disk_is_waited_for_less_often(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, commits = watch.store.commit, 0

    def commit_slowly() -> None:
        nonlocal commits
        commits += 1
        commit()
        watch.clock.pass_by(0.2)

    monkeypatch.setattr(watch.store, "commit", commit_slowly)
    watch.classifier.before_answer = lambda _: watch.clock.pass_by(1.0)
    watch.drop(*names(40))
    watch.step()
    assert len(watch.rows()) == 40
    assert commits == 5, "of ten batches"


def test_a_single_file_is_written_in_the_same_step(watch: Watch) -> None:
    watch.step()
    watch.drop("a.bmp")
    watch.step()
    assert watch.rows() == [("a.bmp", "ok")]


def test_a_file_that_is_heard_of_while_it_is_being_classified_is_not_read_again(watch: Watch) -> None:
    def tell_all(_: str) -> None:
        for name in names(40):
            watch.news.file(str(watch.root / name), complete=True)

    watch.drop(*names(40))
    watch.classifier.before_answer = tell_all
    watch.step()
    watch.settle()
    assert sorted(watch.classifier.read) == names(40)


def test_a_file_that_is_replaced_while_it_is_read_is_recorded_as_what_it_became(watch: Watch) -> None:
    watch.drop("a.bmp", content="something else, longer")
    watch.classifier.before_answer = write_cell
    watch.step()
    watch.classifier.before_answer = lambda _: None
    assert watch.rows() == []
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok")]


def test_a_file_that_goes_after_it_was_read_has_its_row(watch: Watch) -> None:
    watch.drop("a.bmp")
    watch.classifier.before_answer = lambda path: Path(path).unlink()
    watch.step()
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok")]
    assert watch.said == []


def test_a_file_that_goes_without_an_answer_leaves_no_row(watch: Watch) -> None:
    watch.drop("a.bmp", content="text")
    for pause in (0.0, *RETRY_PAUSES_S[:-1]):
        watch.step(pause)
    watch.classifier.before_answer = lambda path: Path(path).unlink()
    watch.step(RETRY_PAUSES_S[-1])
    assert len(watch.classifier.read) == 1 + len(RETRY_PAUSES_S)
    assert (watch.rows(), watch.said) == ([], [])


def test_a_file_that_goes_and_comes_back_with_other_times_is_one_row(watch: Watch) -> None:
    watch.drop("a.bmp")
    os.utime(watch.root / "a.bmp", (3600, 3600))
    watch.classifier.before_answer = lambda path: Path(path).unlink()
    watch.step()
    watch.classifier.before_answer = lambda _: None
    for hour in (2, 1):
        watch.drop("a.bmp")
        os.utime(watch.root / "a.bmp", (3600 * hour, 3600 * hour))
        watch.settle()
    assert watch.rows() == [("a.bmp", "ok")]
    assert len(watch.classifier.read) == 3, "once for each time, and not with every look"


def test_other_content_under_a_name_is_a_new_row(watch: Watch) -> None:
    watch.drop("a.bmp")
    watch.step()
    watch.drop("a.bmp", content="no cell any more")
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok"), ("a.bmp", "error")]


@pytest.mark.parametrize("is_stopped", [False, True], ids=["while it runs", "while it is stopped"])
@pytest.mark.parametrize("is_moved", [False, True], ids=["in place", "another file"])
def test_other_content_of_the_same_size_and_time_is_a_new_row(tmp_path: Path, is_moved: bool, is_stopped: bool) -> None:
    watch = Watch(tmp_path)
    watch.drop("a.bmp", "b.bmp")
    watch.step()
    before = (watch.root / "a.bmp").stat()
    if is_stopped:
        watch.close()
    time.sleep(0.05)  # longer than the file system's clock stands still
    written = watch.root / (".new" if is_moved else "a.bmp")
    written.write_text("else")
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    written.replace(watch.root / "a.bmp")
    (watch.root / "b.bmp").chmod(0o600)
    after = (watch.root / "a.bmp").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if is_stopped:
        watch = Watch(tmp_path)
    watch.settle()
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok"), ("b.bmp", "ok"), ("a.bmp", "error")]
    reads = watch.classifier.read.count("b.bmp")
    assert reads == (1 if is_stopped else 2), "what changed but in its content is read once more and has no other row"
    watch.close()


def test_a_cell_that_cannot_be_opened_any_more_keeps_its_row_alone(watch: Watch) -> None:
    watch.drop("a.bmp")
    watch.step()
    time.sleep(0.05)  # longer than the file system's clock stands still
    (watch.root / "a.bmp").chmod(0o600)
    watch.classifier.closed.add("a.bmp")
    watch.settle()
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok")]
    assert len(watch.classifier.read) == 2 + len(RETRY_PAUSES_S)


def test_a_clock_that_steps_back_loses_nothing(watch: Watch) -> None:
    for hour in (3, 2, 1):
        watch.drop("same.bmp", f"{hour}.bmp", content=f"{hour}")
        for path in (watch.root / "same.bmp", watch.root / f"{hour}.bmp"):
            os.utime(path, (3600 * hour, 3600 * hour))
        watch.settle()
    names_of_rows = sorted(name for name, _ in watch.rows())
    assert names_of_rows == ["1.bmp", "2.bmp", "3.bmp", "same.bmp", "same.bmp", "same.bmp"]


def test_a_half_written_file_becomes_a_row_when_it_is_whole(watch: Watch) -> None:
    watch.drop("a.bmp", content="ce")
    watch.step()
    watch.step(RETRY_PAUSES_S[0])
    assert len(watch.classifier.read) == 2
    watch.drop("a.bmp")
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok")]


def test_a_file_that_stays_bad_is_set_aside_with_its_reason_until_it_changes(watch: Watch) -> None:
    watch.drop("a.bmp", content="text")
    watch.settle()
    watch.settle()
    assert len(watch.classifier.read) == 1 + len(RETRY_PAUSES_S)
    [row] = stored_rows(watch.database)
    assert (row.status, row.reason, row.label, row.p_all) == ("error", "not a cell: text", "", None)
    assert watch.said == [f"{watch.root / 'a.bmp'}: not a cell: text; set aside until it changes"]
    watch.drop("a.bmp")
    watch.settle()
    assert watch.rows() == [("a.bmp", "error"), ("a.bmp", "ok")]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say when permissions changed")
def test_a_file_that_could_not_be_opened_is_read_when_its_permissions_change(watch: Watch) -> None:
    watch.drop("a.bmp")
    watch.classifier.closed.add("a.bmp")
    for _ in range(3):
        watch.settle()
    assert len(watch.classifier.read) == 1 + len(RETRY_PAUSES_S)
    told = f"{watch.root / 'a.bmp'}: cannot be opened: Permission denied; set aside until it changes"
    assert watch.said.count(told) == 1
    assert watch.rows() == [("a.bmp", "error")]
    watch.classifier.closed.clear()
    time.sleep(0.05)  # longer than the file system's clock stands still
    (watch.root / "a.bmp").chmod(0o640)
    for _ in range(3):
        watch.settle()
    assert len(watch.classifier.read) == 2 + len(RETRY_PAUSES_S)
    assert watch.rows() == [("a.bmp", "ok")], "its row of an error told nothing of the cell"


def test_a_file_that_could_not_be_opened_is_tried_again_at_the_next_start(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.drop("a.bmp")
    watch.drop("b.bmp", content="text")
    watch.classifier.closed.add("a.bmp")
    watch.settle()
    watch.settle()
    assert sorted(watch.rows()) == [("a.bmp", "error"), ("b.bmp", "error")]
    watch.close()
    watch = Watch(tmp_path)
    watch.settle()
    assert watch.classifier.read == ["a.bmp"]
    assert sorted(watch.rows()) == [("a.bmp", "ok"), ("b.bmp", "error")]
    watch.close()


def test_a_file_that_could_not_be_opened_is_tried_again_when_the_folder_is_back(watch: Watch) -> None:
    watch.drop("a.bmp")
    watch.classifier.closed.add("a.bmp")
    watch.settle()
    watch.root.rename(watch.root.with_name("away"))
    watch.settle()
    watch.classifier.closed.clear()
    watch.root.with_name("away").rename(watch.root)
    watch.settle()
    assert watch.rows() == [("a.bmp", "ok")]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses such names")
def test_a_name_cannot_write_lines_of_its_own_into_the_log(watch: Watch) -> None:
    watch.drop("a\n\x1b[31mb.bmp", content="text")
    watch.settle()
    watch.settle()
    assert watch.said == [f"{watch.root}/a\\n\\x1b[31mb.bmp: not a cell: text; set aside until it changes"]


def test_the_users_files_are_left_as_they_are(watch: Watch) -> None:
    watch.drop("good.bmp")
    watch.drop("bad.bmp", content="text")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in watch.root.iterdir()}
    watch.settle()
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in watch.root.iterdir()} == before


def test_a_database_that_is_locked_for_a_while_is_told_once_and_loses_nothing(watch: Watch) -> None:
    with closing(sqlite3.connect(watch.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for batch in range(3):
            watch.drop(*names(5, f"{batch}-"))
            watch.step(TRY_AGAIN_S)
        assert watch.rows() == []
        assert len(watch.said) == 1
        assert "database is locked; results are kept in memory until it works again" in watch.said[0]
        other.execute("ROLLBACK")
    watch.step(TRY_AGAIN_S)
    assert len(watch.rows()) == len(set(watch.rows())) == 15
    assert watch.said[1:] == ["the database works again; all results are written"]
    watch.settle()
    assert len(watch.classifier.read) == 15


def test_while_nothing_can_be_written_memory_is_bounded(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.watching.service.MOST_UNWRITTEN", 10)
    watch.store._connection.execute("PRAGMA query_only = ON")
    watch.drop(*names(50))
    for _ in range(3):
        watch.step(TRY_AGAIN_S)
    assert watch.store.unwritten == len(watch.classifier.read) == 10
    assert watch.service._seconds_to_wait(watch.folder) >= TRY_AGAIN_S, "a loop without rest"
    watch.store._connection.execute("PRAGMA query_only = OFF")
    for _ in range(5):
        watch.step(TRY_AGAIN_S)
    assert len(watch.rows()) == 50
    assert len(watch.said) == 2


def test_a_database_that_cannot_be_read_is_asked_seldom_and_the_files_are_found_later(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.watching.folder.SCAN_REST_S", 1000.0)  # no further scan comes by itself
    asked: list[FileVersion] = []
    watch.drop("before.bmp")
    watch.step()

    def refuse(version: FileVersion, _: int | None = None) -> bool:
        asked.append(version)
        raise OutputError("cannot use the database: disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(watch.store, "holds", refuse)
        watch.drop(*names(8))
        watch.step()
        watch.step(TRY_AGAIN_S)
        assert watch.classifier.read == ["before.bmp"]
        assert len(asked) == 2, "each would cost a time-out"
        assert len(watch.said) == 1
    watch.step(TRY_AGAIN_S)
    watch.step(INTERVAL_S)
    assert sorted(name for name, _ in watch.rows()) == [*names(8), "before.bmp"]
    assert len(watch.said) == 2


def test_what_was_begun_is_finished_when_it_is_told_to_stop(watch: Watch) -> None:
    def stop(_: str) -> None:
        watch.stopping = True

    watch.classifier.before_answer = stop
    watch.drop(*names(100))
    watch.service.run(watch.folder)
    assert len(watch.rows()) == len(watch.classifier.read) == 12, "the three batches that were being read"
    assert watch.service.outcomes.rows == 12


def test_an_idle_service_waits_no_longer_than_until_the_next_ping(watch: Watch) -> None:
    """A whole pause from any look at the folder would let a ping come as late as systemd's patience ends."""
    watch.service._notifier = Notifier({"WATCHDOG_USEC": "1000000"}, watch.clock)
    watch.settle()
    watch.step()
    watch.clock.pass_by(0.4)
    assert watch.service._seconds_to_wait(watch.folder) == pytest.approx(0.1)


def test_stopping_writes_what_could_not_be_written_before(watch: Watch) -> None:
    watch.store._connection.execute("PRAGMA query_only = ON")
    watch.drop("a.bmp")
    watch.step()
    assert watch.store.unwritten == 1
    watch.store._connection.execute("PRAGMA query_only = OFF")
    watch.stopping = True
    watch.service.run(watch.folder)
    assert (watch.store.unwritten, watch.rows()) == (0, [("a.bmp", "ok")])


def test_a_model_that_fails_ends_the_service_and_keeps_the_batches_before(watch: Watch) -> None:
    def fail(path: str) -> None:
        if path.endswith("006.bmp"):
            raise BackendError("the device is lost")

    watch.classifier.before_answer = fail
    watch.drop(*names(12))
    with pytest.raises(BackendError, match="the device is lost"):
        watch.service.run(watch.folder)
    assert len(watch.rows()) == 6


def test_a_summary_comes_every_so_often_where_there_is_anything_new(watch: Watch) -> None:
    watch.drop(*names(3))
    watch.step()
    watch.step(SUMMARY_S)
    assert watch.said == ["3 files since the start: 3 ALL, 0 healthy, 0 of them for review, 0 not readable"]
    watch.step(SUMMARY_S)
    assert len(watch.said) == 1


def test_systemd_hears_of_progress_between_batches_and_while_many_known_files_are_looked_at(watch: Watch) -> None:
    pings: list[float] = []
    watch.service._notifier.progress = lambda: pings.append(watch.clock())  # type: ignore[method-assign]
    watch.step()
    pings.clear()
    watch.drop(*names(40))
    watch.step()
    assert len(pings) >= 80, "one when a file is taken, one when its row is there"
    pings.clear()
    watch.step(31.0)
    assert len(pings) >= 40, "a look at known files"
