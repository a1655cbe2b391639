"""Finds the files of a folder that are complete, each version of a file as soon as it is.

A file is noticed by an event or by a scan of the folder, and waits: no time at all where the system says that its
writer has closed it, else `interval` seconds. It is taken when it is then as it was when it was noticed.
What is complete is taken before what only a scan found: new cells do not wait while an archive is read again.
Memory is bounded: at most MOST_WAITING files wait; a scan pauses while half of that waits.
"""

from __future__ import annotations

import heapq
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from runtime.cell_names import printable
from runtime.closing import Closing
from runtime.errors import UsageError
from runtime.inputs import is_not_yet_a_cell
from runtime.watching.database import FileVersion, storable_time
from runtime.watching.events import FolderEvents
from runtime.watching.news import News

MOST_WAITING = 10_000  # files
RETRY_PAUSES_S = (1.0, 4.0, 16.0)  # before a file that cannot be used is read again; after the last it is set aside
SCAN_BESIDE_EVENTS_S = 30.0  # between scans of a folder whose events are received, since some may be missed
SCAN_REST_S = 1e-4  # of rest for each file that a scan saw, which took about a tenth of that


class Candidate(NamedTuple):
    """A file that waits to be taken."""

    version: FileVersion
    due: float  # seconds of the monotonic clock
    failures: int = 0  # how often this version could not be used
    changed_ns: int = 0  # when anything about the file had changed before it was taken


