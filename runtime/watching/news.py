"""News of a folder, from the threads that hear it to the one that acts on it."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

MOST_NEWS = 10_000  # paths that wait to be taken; beyond that the whole folder is scanned


class Bell:
    """Wakes a loop; may be rung by any thread and by a signal handler, where a lock could deadlock."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """End the wait, or the next one."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float) -> None:
        """Return when the bell has rung, or after `seconds`."""
        with suppress(Empty):
            self._rings.get(timeout=max(seconds, 0.001))


@dataclass
class Taken:
    """News since the last time; all paths are absolute."""

    files: dict[str, bool] = field(default_factory=dict)  # True: complete, False: something happened to it
    folders: dict[str, None] = field(default_factory=dict)  # moved here, with all that they hold
    missed: bool = False  # more happened than was kept


class News:
    """Collects from any thread, bounded, what is taken by one."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._guard = threading.Lock()
        self._news = Taken()

    def file(self, path: str, *, complete: bool) -> None:
        """Add a file; once complete it stays so until it is taken."""
        with self._guard:
            known = self._news.files.get(path)
            if known is not None or self._has_room():
                self._news.files[path] = complete or bool(known)
        self._bell.ring()

    def folder(self, path: str) -> None:
        """Add a folder that was moved here."""
        with self._guard:
            if self._has_room():
                self._news.folders[path] = None
        self._bell.ring()

    def take(self) -> Taken | None:
        """Return what was collected since the last call, None for nothing."""
        with self._guard:
            news = self._news
            if not (news.files or news.folders or news.missed):
                return None
            self._news = Taken()
            return news

    def _has_room(self) -> bool:
        if len(self._news.files) + len(self._news.folders) < MOST_NEWS:
            return True
        self._news.missed = True
        return False
