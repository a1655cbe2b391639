"""What the operating system reports about a folder as it changes; the only file that imports watchdog."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import sys
import threading
import warnings
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime.closing import Closing
from runtime.errors import UsageError, reason_of
from runtime.watching.news import News

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify import InotifyEmitter

IS_LINUX = sys.platform.startswith("linux")  # where the system tells that a writer has closed a file


def has_events() -> bool:
    """Say whether the library for file events is installed."""
    return importlib.util.find_spec("watchdog") is not None


class FolderEvents(Closing):
    """Lets the events of a folder and its sub-folders fill a `News` until it is closed."""

    def __init__(self, folder: str, news: News) -> None:
        """Raise UsageError where the system gives no events, as at its limit of watched folders."""
        from watchdog.events import (
            DirMovedEvent,
            FileClosedEvent,
            FileCreatedEvent,
            FileModifiedEvent,
            FileMovedEvent,
            FileSystemEventHandler,
        )

        # watchdog 7 warns where it watches a new folder twice, which does no harm.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        logging.getLogger("watchdog").addHandler(logging.NullHandler())  # what it reports, a scan of the folder mends
        logging.getLogger("watchdog").propagate = False

        class Handler(FileSystemEventHandler):
            def dispatch(self, event: FileSystemEvent) -> None:
                _pass_on(event, folder, real, news)

        real = os.path.realpath(folder)  # watchdog 7 hears nothing of what a link leads to
        changed = FileClosedEvent if IS_LINUX else FileModifiedEvent
        wanted: list[type[FileSystemEvent]] = [FileCreatedEvent, FileMovedEvent, DirMovedEvent, changed]
        before = {*threading.enumerate()}
        with ExitStack() as undo:
            try:
                self._observer = _linux_observer() if IS_LINUX else _usual_observer()
                undo.callback(self._observer.stop)
                self._observer.schedule(Handler(), real, recursive=True, event_filter=wanted)
                self._observer.start()
            except (OSError, UsageError) as error:
                raise UsageError(f"the system gives no file events for {folder}: {reason_of(error)}") from error
            undo.pop_all()
        self._threads = {*threading.enumerate()} - before

    @property
    def are_over(self) -> bool:
        """Whether no more events come: the folder was removed, the library failed or the system's limit is reached."""
        return not all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Stop the threads."""
        self._observer.stop()
        self._observer.join()


def _pass_on(event: FileSystemEvent, folder: str, real: str, news: News) -> None:
    """Sort an event of what lies at `real` into the news of `folder`, which leads there.

    For the content of a folder that was moved here, watchdog makes up events: the folder's own says more.
    """
    path = os.fsdecode(event.dest_path if event.event_type == "moved" else event.src_path)
    if event.is_synthetic and IS_LINUX:
        return
    path = folder + path[len(real) :]
    is_complete = IS_LINUX and event.event_type in ("closed", "moved")
    if not event.is_directory:
        news.file(path, complete=is_complete)
    elif is_complete:
        news.folder(path)


def _linux_observer() -> BaseObserver:
    """Return an observer that hears of files and folders that are made, moved here, or closed by a writer.

    It hears nothing of what is moved away: watchdog holds all events back for half a second after such an event.
    """
    from watchdog.observers import inotify_c
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify import InotifyFullEmitter
    from watchdog.observers.inotify_c import InotifyConstants

    class Emitter(InotifyFullEmitter):
        def get_event_mask_from_filter(self) -> Any:
            kind: Any = type(super().get_event_mask_from_filter())  # int in watchdog 6, its own Mask in 7
            return kind(
                InotifyConstants.IN_CREATE
                | InotifyConstants.IN_MOVED_TO
                | InotifyConstants.IN_CLOSE_WRITE
                | InotifyConstants.IN_DELETE_SELF
            )

    return _observer_with_reader(Emitter) if hasattr(inotify_c, "InotifyFD") else BaseObserver(Emitter)


def _observer_with_reader(kind: type[InotifyEmitter]) -> BaseObserver:
    """Return an observer of watchdog 7 with its own reader of the system's events, which ends where it fails.

    Otherwise all observers of a process share one reader, and one that has failed is never replaced.
    """
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify import InotifyWatchGroup
    from watchdog.observers.inotify_c import InotifyFD

    class Reader(InotifyFD):
        def add_callback(self, *arguments: Any) -> Any:
            try:
                return super().add_callback(*arguments)
            except OSError as error:
                if error.errno != errno.ENOSPC:  # a folder that is gone, or closed to us
                    raise
                raise UsageError(reason_of(error)) from error  # an OSError would silently leave out that one folder

        def run(self) -> None:
            with suppress(UsageError):
                super().run()

    class Watches(InotifyWatchGroup):
        def _remove_watch_internally(self, wd: Any) -> None:
            with suppress(KeyError):  # two folders that were moved had the same name in turn
                super()._remove_watch_internally(wd)

    class Emitter(kind):  # type: ignore[valid-type, misc]
        def on_thread_start(self) -> None:
            mask = self.get_event_mask_from_filter()
            self._inotify = Watches(self._inotify_fd, os.fsencode(self.watch.path), mask, is_recursive=True)

    class Observer(BaseObserver):
        def __init__(self) -> None:
            self._reader = Reader()
            self._reader.start()
            super().__init__(partial(Emitter, inotify_fd=self._reader))  # type: ignore[arg-type]

        def on_thread_stop(self) -> None:
            super().on_thread_stop()
            self._reader.stop()
            self._reader.join()

    return Observer()


def _usual_observer() -> BaseObserver:
    from watchdog.observers import Observer

    return Observer()