class WatchedFolder(Closing):
    """The files of one folder and its sub-folders; used from one thread."""

    def __init__(
        self,
        root: str,
        news: News,
        *,
        is_known: Callable[[FileVersion, int], bool],
        is_left_out: Callable[[str], bool] = is_not_yet_a_cell,
        with_events: bool,
        interval: float,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            root: An absolute path.
            news: Filled by the folder's events; tests fill it themselves.
            is_known: Says whether a version, and when anything about its file changed, needs no further look.
            is_left_out: Says by its path inside the folder whether a file is not to be classified.
            with_events: Receive the system's file events; False: scan the folder every `interval` seconds.
            interval: Seconds between the two looks at a file that must find it unchanged.
            tell: Takes lines for people.
            clock: Monotonic seconds.
        """
        self.root = root
        self._news = news
        self._is_known = is_known
        self._is_left_out = is_left_out
        self._interval = interval
        self._tell = tell
        self._clock = clock
        self._with_events = with_events
        self._events: FolderEvents | None = None
        self._waiting: dict[str, Candidate] = {}
        # A heap, complete files before those that have to settle; an entry that differs from `_waiting` is outdated.
        self._due: list[tuple[bool, float, str]] = []
        self._scans: list[_Scan] = []  # the last one continues first
        self._next_scan = clock()
        self._next_check = clock()
        self._unreadable: set[str] = set()
        self._tried: dict[str, tuple[FileVersion, int]] = {}  # by file, versions and when the file had changed
        self._identity = _identity(root)
        self._subscribe()

    @property
    def has_events(self) -> bool:
        """Whether files are found by events, and not by scans alone."""
        return self._events is not None

    @property
    def waiting(self) -> int:
        """How many files were noticed and not taken yet."""
        return len(self._waiting)

    def full_path(self, version: FileVersion) -> str:
        """Return where a file lies."""
        return os.path.join(self.root, version.file)  # noqa: PTH118  such a name may end in what Path drops

    def take(self) -> Iterator[Candidate]:
        """Yield the files that are complete now, the longest waiting first; end where there is none."""
        while True:
            self._read_news()
            candidate = self._pop_due()
            if candidate is None:
                if not self._continue_scan():
                    return
                continue
            seen = self._version_and_change(candidate.version.file)
            if seen is None:
                continue
            version, changed_ns = seen
            if version != candidate.version:
                self._wait(version, self._interval)
            elif not self._is_done(version, changed_ns):
                yield candidate._replace(changed_ns=changed_ns)

    def current(self, version: FileVersion) -> FileVersion | None:
        """Return the version of its file as it is now, None for no file; where it has changed, it waits from now on."""
        now = self._version_of(version.file)
        if now is not None and now != version:
            self._wait(now, self._interval)
        return now

    def try_again(self, candidate: Candidate) -> bool:
        """Let a file that could not be used wait for the next try; return False after the last."""
        if candidate.failures >= len(RETRY_PAUSES_S):
            self._remember_tried(candidate)
            return False
        self._wait(candidate.version, RETRY_PAUSES_S[candidate.failures], candidate.failures + 1)
        return True

    def rescan(self) -> None:
        """Scan the whole folder as soon as there is time."""
        self._next_scan = self._clock()

    def check(self) -> None:
        """Say once that the folder is gone or back, and then begin again; to be called often.

        Also where its events are over, as when it was removed and made again between two looks.
        """
        if self._clock() < self._next_check:
            return
        self._next_check = self._clock() + self._interval
        found = _identity(self.root)
        if found == self._identity:
            if self._events and self._events.are_over:
                self._tell(f"the file events for {self.root} ended; scanning all of it, and asking for them again")
                self._begin_anew()
            return
        self._identity = found
        self._begin_anew()
        if found is None:
            self._tell(f"{self.root} cannot be reached any more; waiting for it")
        else:
            self._tell(f"{self.root} is there again, or another folder is in its place; scanning all of it")

    def seconds_to_wait(self) -> float:
        """Return after how many seconds without news there is something to do; 0 for now."""
        if self._scans and self._has_room_to_scan():
            return 0.0
        times = [self._next_check]
        times += [self._next_scan] if self._has_room_to_scan() else []
        times += [self._due[0][1]] if self._due else []
        return max(min(times) - self._clock(), 0.0)

    def close(self) -> None:
        """Stop listening to events."""
        for scan in self._scans:
            scan.files.close()
        if self._events:
            self._events.close()

    def _subscribe(self) -> None:
        """Begin to receive events, where they are wanted and the system gives them."""
        if not self._with_events or self._identity is None:
            return
        try:
            self._events = FolderEvents(self.root, self._news)
        except UsageError as error:
            self._tell(f"{error}; looking at it every {self._interval:g} s instead")

    def _begin_anew(self) -> None:
        self.close()
        self._events = None
        self._scans.clear()
        self._unreadable.clear()
        self._tried.clear()
        self._subscribe()
        self.rescan()

    def _read_news(self) -> None:
        news = self._news.take()
        if news is None:
            return
        for path, is_complete in news.files.items():
            self._notice(self._inside(path), 0.0 if is_complete else self._interval)
        for path in news.folders:
            self._scans.append(_Scan(self._files_below(self._inside(path)), pause=0.0))
        if news.missed:
            self.rescan()

    def _inside(self, path: str) -> str:
        return path[len(self.root) :].lstrip(os.sep)

    def _notice(self, file: str, pause: float) -> None:
        """Let a file wait, unless there is no room, it is not to be classified, or it is gone."""
        if len(self._waiting) >= MOST_WAITING and file not in self._waiting:
            self.rescan()
            return
        if self._is_left_out(file):
            return
        version = self._version_of(file)
        if version is not None:
            self._wait(version, pause)

    def _wait(self, version: FileVersion, pause: float, failures: int = 0) -> None:
        """Let a version wait; one that waits already keeps its failures, and does not wait any longer than it did."""
        now = self._clock()
        candidate = Candidate(version, now + pause, failures)
        before = self._waiting.get(version.file)
        if before and before.version == version:
            candidate = Candidate(version, min(candidate.due, before.due), max(failures, before.failures))
        if candidate != before:
            self._waiting[version.file] = candidate
            heapq.heappush(self._due, (candidate.due > now, candidate.due, version.file))

    def _pop_due(self) -> Candidate | None:
        now = self._clock()
        while self._due and self._due[0][1] <= now:
            _, due, file = heapq.heappop(self._due)
            candidate = self._waiting.get(file)
            if candidate and candidate.due == due:
                return self._waiting.pop(file)
        return None

    def _is_done(self, version: FileVersion, changed_ns: int) -> bool:
        """Say whether a version needs no further look: it is known, or was tried in vain and has not changed."""
        tried = self._tried.get(version.file)
        if tried and tried == (version, changed_ns):
            return True
        return self._is_known(version, changed_ns)

    def _remember_tried(self, candidate: Candidate) -> None:
        if len(self._tried) >= MOST_WAITING:
            del self._tried[next(iter(self._tried))]  # that one is tried again if it could not be opened
        self._tried[candidate.version.file] = (candidate.version, candidate.changed_ns)

    def _continue_scan(self) -> bool:
        """Look at the next file of the folder; return False where no scan is due or there is no room."""
        if not self._has_room_to_scan():
            return False
        if not self._scans:
            if self._clock() < self._next_scan:
                return False
            self._next_scan = float("inf")
            self._scans.append(_Scan(self._files_below(""), pause=self._interval))
        scan = self._scans[-1]
        file = next(scan.files, None)
        if file is None:
            self._scans.pop()
            if not self._scans:
                self._rest_from(scan)
            return True
        scan.seen += 1
        if file not in self._waiting or not scan.pause:
            seen = self._version_and_change(file)
            # What waits is looked up when it is taken; old files must not fill the room for it.
            if seen is not None and not (scan.pause and self._is_done(*seen)):
                self._wait(seen[0], scan.pause)
        return True

    def _has_room_to_scan(self) -> bool:
        return len(self._waiting) < MOST_WAITING // 2

    def _rest_from(self, scan: _Scan) -> None:
        every = SCAN_BESIDE_EVENTS_S if self._events else self._interval
        self._next_scan = min(self._next_scan, self._clock() + max(every, scan.seen * SCAN_REST_S))

    def _files_below(self, folder: str) -> Generator[str, None, None]:
        """Yield the files of a folder and its sub-folders, paths inside the root; each folder once, links followed."""
        seen: set[tuple[int, int]] = set()
        folders = [folder]
        while folders:
            parent = folders.pop()
            place = os.path.join(self.root, parent)  # noqa: PTH118  strings: a folder may hold a million files
            identity = _identity(place)
            if identity in seen:  # a link leads back to where we were
                continue
            if identity:
                seen.add(identity)
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        file = os.path.join(parent, entry.name)  # noqa: PTH118
                        if _is_folder(entry):
                            folders += [] if entry.name.startswith(".") else [file]
                        elif not self._is_left_out(file):
                            yield file
            except OSError as error:
                self._tell_unreadable(place, error)

    def _tell_unreadable(self, folder: str, error: OSError) -> None:
        """Say once that a folder cannot be read; one that is gone does not matter, and the root has its own check."""
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)) and folder not in self._unreadable:
            self._unreadable.add(folder)
            self._tell(f"{printable(folder)} cannot be read: {error.strerror}; it is tried again with each look")

    def _version_of(self, file: str) -> FileVersion | None:
        """Return a file's version as it is now, None for no file."""
        seen = self._version_and_change(file)
        return seen[0] if seen else None

    def _version_and_change(self, file: str) -> tuple[FileVersion, int] | None:
        """Return a file's version as it is now, and when anything about it changed, permissions too; None for none."""
        found = self._found(file)
        if found is None or stat.S_ISDIR(found.st_mode):
            return None
        return FileVersion.of(file, found), storable_time(found.st_ctime_ns)

    def _found(self, file: str) -> os.stat_result | None:
        """Return what the system says of a file, None for no file; a link that leads nowhere counts as itself."""
        path = os.path.join(self.root, file)  # noqa: PTH118
        with suppress(OSError):
            return os.stat(path)  # noqa: PTH116
        try:
            return os.lstat(path)
        except OSError as error:  # such as that of a folder that can be listed and not entered
            self._tell_unreadable(os.path.dirname(path), error)  # noqa: PTH120
            return None


@dataclass
class _Scan:
    """A walk over a folder, file by file."""

    files: Generator[str, None, None]
    pause: float  # seconds that a file must stay unchanged
    seen: int = 0


def _identity(folder: str) -> tuple[int, int] | None:
    """Return what tells a folder from another one in its place, None where it cannot be reached."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
