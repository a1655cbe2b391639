"""The service on a socket: many clients, slow ones, its stop, its command line, and public clients against it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

import httpx

from runtime.classifier import ClassifierOptions
from runtime.command_line import DONE, REFUSED
from runtime.errors import BundleError, UsageError
from runtime.serve import build_parser, listening, main
from runtime.service.access import Access
from runtime.service.bodies import Body
from runtime.service.desk import Desk, Hold
from runtime.service.limits import MIB, Limits
from runtime.service.server import Server
from runtime.service.uploads import Upload, UploadForm
from tests.runtime.service_help import (
    PATIENCE_S,
    Running,
    body_of,
    form,
    noise_cell,
    noise_pixels,
    p_all_of,
    received_to_the_end,
    wait_until,
    zipped,
)
from tests.tiny_bundle import SIZE, write_tiny_bundle

ROOT = Path(__file__).parents[2]
MODEL = "compact_fp32"
HEAD = b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=frontier\r\n"
on_unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to one process")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("service") / "bundle")


@pytest.fixture(scope="module")
def running(bundle: Path) -> Iterator[Running]:
    with Running(bundle) as service:
        yield service


def part(name: str, data: bytes) -> bytes:
    head = f'--frontier\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def whole_request(*files: tuple[str, bytes], more: bytes = b"") -> bytes:
    body = b"".join(part(*file) for file in files) + b"--frontier--\r\n"
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


# Many clients


def test_many_clients_at_once_never_get_each_others_answers(running: Running, bundle: Path, tmp_path: Path) -> None:
    files = {f"{number}.png": noise_cell(number) for number in range(120)}
    expected = p_all_of(bundle, files, tmp_path / "cells")
    names = list(files)

    def ask(client: int) -> list[str]:
        wrong = []
        with httpx.Client(base_url=running.url, timeout=PATIENCE_S) as connection:
            for turn in range(6):
                mine = [names[(client * 7 + turn * 13 + step) % len(names)] for step in range(client % 5 + 1)]
                rows = connection.post("/classify", files=form([(name, files[name]) for name in mine])).json()[
                    "results"
                ]
                if [row["path"] for row in rows] != mine:
                    wrong.append(f"{client}: names {rows}")
                wrong += [
                    name for name, row in zip(mine, rows, strict=True) if abs(row["p_all"] - expected[name]) > 2e-6
                ]
        return wrong

    with ThreadPoolExecutor(32) as clients:
        assert [wrong for found in clients.map(ask, range(32)) for wrong in found] == []


def test_requests_sent_one_behind_the_other_are_answered_one_behind_the_other(running: Running) -> None:
    requests = [whole_request((f"{number}.png", noise_cell(number))) for number in range(5)]
    last = whole_request(("last.png", noise_cell(9)), more=b"Connection: close\r\n")
    answers = running.raw(b"".join(requests) + last)
    assert re.findall(rb'"path": "([^"]*)"', answers) == [b"0.png", b"1.png", b"2.png", b"3.png", b"4.png", b"last.png"]


def test_a_body_in_the_smallest_pieces_and_in_chunks_is_the_same(running: Running) -> None:
    whole = whole_request(("a.png", noise_cell(1)), more=b"Connection: close\r\n")
    with running.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(whole), 7):
            connection.sendall(whole[start : start + 7])
        slowly = received_to_the_end(connection)
    body = whole.split(b"\r\n\r\n", 1)[1]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 50]), body[i : i + 50]) for i in range(0, len(body), 50))
    chunked = running.raw(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    rows = [body_of(answer)["results"] for answer in (running.raw(whole), slowly, chunked)]
    assert [(row["path"], row["p_all"]) for [row] in rows] == [("a.png", rows[0][0]["p_all"])] * 3


def test_a_client_that_waits_to_be_told_to_go_on_is_told_so(running: Running) -> None:
    head, body = whole_request(("a.png", noise_cell(1)), more=b"Expect: 100-continue\r\nConnection: close\r\n").split(
        b"\r\n\r\n", 1
    )
    with running.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert b'"path": "a.png"' in received_to_the_end(connection)


def test_a_client_that_offers_another_protocol_is_answered_in_this_one(running: Running) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n"  # as Java's do
    requests = b"".join(whole_request((name, noise_cell(1)), more=offer) for name in ("a.png", "b.png"))
    requests += whole_request(("c.png", noise_cell(2)), more=offer.replace(b"Upgrade,", b"Upgrade, close,"))
    with running.connect() as connection:
        for start in range(0, len(requests), 100):
            connection.sendall(requests[start : start + 100])
        in_pieces = received_to_the_end(connection)
    for answers in (running.raw(requests), in_pieces):
        assert re.findall(rb'"path": "([^"]*)"', answers) == [b"a.png", b"b.png", b"c.png"]
        assert answers.count(b'"p_all": 0.') == 3


def test_a_client_that_goes_away_leaves_nothing_behind(bundle: Path) -> None:
    archive = zipped({f"{number}.png": noise_cell(number) for number in range(500)})
    with Running(bundle) as service:
        for cut in (40, 300, *[None] * 4):  # whole ones too, more than threads score
            connection = service.connect()
            connection.sendall(whole_request(("z.zip", archive))[:cut])
            connection.close()
        wait_until(lambda: service.desk.bytes_held == 0 and not service.server.server_state.connections)
        [row] = body_of(service.raw(whole_request(("a.png", noise_cell(1)))))["results"]
        assert row["p_all"] is not None


def test_the_files_of_a_request_are_let_go_when_it_is_answered_and_wait_for_no_collector(bundle: Path) -> None:
    def kept() -> int:
        return sum(isinstance(each, Hold | UploadForm | Upload) for each in gc.get_objects())

    cell, damaged, large = noise_cell(1), b"PK\x03\x04 and nothing more", b"x" * 100_000
    files = (("a", cell), ("a.zip", damaged), ("a", large))
    requests = [whole_request(each, more=b"Connection: close\r\n") for each in files]
    requests += [request.replace(b"/classify", b"/explain") for request in requests]
    with Running(bundle, Limits(file_bytes=50_000)) as service:
        gc.collect()
        gc.disable()
        before = kept()  # by errors that other tests raise
        try:
            for request in requests:
                service.raw(request)
                wait_until(lambda: kept() == before)
            with service.connect() as going:
                going.sendall(requests[0][:-20])
                wait_until(lambda: kept() > before)
            wait_until(lambda: kept() == before)
        finally:
            gc.enable()


# Slow clients and many connections


def test_a_client_that_never_ends_its_head_is_dropped(bundle: Path) -> None:
    with Running(bundle, Limits(head_s=1.0)) as service, service.connect() as silent, service.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        started = time.monotonic()
        for _ in range(6):
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                slow.sendall(b"X: y\r\n")
        for connection in (silent, slow):
            with contextlib.suppress(ConnectionResetError):
                assert received_to_the_end(connection) == b""
        assert time.monotonic() - started < 10


def test_a_body_that_stalls_is_an_error_and_lets_go_of_what_it_holds(bundle: Path) -> None:
    with Running(bundle, Limits(stall_s=0.5)) as service:
        answer = service.raw(whole_request(("a.png", noise_cell(1)), more=b"Connection: close\r\n")[:-5])
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert "over a faster connection" in body_of(answer)["detail"]
        assert service.desk.bytes_held == 0


def test_nothing_is_kept_of_a_body_that_was_given_up() -> None:
    taken: list[bytes] = []

    async def give_up() -> None:
        body = Body(begin=lambda: None, pause=lambda: None)
        reading = asyncio.create_task(body.read(taken.append))
        await asyncio.sleep(0)
        body.feed(b"in time")
        reading.cancel()
        await asyncio.wait([reading])
        body.feed(b"too late")

    asyncio.run(give_up())
    assert taken == [b"in time"]


def test_a_body_that_trickles_is_an_error(bundle: Path) -> None:
    with Running(bundle, Limits(stall_s=0.5)) as service, service.connect() as connection:
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: 1000\r\n\r\n")
        for byte in part("a.png", b"x" * 500)[:12]:
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                connection.sendall(bytes([byte]))
        with contextlib.suppress(ConnectionResetError):
            assert received_to_the_end(connection).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_take_its_answer_is_dropped(bundle: Path) -> None:
    # 990 names of 10 kB are an answer that no buffer of the system holds.
    name = "x" * 10_000
    body = b"".join(part(f"{name}{number}", b"") for number in range(990)) + b"--frontier--\r\n"
    with Running(bundle, Limits(answer_s=1.0)) as service, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(service.address)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: not service.server.server_state.connections)
        assert httpx.get(f"{service.url}/readiness").status_code == 200


def test_a_client_that_asks_in_a_row_and_takes_nothing_is_no_fault_of_the_service(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Running(bundle, Limits(answer_s=1.0)) as service, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(service.address)
        connection.sendall(b"GET /static/page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)
        wait_until(lambda: service.server.server_state.connections)
        wait_until(lambda: not service.server.server_state.connections)
        assert httpx.get(f"{service.url}/readiness").status_code == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_service_that_stops_does_not_wait_for_a_client_that_does_not_take_its_answer(bundle: Path) -> None:
    name = "x" * 10_000
    body = b"".join(part(f"{name}{number}", b"") for number in range(990)) + b"--frontier--\r\n"
    with socket.socket() as connection, Running(bundle, Limits(answer_s=1.0)) as service:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(service.address)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connection.recv(10)  # it has begun to answer


def test_what_comes_after_a_refusal_is_not_taken_for_ever(bundle: Path) -> None:
    with Running(bundle, Limits(head_s=1.0, request_bytes=1000)) as service, service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
        started = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011  which one depends on the moment
            while time.monotonic() - started < PATIENCE_S:
                connection.sendall(b"x" * 10_000)
                time.sleep(0.05)
        assert time.monotonic() - started < 10


def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(bundle: Path) -> None:
    with Running(bundle) as service, service.connect() as connection:
        sent = 0
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            while sent < 100 * 2**20:
                sent += connection.send(b"x" * 65536)
        assert sent < 20 * 2**20
    with Running(bundle) as service, service.connect() as connection:
        connection.sendall(HEAD)
        for number in range(20):
            with contextlib.suppress(OSError):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"y" * 10_000))
        with contextlib.suppress(ConnectionResetError):  # what it had not read makes it a reset
            assert received_to_the_end(connection).startswith(b"HTTP/1.1 431 ")


def test_more_connections_than_allowed_are_told_so_and_the_others_are_answered(bundle: Path) -> None:
    with Running(bundle, Limits(connections=20)) as service, contextlib.ExitStack() as open_ones:
        first = open_ones.enter_context(service.connect())
        for _ in range(19):
            open_ones.enter_context(service.connect())
        wait_until(lambda: len(service.server.server_state.connections) == 20)
        refused = service.raw(b"")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert "fewer open connections" in body_of(refused)["detail"]
        first.sendall(whole_request(("a.png", noise_cell(1))))
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_thousands_of_connections_leave_a_service_that_answers(bundle: Path) -> None:
    with Running(bundle, Limits(connections=50)) as service:
        for _ in range(20):
            with contextlib.ExitStack() as open_ones:
                for _ in range(100):
                    open_ones.enter_context(service.connect())
        request = partial(httpx.post, f"{service.url}/classify", files=form([("a.png", noise_cell(1))]))
        wait_until(lambda: request().status_code == 200)  # those that are gone are seen one after the other


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X" * 200_000 + b": y\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /static/%ff HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_service_answers_afterwards(
    running: Running, request_bytes: bytes
) -> None:
    with contextlib.suppress(ConnectionError):  # what it had not read makes it a reset
        assert re.match(rb"HTTP/1.1 [24]", running.raw(request_bytes))
    assert httpx.get(f"{running.url}/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/healthz", "/readiness", "/v2/health/live"])
def test_a_probe_that_asks_for_the_head_alone_has_that_of_the_page_or_probe(running: Running, path: str) -> None:
    head, found, body = running.raw(
        f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    ).partition(b"\r\n\r\n")
    whole = httpx.get(f"{running.url}{path}")
    assert head.startswith(b"HTTP/1.1 200")
    assert f"content-length: {len(whole.content)}".encode() in head.lower()
    assert (found, body) == (b"\r\n\r\n", b"")


def test_other_routes_have_no_head_alone(running: Running) -> None:
    assert [httpx.head(f"{running.url}{path}").status_code for path in ("/about", "/classify")] == [405, 405]


# Its start and its stop


class Process:
    """python -m runtime.serve as a process; killed at the end where it still runs."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "runtime.serve", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert self.process.stderr
        self.first_line = self.process.stderr.readline().strip()
        self.url = self.first_line.split()[0] if self.first_line else ""

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@on_unix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_it_is_told_to_and_answers_what_it_took(bundle: Path, number: int) -> None:
    archive = zipped({f"{place}.png": noise_cell(place) for place in range(900)})
    with Process("--bundle", str(bundle), "--port", "0", "--batch-size", "1") as service:
        assert "answers: compact fp32" in service.first_line
        host, _, at_port = service.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(at_port)), timeout=PATIENCE_S) as connection:
            connection.sendall(whole_request(("z.zip", archive)))
            wait_until(lambda: "allnet_batch_cells_count 0.0" not in httpx.get(f"{service.url}/metrics").text)
            service.process.send_signal(number)
            answer = received_to_the_end(connection)
        assert len(body_of(answer)["results"]) == 900
        code, said = service.end()
        assert code == DONE
        assert re.fullmatch(
            r"stopping: \d+ cells? to be answered first; another signal ends the service at once\n"
            r"stopped: all that was taken is answered\n",
            said,
        )
        with pytest.raises(httpx.ConnectError):
            httpx.get(service.url)


