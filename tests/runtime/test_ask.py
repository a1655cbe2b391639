from __future__ import annotations

import csv
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="pip install -e '.[client]'")
pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

from runtime.ask import main
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE
from runtime.errors import OutputError, ServerError, UsageError
from runtime.served_model import ServedModel
from runtime.service.access import Access
from tests.runtime.service_help import Running, noise_cell, noise_pixels, p_all_of
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
MODEL = "compact_fp32"
TOKEN = "a-token-of-the-lab"  # noqa: S105


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("ask") / "bundle")


@pytest.fixture(scope="module")
def running(bundle: Path) -> Iterator[Running]:
    with Running(bundle) as service:
        yield service


def rows_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def test_the_answers_are_those_of_classify_and_a_bad_file_is_a_row(
    running: Running, bundle: Path, tmp_path: Path
) -> None:
    expected = p_all_of(bundle, {f"{seed}.png": noise_cell(seed) for seed in range(5)}, tmp_path / "cells")
    (tmp_path / "cells" / "2b.png").write_bytes(b"no image")
    out = tmp_path / "asked.csv"
    code = main([running.url, str(tmp_path / "cells"), "--model", MODEL, "--out", str(out), "--batch-size", "2"])
    rows = rows_of(out)
    assert code == PARTLY_DONE
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png", "2b.png", "3.png", "4.png"]
    bad = rows.pop(3)
    assert (bad["p_all"], bad["reason"][:12]) == ("", "not an image")
    for row in rows:
        assert float(row["p_all"]) == pytest.approx(expected[Path(row["path"]).name], abs=2e-6)
    assert len({row["p_all"] for row in rows}) == len(rows), "otherwise the order is not proved"


