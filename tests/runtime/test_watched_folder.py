from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.watching.database import FileVersion
from runtime.watching.events import FolderEvents, has_events
from runtime.watching.folder import RETRY_PAUSES_S, Candidate, WatchedFolder
from runtime.watching.news import Bell, News
from tests.runtime.another_user import another_user, needs_root, open_folder
from tests.runtime.fake_clock import FakeClock

INTERVAL_S = 2.0
OLD_NS = 1_000_000_000  # a time in 1970


class Folder:
    """A watched folder with a clock of its own, news that the test tells, and a memory of what was taken."""

    def __init__(self, root: Path, *, with_events: bool = False) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.clock = FakeClock()
        self.news = News(Bell())
        self.known: set[FileVersion] = set()
        self.said: list[str] = []
        self.watched = WatchedFolder(
            str(root),
            self.news,
            is_known=lambda version, _: version in self.known,
            with_events=with_events,
            interval=INTERVAL_S,
            tell=self.said.append,
            clock=self.clock,
        )

    def write(self, name: str, content: str = "cell") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def take(self) -> list[str]:
        """Take what is complete now, and know it from then on."""
        taken = self.candidates()
        self.known.update(candidate.version for candidate in taken)
        return sorted(candidate.version.file for candidate in taken)

    def candidates(self) -> list[Candidate]:
        self.watched.check()
        return list(self.watched.take())

    def take_later(self, seconds: float = INTERVAL_S) -> list[str]:
        self.clock.pass_by(seconds)
        return self.take()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "cells")
    yield made
    made.watched.close()


def test_a_file_is_taken_when_two_looks_find_it_the_same_and_only_once(folder: Folder) -> None:
    folder.write("a.bmp")
    assert folder.take() == [], "the first look"
    assert folder.take_later(INTERVAL_S / 2) == [], "too early for the second"
    assert folder.take_later(INTERVAL_S / 2) == ["a.bmp"]
    assert folder.take_later() == folder.take_later() == []


def test_a_file_that_grows_waits_until_it_does_not(folder: Folder) -> None:
    path = folder.write("a.bmp", "1")
    folder.take()
    for length in (2, 3, 4):
        path.write_text("1" * length)
        assert folder.take_later() == []
    assert folder.take_later() == ["a.bmp"]


def test_a_file_that_keeps_its_size_and_changes_its_time_waits_too(folder: Folder) -> None:
    path = folder.write("a.bmp")
    folder.take()
    os.utime(path, ns=(OLD_NS, OLD_NS))
    assert folder.take_later() == []
    assert folder.take_later() == ["a.bmp"]


def test_other_content_is_another_version_even_where_the_clock_stepped_back(folder: Folder) -> None:
    path = folder.write("a.bmp")
    folder.take()
    assert folder.take_later() == ["a.bmp"]
    os.utime(path, ns=(OLD_NS, OLD_NS))
    folder.take_later()
    assert folder.take_later() == ["a.bmp"]
    path.write_text("longer than before")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    folder.take_later()
    assert folder.take_later() == ["a.bmp"]
    assert len(folder.known) == 3


def test_a_file_whose_writer_has_closed_it_is_taken_at_once(folder: Folder) -> None:
    folder.take()
    folder.news.file(str(folder.write("sub/a.bmp")), complete=True)
    assert folder.take() == ["sub/a.bmp"]


def test_a_file_that_was_heard_of_before_it_is_complete_is_taken_when_it_is(folder: Folder) -> None:
    folder.take()
    path = folder.write("a.bmp", "1")
    folder.news.file(str(path), complete=False)
    assert folder.take() == []
    path.write_text("12")
    folder.news.file(str(path), complete=True)
    folder.news.file(str(path), complete=False)
    assert folder.take() == ["a.bmp"]
    assert folder.take_later() == []


def test_a_folder_that_was_moved_here_is_complete_with_all_that_it_holds(folder: Folder) -> None:
    folder.take()
    folder.write("new/a.bmp")
    folder.write("new/deep/b.bmp")
    folder.news.folder(str(folder.root / "new"))
    assert folder.take() == ["new/a.bmp", "new/deep/b.bmp"]


