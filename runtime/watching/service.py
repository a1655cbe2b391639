"""The loop of a watching service: takes files that are complete, has them classified, writes the rows.

Who owns what: `WatchedFolder` knows which files wait and are tried again, `ResultStore` which versions have a row and
which rows are not written yet, the service which files the classifier is reading. All of it runs in one thread; the
classifier reads and decodes in its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

from runtime.cell_names import printable
from runtime.errors import OutputError
from runtime.outcomes import Outcomes, nouns
from runtime.schema import Prediction
from runtime.watching.database import FileVersion
from runtime.watching.folder import Candidate, WatchedFolder
from runtime.watching.news import Bell
from runtime.watching.result_store import ResultStore
from runtime.watching.systemd import Notifier

MOST_UNWRITTEN = 10_000  # rows that are kept while the database cannot be written; then no more files are taken
COMMIT_REST = 50  # between two commits, as a multiple of a commit's time: waiting for the disk costs 2 % at most
TRY_AGAIN_S = 1.0  # between tries to use the database
SUMMARY_S = 60.0  # between summaries, where there is anything new
NO_FILE = FileVersion("", 0, 0)


class Classifies(Protocol):
    """What the service needs of `runtime.classifier.Classifier`."""

    batch_size: int

    def classify(self, paths: Iterable[str]) -> Iterator[Prediction]:
        """Yield one Prediction for each path, in order."""


class WatchService:
    """Classifies what is complete in a folder until it is told to stop."""

    def __init__(
        self,
        classifier: Classifies,
        store: ResultStore,
        bell: Bell,
        *,
        observe: Callable[[Prediction], None],
        is_stopping: Callable[[], bool],
        notifier: Notifier,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcomes = Outcomes()  # since the start
        self._classifier = classifier
        self._store = store
        self._bell = bell
        self._observe = observe  # is told of each row
        self._notifier = notifier
        self._tell = tell
        self._clock = clock
        self._in_flight: dict[FileVersion, Candidate] = {}  # in the order in which the classifier took them
        self._uncommitted = 0  # predictions since the last commit, of any outcome
        self._trouble = ""  # what is wrong with the database, already reported
        self._is_blind = False  # since a look-up failed; another would only cost its timeout
        self._next_try = clock()
        self._next_commit = clock()  # before that only where nothing else is in flight
        self._next_summary = clock() + SUMMARY_S
        self._summed_up = 0
        self._is_stopping = is_stopping

    @property
    def summary(self) -> str:
        """What came of the files since the start."""
        rows = self.outcomes.rows
        return f"{rows} {nouns(rows, 'file')} since the start: {self.outcomes}"

    def is_known(self, version: FileVersion, changed_ns: int) -> bool:
        """Say whether a version has a row or is being classified; while the database cannot be read, True.

        A file that was changed in any way since it was read, which its version need not show, has no row.
        """
        self._notifier.progress()
        if self._is_blind or version in self._in_flight:
            return True
        try:
            return self._store.holds(version, changed_ns)
        except OutputError as error:
            self._has_trouble(error)
            self._is_blind = True
            return True

    def run(self, folder: WatchedFolder) -> None:
        """Watch until `is_stopping`, whose change rings the bell.

        What could not be written even then is still in the store, its `unwritten`.
        """
        self._notifier.ready()
        try:
            while not self._is_stopping():
                self.step(folder)
                self._bell.wait(self._seconds_to_wait(folder))
        finally:
            self._notifier.stopping()
            self._next_try = self._clock()
            self._commit()

    def step(self, folder: WatchedFolder) -> None:
        """Do what there is to do now."""
        self._notifier.progress()
        folder.check()
        self._overcome_trouble(folder)
        self._classify(folder)
        self._sum_up()

    def _classify(self, folder: WatchedFolder) -> None:
        """Hand the classifier one file after the other until none is complete; write a batch when it comes out."""
        paths = self._paths(folder)
        first = next(paths, None)
        if first is None:
            return
        for prediction in self._classifier.classify(chain([first], paths)):
            self._receive(prediction, folder)
            self._uncommitted += 1
            is_batch = self._uncommitted >= self._classifier.batch_size and self._clock() >= self._next_commit
            if is_batch or not self._in_flight:
                self._commit()
            self._notifier.progress()

    def _paths(self, folder: WatchedFolder) -> Iterator[str]:
        if self._is_pausing():
            return
        for candidate in folder.take():
            self._in_flight[candidate.version] = candidate
            yield folder.full_path(candidate.version)
            if self._is_pausing():
                return

    def _is_pausing(self) -> bool:
        is_full = self._store.unwritten + len(self._in_flight) >= MOST_UNWRITTEN
        return self._is_stopping() or is_full

    def _receive(self, prediction: Prediction, folder: WatchedFolder) -> None:
        """Keep the row of a file that is unchanged since it was taken, or that went away after it was read.

        Where another file is in its place, that may be what was read; one gone without an answer may never have been.
        """
        version = next(iter(self._in_flight))
        candidate = self._in_flight.pop(version)
        now = folder.current(version)
        is_error = prediction.status == "error"
        if now != version and (now is not None or is_error):
            return
        if is_error and folder.try_again(candidate):
            return
        if is_error:
            self._tell(f"{printable(prediction.path)}: {prediction.reason}; set aside until it changes")
        self._store.add(version, prediction, candidate.changed_ns)
        self.outcomes.add(prediction)
        self._observe(prediction)

    def _commit(self) -> None:
        """Write the rows; if that fails, say so once and try again later."""
        self._uncommitted = 0
        started = self._clock()
        if started < self._next_try:
            return
        try:
            self._store.commit()
            now = self._clock()
            self._next_commit = now + (now - started) * COMMIT_REST
            if self._trouble:
                self._store.holds(NO_FILE)  # reading may be what failed
        except OutputError as error:
            self._has_trouble(error)
        else:
            self._has_no_trouble()

    def _has_trouble(self, error: OutputError) -> None:
        if not self._trouble:
            self._tell(f"{error}; results are kept in memory until it works again")
        self._trouble = str(error)
        self._next_try = self._clock() + TRY_AGAIN_S

    def _has_no_trouble(self) -> None:
        if self._trouble:
            self._tell("the database works again; all results are written")
        self._trouble = ""

    def _overcome_trouble(self, folder: WatchedFolder) -> None:
        """Try the database again; what could not be looked up meanwhile is found by another scan."""
        if self._trouble:
            self._commit()
        if self._is_blind and not self._trouble:
            self._is_blind = False
            folder.rescan()

    def _sum_up(self) -> None:
        if self._clock() < self._next_summary:
            return
        self._next_summary = self._clock() + SUMMARY_S
        if self.outcomes.rows > self._summed_up:
            self._summed_up = self.outcomes.rows
            self._tell(self.summary)

    def _seconds_to_wait(self, folder: WatchedFolder) -> float:
        """Return how long to wait for news; no ping of systemd may come late."""
        wait = TRY_AGAIN_S if self._is_pausing() else folder.seconds_to_wait()
        return min(wait, self._notifier.seconds_to_ping())
