"""Files in object stores, by their URLs: found by the rules of `runtime.inputs`, fetched with bounded patience.

Everything that fsspec knows is taken (s3://, gs://, abfs://, https://, …); a store's credentials come from where its
library looks for them, never from the command line.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from itertools import islice
from typing import Any

from runtime.errors import ClusterError, UnopenableCellError, UnreadableCellError, UsageError, one_line
from runtime.inputs import is_wanted
from runtime.preprocessing import MAX_FILE_BYTES

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
TRIES = 3
PAUSE_S = 1.0  # before the second try; twice as long before the third
AT_A_TIME = 8  # files that one task fetches
LOST_IN_A_ROW = 8  # files, after which the store is at fault, not a file
ANSWERS = (FileNotFoundError, IsADirectoryError)  # of a store that can be read
FINAL = (*ANSWERS, PermissionError)  # another try would say the same


@dataclass(frozen=True)
class StoredFile:
    """A file as the listing has it."""

    path: str  # a URL, or the path of a local file
    size: int | None  # bytes, where the listing told it


def is_url(name: str) -> bool:
    """Say whether a name is a URL."""
    return bool(URL.match(name))


def stored_files(url: str, include: Sequence[str], timeout_s: float) -> Iterator[tuple[StoredFile, bool]]:
    """Yield the file at a URL, or those below it, sorted folder by folder, and whether each is wanted.

    Raises UsageError where there is nothing, and where the store cannot be read or takes longer than `timeout_s` to
    list a folder.
    """
    try:
        store, root = _opened(url)
        if _within(timeout_s, store.isdir, root):  # asked first: over HTTP every page is a file
            yield from _below(store, root, include, timeout_s)
        elif _within(timeout_s, store.exists, root):
            yield StoredFile(url, _within(timeout_s, store.size, root)), True
        else:
            # Raises why, if it can: the questions before take a silent store for an empty one.
            _within(timeout_s, store.ls, root)
            raise FileNotFoundError(url)
    except FileNotFoundError:
        raise UsageError(
            f"expected an image or a folder of images at {url}, found nothing; check the address"
        ) from None
    except Exception as error:  # each store's library raises its own types
        raise UsageError(f"expected a store that can be read at {url}, found: {one_line(error)}") from error


def _below(store: Any, root: str, include: Sequence[str], timeout_s: float) -> Iterator[tuple[StoredFile, bool]]:
    seen: set[str] = set()
    found = store.walk(root, detail=True, on_error="raise")
    while (each := _within(timeout_s, next, found, None)) is not None:
        folder, folders, files = each
        if folder in seen:  # a page that links back to where we were
            folders.clear()
            continue
        seen.add(folder)
        for name in sorted(folders):  # the walk follows their order
            folders[name] = folders.pop(name)
        for name in sorted(files):
            path = store.unstrip_protocol(files[name]["name"])
            wanted = is_wanted(path, store.unstrip_protocol(root), include)
            yield StoredFile(path, files[name].get("size")), wanted


class Losses:
    """Counts files in a row that could not be fetched, over all blocks that a process reads: one may hold few."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def end(self) -> None:
        """Note that a store gave a file, or said for certain that there is none."""
        self._in_a_row = 0

    def add(self, file: StoredFile, error: UnreadableCellError) -> None:
        """Note why a file could not be fetched; raise ClusterError where it is the store that cannot be read."""
        if isinstance(error.__cause__, ANSWERS) or not isinstance(error, UnopenableCellError):
            self.end()
            return
        self._in_a_row += 1
        if self._in_a_row < LOST_IN_A_ROW:
            return
        self.end()
        found = f"{LOST_IN_A_ROW} files in a row"
        if isinstance(error.__cause__, PermissionError):
            raise ClusterError(
                f"expected the right to read in the store of {file.path}, found {found} that could not be read; the "
                f"last: {error}; renew the credentials on each machine, then run the same command to continue: the "
                "blocks so far are kept"
            )
        raise ClusterError(
            f"expected the store of {file.path} to answer, found {found} that could not be read, each tried {TRIES} "
            f"times; the last: {error}; the blocks so far are kept: when it answers, run the same command to continue"
        )


def fetched(files: Iterable[StoredFile], timeout_s: float, losses: Losses) -> Iterator[bytes | UnreadableCellError]:
    """Yield the bytes of each file in order, or why there are none, fetching AT_A_TIME at once.

    A file is tried TRIES times, each at most `timeout_s`. Raises ClusterError where LOST_IN_A_ROW files in a row could
    not be had, those counted that `losses` has from before: then what follows would fare no better.
    """
    remaining = iter(files)
    pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="fetch")
    try:
        under_way: deque[tuple[StoredFile, Future[bytes]]] = deque()
        while True:
            for file in islice(remaining, AT_A_TIME - len(under_way)):
                under_way.append((file, pool.submit(_fetch, file, *_opened(file.path), timeout_s)))
            if not under_way:
                return
            file, future = under_way.popleft()
            try:
                data: bytes | UnreadableCellError = future.result()
                losses.end()
            except UnreadableCellError as error:
                data = error
                losses.add(file, error)
            yield data
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch(file: StoredFile, store: Any, path: str, timeout_s: float) -> bytes:
    """Read a file, which its store knows as `path`; raise UnreadableCellError where that cannot be."""
    if file.size is not None and file.size > MAX_FILE_BYTES:
        raise UnreadableCellError(f"expected at most {MAX_FILE_BYTES // 2**20} MB, found {file.size // 2**20} MB")
    tries = 0
    while True:
        try:
            data: bytes = _within(timeout_s, store.cat_file, path)
            return data
        except Exception as error:  # each store's library raises its own types
            tries += 1
            if isinstance(error, FINAL) or tries == TRIES:
                raise UnopenableCellError(one_line(error)) from error
        time.sleep(PAUSE_S * 2 ** (tries - 1))


def _within(timeout_s: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call gives within `timeout_s`; where its library waits for ever, its thread is left behind."""
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(call(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="store", daemon=True).start()  # Python would wait for a pool's when it ends
    try:
        return answer.result(timeout_s)
    except FutureTimeoutError as error:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from error


def _opened(url: str) -> tuple[Any, str]:
    """Return the store of a URL and the path in it; its library opens a store once for each thread that asks."""
    from fsspec.core import url_to_fs  # loads much, which local files do without

    store, path = url_to_fs(url)
    return store, path