def test_a_folder_that_was_moved_here_waits_no_longer_for_news_of_its_files(folder: Folder) -> None:
    folder.take()
    path = folder.write("new/a.bmp")
    folder.news.file(str(path), complete=False)
    assert folder.take() == []
    folder.news.folder(str(path.parent))
    assert folder.take() == ["new/a.bmp"]


def test_late_news_of_a_file_does_not_hold_it_up(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.take()
    path = folder.write("new/a.bmp")

    def tell(version: FileVersion, _: int) -> bool:
        folder.news.file(str(path), complete=False)
        return version in folder.known

    monkeypatch.setattr(folder.watched, "_is_known", tell)
    folder.news.folder(str(path.parent))
    assert folder.take() == ["new/a.bmp"]


def test_companions_and_what_is_hidden_are_left_out(folder: Folder) -> None:
    for name in ("a.bmp", "labels.csv", "r.sqlite", ".hidden.bmp", ".thumbnails/a.bmp", "sub/.b.bmp"):
        folder.write(name)
        folder.news.file(str(folder.root / name), complete=True)
    assert folder.take() == ["a.bmp"]
    assert folder.take_later() == folder.take_later() == []


def test_links_in_a_circle_end_and_a_link_to_nowhere_is_one_version(folder: Folder) -> None:
    folder.write("sub/a.bmp")
    (folder.root / "sub" / "up").symlink_to(folder.root)
    (folder.root / "x.bmp").symlink_to("y.bmp")
    (folder.root / "y.bmp").symlink_to("x.bmp")
    (folder.root / "nowhere.bmp").symlink_to("gone.bmp")
    folder.take()
    assert folder.take_later() == ["nowhere.bmp", "sub/a.bmp", "x.bmp", "y.bmp"]
    assert folder.take_later() == folder.take_later() == []


@pytest.mark.parametrize("suffix", [".tmp", ".part", ".filepart", ".crdownload", ".TMP"])
def test_a_copy_is_a_cell_when_it_has_its_name(suffix: str, folder: Folder) -> None:
    path = folder.write(f"a.bmp{suffix}")
    folder.news.file(str(path), complete=True)
    assert folder.take() == folder.take_later() == []
    path.rename(folder.root / "a.bmp")
    folder.take_later()
    assert folder.take_later() == ["a.bmp"]


@pytest.mark.skipif(os.name == "nt", reason="on Windows all names are text")
def test_a_name_may_hold_bytes_that_are_no_text(folder: Folder) -> None:
    name = os.fsdecode(b"\xff\xfe.bmp")
    folder.write(name)
    folder.take()
    assert folder.take_later() == [name]


def test_a_file_that_has_gone_is_forgotten(folder: Folder) -> None:
    path = folder.write("a.bmp")
    folder.take()
    path.unlink()
    assert folder.take_later() == []
    assert folder.watched.seconds_to_wait() > 0


def test_a_version_that_changed_is_not_itself_any_more_and_waits(folder: Folder) -> None:
    path = folder.write("a.bmp")
    folder.take()
    folder.clock.pass_by(INTERVAL_S)
    [candidate] = folder.candidates()
    assert folder.watched.current(candidate.version) == candidate.version
    path.write_text("something else")
    assert folder.watched.current(candidate.version) not in (candidate.version, None)
    assert folder.take() == []
    assert folder.take_later() == ["a.bmp"]
    path.unlink()
    assert folder.watched.current(candidate.version) is None


def test_a_failure_is_tried_again_after_growing_pauses_a_few_times(folder: Folder) -> None:
    folder.write("a.bmp")
    folder.take()
    folder.clock.pass_by(INTERVAL_S)
    [candidate] = folder.candidates()
    for pause in RETRY_PAUSES_S:
        assert folder.watched.try_again(candidate)
        folder.clock.pass_by(pause * 0.9)
        assert folder.candidates() == []
        folder.clock.pass_by(pause * 0.2)
        [candidate] = folder.candidates()
    assert not folder.watched.try_again(candidate)
    assert sorted(RETRY_PAUSES_S) == list(RETRY_PAUSES_S)


def test_a_failed_file_that_changes_has_all_its_tries_again(folder: Folder) -> None:
    path = folder.write("a.bmp")
    folder.take()
    folder.clock.pass_by(INTERVAL_S)
    [candidate] = folder.candidates()
    folder.watched.try_again(candidate)
    path.write_text("now it is whole")
    folder.news.file(str(path), complete=True)
    [candidate] = folder.candidates()
    assert candidate.failures == 0


def test_no_more_files_wait_than_there_is_room_for_and_none_is_lost(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.watching.folder.MOST_WAITING", 5)
    for number in range(32):
        folder.news.file(str(folder.write(f"{number}.bmp")), complete=number % 2 == 0)
    taken: list[str] = []
    for _ in range(20):
        folder.watched.check()
        for candidate in folder.watched.take():
            folder.known.add(candidate.version)
            taken.append(candidate.version.file)
            assert len(folder.watched._waiting) <= 5
        assert folder.watched.seconds_to_wait() > 0, "a loop that waits for nothing would not rest"
        folder.clock.pass_by(INTERVAL_S)
    assert sorted(taken) == sorted(f"{number}.bmp" for number in range(32))


def test_a_new_cell_is_taken_before_an_archive_that_is_read_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.watching.folder.MOST_WAITING", 10)
    for number in range(30):
        folder.write(f"{number}.bmp")
    assert folder.take() == [], "a look has found as many as there is room for"
    folder.clock.pass_by(INTERVAL_S)
    folder.news.file(str(folder.write("new.bmp")), complete=True)
    assert folder.candidates()[0].version.file == "new.bmp"


def test_news_that_there_was_no_room_for_is_found_by_a_look(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.take()
    monkeypatch.setattr("runtime.watching.news.MOST_NEWS", 3)
    for number in range(9):
        folder.news.file(str(folder.write(f"{number}.bmp")), complete=True)
    assert len(folder.take()) == 3
    assert len(folder.take_later()) == 6


def test_a_look_is_lazy(folder: Folder) -> None:
    """Of files that the caller does not ask for, none is looked at: a million of them need no memory."""
    for number in range(100):
        folder.write(f"{number}.bmp")
    folder.news.folder(str(folder.root))
    taking = folder.watched.take()
    for _ in range(3):
        next(taking)
    assert len(folder.watched._waiting) <= 1


def test_a_folder_that_goes_and_comes_back_is_told_once_each_time(folder: Folder) -> None:
    folder.write("a.bmp")
    folder.take()
    assert folder.take_later() == ["a.bmp"]
    folder.root.rename(folder.root.with_name("away"))
    for _ in range(5):
        assert folder.take_later() == []
    assert folder.said == [f"{folder.root} cannot be reached any more; waiting for it"]
    folder.root.with_name("away").rename(folder.root)
    folder.write("b.bmp")
    folder.take_later()
    assert folder.take_later() == ["b.bmp"]
    assert len(folder.said) == 2
    assert "is there again" in folder.said[1]


def test_another_folder_in_its_place_is_told(folder: Folder) -> None:
    folder.take()
    folder.root.rename(folder.root.with_name("away"))
    folder.write("a.bmp")  # such as the empty folder under a share that was unmounted
    folder.take_later()
    assert folder.take_later() == ["a.bmp"]
    assert len(folder.said) == 1
    assert "another folder is in its place" in folder.said[0]


def test_a_sub_folder_that_cannot_be_read_is_told_once_and_costs_the_others_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.bmp")
    folder.write("closed/b.bmp")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    folder.take()
    assert folder.take_later() == ["a.bmp"]
    folder.take_later()
    assert folder.said == [
        f"{folder.root / 'closed'} cannot be read: Permission denied; it is tried again with each look"
    ]


@needs_root
def test_a_folder_that_can_be_listed_and_not_entered_is_told_once_and_taken_when_it_can() -> None:
    with open_folder() as place:
        folder = Folder(place / "cells")
        folder.write("a.bmp")
        closed = folder.write("plate/b.bmp").parent
        folder.write("plate/c.bmp")
        closed.chmod(0o644)
        with another_user():
            folder.take()
            assert folder.take_later() == ["a.bmp"]
            folder.take_later()
        assert folder.said == [f"{closed} cannot be read: Permission denied; it is tried again with each look"]
        closed.chmod(0o755)
        with another_user():
            folder.take_later()
            assert folder.take_later() == ["plate/b.bmp", "plate/c.bmp"]
        folder.watched.close()


def test_looks_at_a_large_folder_leave_it_time_to_rest(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.watching.folder.SCAN_REST_S", 10.0)
    for number in range(3):
        folder.write(f"{number}.bmp")
    folder.take()
    folder.write("late.bmp")
    folder.take_later(29.0)
    assert len(folder.watched._waiting) == 0
    folder.take_later(1.5)
    assert list(folder.watched._waiting) == ["late.bmp"]


# From here on with the system's own file events, in real time.

needs_events = pytest.mark.skipif(not has_events(), reason="watchdog is not installed (pip install watchdog)")
on_linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux tells that a writer closed a file")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "live", with_events=True)
    assert made.watched.has_events
    made.take()
    yield made
    made.watched.close()


def take_until(folder: Folder, wanted: list[str]) -> float:
    """Take until all wanted files came; return the seconds that it took. The folder's own clock stands still."""
    started = time.monotonic()
    taken: list[str] = []
    while sorted(taken) != sorted(wanted):
        taken += folder.take()
        assert time.monotonic() - started < 30, f"taken: {taken}"
        time.sleep(0.001)
    return time.monotonic() - started


def write_and_close(folder: Folder) -> None:
    folder.write("a.bmp")


def rename_inside(folder: Folder) -> None:
    path = folder.write(".a.part")
    path.rename(path.with_name("a.bmp"))


def move_in(folder: Folder) -> None:
    (folder.root.parent / "outside.bmp").write_text("cell")
    (folder.root.parent / "outside.bmp").rename(folder.root / "a.bmp")


def move_folder_in(folder: Folder) -> None:
    outside = folder.root.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "a.bmp").write_text("cell")
    outside.rename(folder.root / "inside")


@needs_events
@on_linux
@pytest.mark.parametrize(
    ("arrive", "name"),
    [
        (write_and_close, "a.bmp"),
        (rename_inside, "a.bmp"),
        (move_in, "a.bmp"),
        (move_folder_in, "inside/deep/a.bmp"),
    ],
)
def test_what_arrives_whole_is_taken_without_a_second_look(
    arrive: Callable[[Folder], None], name: str, live: Folder
) -> None:
    arrive(live)
    take_until(live, [name])


@needs_events
@on_linux
def test_a_file_that_is_still_open_is_not_taken(live: Folder) -> None:
    with (live.root / "a.bmp").open("w") as stream:
        stream.write("half")
        stream.flush()
        for _ in range(20):
            assert live.take() == []
            time.sleep(0.005)
        stream.write("whole")
    take_until(live, ["a.bmp"])


@needs_events
def test_files_in_sub_folders_that_are_made_later_are_heard_of(live: Folder) -> None:
    for number in range(5):
        live.write(f"sub{number}/deep/a.bmp")
    started = time.monotonic()
    while len(live.known) < 5:
        live.take_later()  # some were written before the system could tell of their folder: two looks settle these
        assert time.monotonic() - started < 30
        time.sleep(0.01)


@needs_events
def test_events_are_heard_again_after_the_folder_was_away(live: Folder) -> None:
    live.root.rename(live.root.with_name("away"))
    live.take_later()
    live.root.mkdir()
    live.take_later()
    live.write("a.bmp")
    take_until(live, ["a.bmp"])


@needs_events
@on_linux
def test_events_are_heard_again_of_a_folder_that_was_made_anew_between_two_looks(live: Folder) -> None:
    live.root.rmdir()
    live.root.mkdir()  # which often gets the same inode
    take_until_told(live)
    live.write("a.bmp")
    take_until(live, ["a.bmp"])


def take_until_told(folder: Folder) -> None:
    """Let the folder's clock go on until it says something."""
    started = time.monotonic()
    while not folder.said:
        folder.take_later()
        assert time.monotonic() - started < 30, "nothing is said"
        time.sleep(0.01)


HEARD_S = 0.1  # until the library has heard of a move, before the next one


@needs_events
@on_linux
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # watchdog 6 fails, and begins anew
def test_events_are_heard_after_folders_of_one_name_were_moved_away_and_removed(live: Folder) -> None:
    for number in range(2):
        (live.root / "today").mkdir()
        time.sleep(HEARD_S)
        (live.root / "today").rename(live.root.parent / f"archive {number}")
        time.sleep(HEARD_S)
    for number in (1, 0):
        (live.root.parent / f"archive {number}").rmdir()
        time.sleep(HEARD_S)
    live.take_later()
    live.write("a.bmp")
    take_until(live, ["a.bmp"])


@needs_events
@on_linux
def test_events_end_quietly_after_folders_took_the_place_of_each_other(tmp_path: Path) -> None:
    root = tmp_path / "cells"
    root.mkdir()
    with FolderEvents(str(root), News(Bell())) as events:
        for source, target in ((None, "a"), ("a", "b"), (None, "a"), ("a", "../away"), ("b", "a")):
            if source:
                (root / source).rename(root / target)
            else:
                (root / target).mkdir()
            time.sleep(HEARD_S)
        assert not events.are_over
    assert events.are_over


@needs_events
@on_linux
@pytest.mark.parametrize("is_late", [True, False])
def test_a_folder_beyond_the_limit_of_watched_ones_ends_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    from watchdog.observers import inotify_c

    if not hasattr(inotify_c, "InotifyFD"):
        pytest.skip("watchdog 6 passes over a folder beyond the limit")
    add = inotify_c.InotifyFD._add_callback

    def refuse(self: inotify_c.InotifyFD, path: bytes, *others: Any) -> Any:
        if path.endswith(b"one too many"):
            raise OSError(28, "inotify watch limit reached")
        return add(self, path, *others)

    monkeypatch.setattr(inotify_c.InotifyFD, "_add_callback", refuse)
    (tmp_path / "cells").mkdir()
    if not is_late:
        (tmp_path / "cells" / "one too many").mkdir()
    folder = Folder(tmp_path / "cells", with_events=True)
    assert folder.watched.has_events == is_late
    if is_late:
        (folder.root / "one too many").mkdir()
    take_until_told(folder)
    assert not folder.watched.has_events
    assert "inotify watch limit reached; looking at it every 2 s instead" in folder.said[-1]
    folder.write("one too many/a.bmp")
    assert folder.take_later() == []
    assert folder.take_later() == ["one too many/a.bmp"]


@needs_events
def test_events_are_heard_of_a_folder_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = Folder(tmp_path / "link", with_events=True)
    try:
        folder.take()
        (tmp_path / "real" / "a.bmp").write_text("cell")
        take_until(folder, ["a.bmp"])
    finally:
        folder.watched.close()


@needs_events
def test_a_system_that_gives_no_events_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    import watchdog.observers.api

    monkeypatch.setattr(watchdog.observers.api.BaseObserver, "start", refuse)
    folder = Folder(tmp_path / "cells", with_events=True)
    assert not folder.watched.has_events
    assert "gives no file events" in folder.said[0]
    assert "inotify watch limit reached; looking at it every 2 s instead" in folder.said[0]
    folder.write("a.bmp")
    folder.take()
    assert folder.take_later() == ["a.bmp"]


@needs_events
def test_closing_ends_the_threads_of_the_events(tmp_path: Path) -> None:
    rung = News(Bell())

    before = {*threading.enumerate()}
    with FolderEvents(str(tmp_path), rung):
        assert {*threading.enumerate()} > before
    assert {*threading.enumerate()} == before
    (tmp_path / "a.bmp").write_text("cell")
    assert rung.take() is None
