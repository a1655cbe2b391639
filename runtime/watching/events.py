"""What the operating system tells of a folder while it changes; the only file that imports watchdog."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from runtime.closing import Closing
from runtime.errors import UsageError, reason_of
from runtime.watching.news import News

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

IS_LINUX = sys.platform.startswith("linux")  # where the system tells that a writer has closed a file


def has_events() -> bool:
    """Say whether the library for file events is installed."""
    return importlib.util.find_spec("watchdog") is not None


class FolderEvents(Closing):
    """Lets the events of a folder and its sub-folders fill a `News` until it is closed."""

    def __init__(self, folder: str, news: News) -> None:
        """Raise UsageError where the system gives no events, such as at its limit of watched folders."""
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
        self._observer = _linux_observer() if IS_LINUX else _usual_observer()
        try:
            self._observer.schedule(Handler(), real, recursive=True, event_filter=wanted)
            self._observer.start()
        except OSError as error:
            raise UsageError(f"the system gives no file events of {folder}: {reason_of(error)}") from error

    def close(self) -> None:
        """Stop the threads."""
        self._observer.stop()
        self._observer.join()


def _pass_on(event: FileSystemEvent, folder: str, real: str, news: News) -> None:
    """Sort an event of what lies at `real` into the news of `folder`, which leads there.

    For what a folder holds that was moved here, watchdog makes up events: the folder's own says more.
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

    Of what is moved away it hears nothing: watchdog holds all events back for half a second after such a one.
    """
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

    return BaseObserver(Emitter)


def _usual_observer() -> BaseObserver:
    from watchdog.observers import Observer

    return Observer()