def test_it_stops_in_good_order_while_the_model_is_loaded() -> None:
    is_loading, may_go = threading.Event(), threading.Event()

    class SlowDesk(Desk):
        def open(self, options: ClassifierOptions) -> None:
            is_loading.set()
            assert may_go.wait(PATIENCE_S)

    server = Server(SlowDesk(), Access(), ClassifierOptions())
    with ThreadPoolExecutor() as threads, listening("127.0.0.1", 0) as listener:
        served = threads.submit(server.run_until_stopped, listener, lambda: None)
        assert is_loading.wait(PATIENCE_S)
        server.stop()
        threading.Timer(0.5, may_go.set).start()  # when the server has ended, and waits for its threads
        assert served.exception(PATIENCE_S) is None


def test_an_address_that_is_taken_or_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLNET_TOKEN", "a-token-of-some-length")
    with listening("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="expected a free address at 127"):
        main(["--port", str(taken.getsockname()[1])])
    for host in ("203.0.113.1", "no.such.name.invalid"):
        with pytest.raises(UsageError, match="expected a free address"):
            main(["--host", host, "--port", "0"])


def test_a_bundle_that_cannot_be_used_ends_it_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle"):
        main(["--bundle", str(tmp_path), "--port", "0"])
    with Process("--bundle", str(tmp_path), "--port", "0") as service:
        assert service.first_line.startswith("error: expected a bundle")
        assert service.end() == (REFUSED, "")


def test_without_the_web_libraries_it_names_the_extra() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from runtime.serve import main, run_command; run_command(main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        REFUSED,
        'error: expected fastapi for this command, found none; pip install -e ".[serve]"\n',
    )


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--port", "x"], ["--max-files", "0"], ["--nothing"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == REFUSED
    assert capsys.readouterr().err.count("\n") == 1


def test_the_help_names_the_limits_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "request_files", 11)
    monkeypatch.setattr(Limits, "request_bytes", 12 * MIB)
    monkeypatch.setattr(Limits, "waiting_cells", 13)
    said = " ".join(build_parser().format_help().split())
    for limit in (
        "images in a request; default 11",
        "megabytes of a request; default 12",
        "cells in the queue; default 13",
    ):
        assert limit in said