def test_a_batch_without_a_readable_file_asks_for_nothing(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.png").touch()
    assert main([running.url, str(tmp_path), "--model", MODEL]) == PARTLY_DONE
    assert "empty.png,,the file is empty" in capsys.readouterr().out


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_bar_stands_among_rows_on_a_terminal(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.png").touch()
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setattr(sys, "stderr", shown := _Terminal())
    main([running.url, str(tmp_path), "--model", MODEL])
    assert "cell/s" not in shown.getvalue()
    main([running.url, str(tmp_path), "--model", MODEL, "--out", str(tmp_path / "asked.csv")])
    assert "cell/s" in shown.getvalue()


def test_a_name_of_no_model_and_a_server_that_is_not_there_are_said(running: Running, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"expected an answer of other at .*, found: expected the model compact_fp32"):
        ServedModel(running.url, "other")
    with pytest.raises(ServerError, match=r"expected a server at http://127\.0\.0\.1:9, found none that answers"):
        ServedModel("http://127.0.0.1:9", MODEL)
    with pytest.raises(UsageError, match=r"expected the server's address, such as http://.*, received 127\.0\.0\.1:9"):
        ServedModel("127.0.0.1:9", MODEL)
    with pytest.raises(UsageError, match=r"expected an output name ending in \.csv"):
        main([running.url, str(tmp_path), "--model", MODEL, "--out", "model.onnx"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1"])
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(UsageError, match=r"expected the server's address, such as .*, received http"):
        ServedModel(url, MODEL)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"no such thing\r\n\r\n", r"expected a server at .*, found none that answers"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", r"expected an answer of the open inference protocol at .*, found another"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", r"expected an answer of the open inference protocol at .*, found another"),
    ],
)
def test_a_server_of_something_else_is_one_line(answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        with ThreadPoolExecutor() as pool:
            answered = pool.submit(serve)
            with pytest.raises(ServerError, match=said):
                ServedModel(f"http://127.0.0.1:{listener.getsockname()[1]}", MODEL, timeout_s=10)
            answered.result()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send this signal to one process")
def test_ctrl_c_while_a_server_is_silent_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cell.png").write_bytes(noise_cell(1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "runtime.ask", url, str(tmp_path), "--model", MODEL]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(4096), "now it waits for the answer"
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (INTERRUPTED, "interrupted\n")


@pytest.mark.parametrize("token", ["two\nlines", "ümlaut-in-the-token"])
def test_a_token_that_no_request_can_bring_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(UsageError, match="expected a token of ASCII characters on one line") as refused:
        ServedModel("http://127.0.0.1:9", MODEL, token)
    assert token not in str(refused.value)


def test_names_on_standard_output_keep_their_bytes(running: Running, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/bad\xff.png"
    try:
        Path(os.fsdecode(name)).write_bytes(noise_cell(1))
    except OSError:
        pytest.skip("this file system takes no such name")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")  # as run_command leaves it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main([running.url, str(tmp_path), "--model", MODEL]) == DONE
        stream.flush()
        assert name in stream.buffer.getvalue()
        patch.setattr(sys, "stdout", None)
        with pytest.raises(OutputError, match="expected a standard output for the results, found it closed"):
            main([running.url, str(tmp_path), "--model", MODEL])


def test_a_place_for_the_table_is_refused_before_anything_is_asked_and_a_link_stays(
    running: Running, tmp_path: Path
) -> None:
    cell = tmp_path / "cell.png"
    cell.write_bytes(noise_cell(1))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"expected a file name, found the folder .*folder\.csv"):
        main(["http://127.0.0.1:9", str(cell), "--model", MODEL, "--out", str(tmp_path / "folder.csv")])
    (tmp_path / "link.csv").symlink_to("table")
    assert main([running.url, str(cell), "--model", MODEL, "--out", str(tmp_path / "link.csv")]) == DONE
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "table").read_text().startswith("path,p_all,reason\n")


def test_the_token_is_brought(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "token.txt"
    file.write_text(f"{TOKEN}\n", encoding="utf-8-sig")  # as Windows editors do
    (tmp_path / "cell.png").write_bytes(noise_cell(1))
    command = [str(tmp_path / "cell.png"), "--model", MODEL, "--out", str(tmp_path / "asked.csv")]
    with Running(bundle, access=Access(TOKEN)) as service:
        assert main([service.url, *command, "--token-file", str(file)]) == DONE
        with pytest.raises(ServerError, match="Bearer TOKEN"):
            main([service.url, *command])


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (None, "nothing"),
        (np.zeros(3, np.float32), r"values of the shape \[3\]"),
        (np.full(2, np.nan, np.float32), r"values of the shape \[2\]"),
    ],
)
def test_an_answer_that_is_no_probability_of_each_cell_is_refused(
    running: Running, monkeypatch: pytest.MonkeyPatch, answer: np.ndarray | None, found: str
) -> None:
    cells = np.stack([noise_pixels(seed) for seed in range(2)])
    monkeypatch.setattr("tritonclient.http.InferResult.as_numpy", lambda *_: answer)
    with (
        ServedModel(running.url, MODEL) as model,
        pytest.raises(ServerError, match=f"a probability for each of 2 cells .*found {found}"),
    ):
        model.infer(cells)


def test_one_number_for_each_cell_may_be_a_dimension_as_triton_has_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = np.stack([noise_pixels(seed) for seed in range(2)])
    monkeypatch.setattr("tritonclient.http.InferResult.as_numpy", lambda *_: np.array([[0.25], [0.75]], np.float32))
    with ServedModel(running.url, MODEL) as model:
        assert model.infer(cells).tolist() == [0.25, 0.75]


def test_a_model_that_takes_cells_of_any_size_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    description = {
        "inputs": [{"name": "cells", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [{"name": "p_all"}],
    }
    monkeypatch.setattr("tritonclient.http.InferenceServerClient.get_model_metadata", lambda *_, **__: description)
    with pytest.raises(ServerError, match=r"expected a model that takes cells, UINT8 \[N, height, width, 3\]"):
        ServedModel(running.url, MODEL)
