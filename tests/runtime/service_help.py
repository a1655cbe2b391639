"""A service on the tiny bundle: in the test's own process without a socket, or on a free port in a thread."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

import httpx
from PIL import Image

from runtime.classifier import Classifier, ClassifierOptions
from runtime.serve import listening
from runtime.service.access import Access
from runtime.service.app import create_app
from runtime.service.desk import Desk
from runtime.service.limits import Limits
from runtime.service.server import Server
from runtime.service.watch_feed import WatchFeed
from tests.tiny_bundle import SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.schema import Prediction

OWN_URL = "http://127.0.0.1:8000"
PATIENCE_S = 30.0
Files = Sequence[tuple[str, bytes]]


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def noise_pixels(seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    bright = random.integers(0, 192)
    return (random.integers(0, 64, (SIZE, SIZE, 3)) + bright).astype(np.uint8)


def noise_cell(seed: int) -> bytes:
    """A picture that no other seed has."""
    return png(noise_pixels(seed))


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def form(files: Files, field: str = "files") -> list[tuple[str, tuple[str, bytes]]]:
    """The files of a request, as httpx takes them."""
    return [(field, file) for file in files]


@contextmanager
def desk_on(bundle: Path, limits: Limits | None = None, batch_size: int = 16) -> Iterator[Desk]:
    with Desk(limits) as desk:
        desk.open(ClassifierOptions(bundle=bundle, backend="cpu", batch_size=batch_size))
        yield desk


class Client:
    """Asks an application without a socket; a fault in the service is an answer 500."""

    def __init__(self, desk: Desk, access: Access | None = None) -> None:
        self._app = create_app(desk, access)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=OWN_URL) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


@contextmanager
def client_on(bundle: Path, limits: Limits | None = None, access: Access | None = None) -> Iterator[Client]:
    with desk_on(bundle, limits) as desk:
        yield Client(desk, access)


def p_all_of(bundle: Path, files: Mapping[str, bytes], folder: Path) -> dict[str, float | None]:
    """What classify says of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with Classifier(ClassifierOptions(bundle=bundle, backend="cpu")) as classifier:
        found: list[Prediction] = list(classifier.classify([str(folder / name) for name in files]))
    return {name: one.p_all for name, one in zip(files, found, strict=True)}


class Running:
    """A service on a free port, in a thread of this process."""

    def __init__(
        self, bundle: Path, limits: Limits | None = None, access: Access | None = None, feed: WatchFeed | None = None
    ) -> None:
        self.desk = Desk(limits, feed)
        self.server = Server(self.desk, access or Access(), ClassifierOptions(bundle=bundle, backend="cpu"))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            with listening("127.0.0.1", 0) as listener, self.desk:
                self.address: tuple[str, int] = listener.getsockname()
                self.server.run_until_stopped(listener, self._ready.set)
        except BaseException as error:
            self._error = error
            self._ready.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def connect(self, timeout: float = PATIENCE_S) -> socket.socket:
        return socket.create_connection(self.address, timeout=timeout)

    def raw(self, request: bytes, timeout: float = PATIENCE_S) -> bytes:
        """Send bytes, and return all that comes until the service ends the connection."""
        with self.connect(timeout) as connection:
            connection.sendall(request)
            return received_to_the_end(connection)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        if self._error:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the service did not stop"
        if self._error:
            raise self._error


def received_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def body_of(answer: bytes) -> Any:
    """The JSON of a raw answer."""
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


def wait_until(question: Any) -> None:
    started = time.monotonic()
    while not question():
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.01)
