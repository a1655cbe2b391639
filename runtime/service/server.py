"""Runs the application on a socket: loads the model meanwhile, and stops when told to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from runtime.classifier import ClassifierOptions
from runtime.command_line import tell
from runtime.outcomes import nouns
from runtime.service.access import Access
from runtime.service.app import create_app
from runtime.service.connections import connections_with
from runtime.service.desk import Desk
from runtime.stopping import stop_signals

TICKS_A_SECOND = 10  # of uvicorn's loop


class Server(uvicorn.Server):
    """uvicorn with this service's connections, signals and start."""

    def __init__(self, desk: Desk, access: Access, options: ClassifierOptions) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(desk, access),
                http=connections_with(desk.limits),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=round(desk.limits.head_s),
            )
        )
        self._desk = desk
        self._options = options
        self._failure: Exception | None = None

    def run_until_stopped(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Answer on a listening socket, and call `ready` when cells are taken; raise what loading the model raises."""
        self._ready = ready
        self.run(sockets=[listener])
        if self._failure:
            raise self._failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer that the service lives while the model is loaded."""
        await super().startup(sockets)
        self._loading = asyncio.create_task(self._load())

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections once a second."""
        if counter % TICKS_A_SECOND == 0:
            self._close_stalled()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was taken, however long that takes; stalled clients are not waited for."""
        looking_after = asyncio.create_task(self._look_after())
        try:
            await super().shutdown(sockets)
        finally:
            looking_after.cancel()

    async def _look_after(self) -> None:
        if waiting := self._desk.waiting:
            cells = nouns(waiting, "cell")
            tell(f"stopping: {waiting} {cells} to be answered first; another signal ends the service at once")
        while True:  # there are no ticks any more
            self._close_stalled()
            await asyncio.sleep(1)

    def _close_stalled(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            connection.close_if_stalled(now)  # type: ignore[union-attr]  # they are of our class

    async def _load(self) -> None:
        try:
            await asyncio.to_thread(self._desk.open, self._options)
        except Exception as error:
            self._failure = error
            self.should_exit = True
        else:
            self._ready()

    def stop(self) -> None:
        """Take nothing more, and end when what was taken is answered."""
        self._desk.is_stopping = True
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():  # which alone hears signals
            yield
            return
        with stop_signals(self.stop):
            yield
