"""Imports TensorFlow without its noise, and without losing Ctrl-C; it imports nothing of it itself."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from runtime.command_line import STANDARD_ERROR


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Silence TensorFlow's C++ log, which would bury the one line for the user; TensorFlow is imported inside.

    What it writes during its import obeys no setting: that is held back, and shown if the import fails. Its import
    loses Ctrl-C now and then, which is kept.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    own = os.dup(STANDARD_ERROR)
    with interrupts_kept(), tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STANDARD_ERROR)
        try:
            yield
        except Exception:  # not for Ctrl-C or SIGTERM, which it would not explain
            held.seek(0)
            os.write(own, held.read())
            raise
        finally:
            os.dup2(own, STANDARD_ERROR)
            os.close(own)


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end where Ctrl-C came inside and what it raised there was dropped.

    Libraries do so that try something and go on whatever comes of it, and Python where an object is deleted.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()  # which alone may set a handler
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = []
    tell_dropped = sys.unraisablehook

    def interrupt(*_: object) -> NoReturn:
        came.append(True)
        raise KeyboardInterrupt

    def tell_others(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            tell_dropped(dropped)

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = tell_others
    try:
        yield
    finally:
        sys.unraisablehook = tell_dropped
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
