"""How a service is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(ring: Callable[[], object]) -> Iterator[list[int]]:
    """Yield a list that takes the first SIGTERM or Ctrl-C and calls `ring`; a second one ends the process at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def receive(number: int, _: object) -> None:
        received.append(number)
        restore()
        ring()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as in a shell's background job
            signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