# The open inference protocol


def infer(running: Running, content: Any = None, **options: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v2/models/{MODEL}/infer", json=content, **options)


def tensor(pixels: Any, **changes: Any) -> dict[str, Any]:
    made = {"name": "cells", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    return {"inputs": [{**made, **changes}]}


def some_pixels(count: int) -> Any:
    return np.stack([noise_pixels(number) for number in range(count)])


def expected_p_all(bundle: Path, pixels: Any) -> Any:
    from runtime.classifier import Classifier, ClassifierOptions

    with Classifier(ClassifierOptions(bundle=bundle, backend="cpu")) as classifier:
        return classifier.backend.infer(pixels)


def test_the_model_is_described(running: Running) -> None:
    assert httpx.get(f"{running.url}/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/1"):
        found = httpx.get(f"{running.url}{path}").json()
        assert found["inputs"] == [{"name": "cells", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
        assert found["outputs"] == [{"name": "p_all", "datatype": "FP32", "shape": [-1]}]
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready"):
        assert httpx.get(f"{running.url}{path}").status_code == 200
    for path in ("/v2/models/other", f"/v2/models/{MODEL}/versions/2", "/v2/models/other/ready"):
        answer = httpx.get(f"{running.url}{path}")
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_numbers_nested_or_in_a_row_are_inferred(running: Running, bundle: Path) -> None:
    pixels = some_pixels(3)
    expected = expected_p_all(bundle, pixels)
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        answer = infer(running, {**tensor(pixels, data=data), "id": "mine"}).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == (MODEL, "1", "mine")
        assert answer["outputs"][0]["shape"] == [3]
        assert answer["outputs"][0]["data"] == pytest.approx(expected.tolist(), abs=2e-6)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": [{"name": "other"}]},
        tensor(some_pixels(1), datatype="FP32"),
        tensor(some_pixels(1), shape=[1, SIZE, SIZE]),
        tensor(some_pixels(1), shape=[-1, SIZE, SIZE, 3]),
        tensor(some_pixels(1), shape=[True, SIZE, SIZE, 3]),
        tensor(some_pixels(1), shape=[1, SIZE + 1, SIZE, 3]),
        tensor(some_pixels(1), shape=[2, SIZE, SIZE, 3]),
        tensor(some_pixels(1), shape="x"),
        tensor(some_pixels(1), data=[1, 2]),
        tensor(some_pixels(1), data=None),
        tensor(some_pixels(1), data=[[1], [1, 2]]),
        tensor(some_pixels(1), data=[0.5] * (SIZE * SIZE * 3)),
        tensor(some_pixels(1), data=[256] * (SIZE * SIZE * 3)),
        tensor(some_pixels(1), data=[-1] * (SIZE * SIZE * 3)),
        tensor(some_pixels(1), data=["1"] * (SIZE * SIZE * 3)),
        tensor(some_pixels(1), data=[10**400] * (SIZE * SIZE * 3)),
        tensor(some_pixels(1), data=[True] * (SIZE * SIZE * 3)),
        tensor(some_pixels(1), data=["x" * 2**22, *[""] * 2**20]),  # 16 TiB, were all as long as the first
        tensor(some_pixels(1), parameters=[]),
        tensor(some_pixels(1), parameters={"binary_data_size": 5}),
        tensor(some_pixels(1), parameters={"shared_memory_region": "x"}),
        {**tensor(some_pixels(1)), "outputs": [{"name": "other"}]},
        {**tensor(some_pixels(1)), "outputs": {}},
        {**tensor(some_pixels(1)), "outputs": [{"name": "p_all", "parameters": {"classification": 2}}]},
        {**tensor(some_pixels(1)), "parameters": {"binary_data_output": "yes"}},
        {**tensor(some_pixels(1)), "id": 5},
    ],
)
def test_a_request_that_the_model_cannot_answer_is_refused(running: Running, content: Any) -> None:
    answer = infer(running, content)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"{}", "5"),
        (b"{}", "-1"),
        (b"{}", "x"),
        (b"{}", "²"),
        (b"{}", "0" * 5000),  # Python takes no number of so many digits
        (b"\xff\xfe", None),
        (b"[" * 9999, None),
    ],
)
def test_broken_json_is_refused(running: Running, content: bytes, length: str | None) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode("latin-1")} if length else {}
    answer = httpx.post(f"{running.url}/v2/models/{MODEL}/infer", content=content, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("limit", ["json_bytes", "request_bytes"])
def test_too_many_cells_and_too_much_json_are_refused(bundle: Path, limit: str) -> None:
    with Running(bundle, replace(Limits(request_files=2), **{limit: 5000})) as service:
        assert infer(service, tensor(some_pixels(3), data=[])).status_code == 413
        assert infer(service, {"x": "y" * 6000}).status_code == 413
        as_bytes = {"Inference-Header-Content-Length": "6008"}  # when all of it is JSON
        assert infer(service, {"x": "y" * 6000}, headers=as_bytes).status_code == 413


def test_the_public_triton_client_works_unchanged(running: Running, bundle: Path) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    pixels = some_pixels(5)
    expected = expected_p_all(bundle, pixels)
    client = triton.InferenceServerClient(running.url.removeprefix("http://"))
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.get_server_metadata()["name"] == "allnet-edge"
        assert client.get_model_metadata(MODEL)["inputs"][0]["name"] == "cells"
        for binary in (True, False):
            cells = triton.InferInput("cells", list(pixels.shape), "UINT8")
            cells.set_data_from_numpy(pixels, binary_data=binary)
            for outputs in (None, [triton.InferRequestedOutput("p_all", binary_data=binary)]):
                result = client.infer(MODEL, [cells], outputs=outputs, request_id="7")
                found = result.as_numpy("p_all")
                assert (found.dtype, found.shape) == (np.float32, (5,))
                assert found == pytest.approx(expected, abs=2e-6)
                assert result.get_response()["id"] == "7"
        with pytest.raises(triton.InferenceServerException, match="expected the model compact_fp32"):
            client.infer("other", [cells])
    finally:
        client.close()
