from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.cluster.arguments import build_parser as cluster_parser
from runtime.command_line import DONE, INTERRUPTED, REFUSED, TERMINATED, ArgumentParser, run_command
from runtime.errors import UsageError
from runtime.serve import build_parser as serve_parser
from train.arguments import build_parser as train_parser

ROOT = Path(__file__).parents[2]
FIT = ["fit", "--model", "compact", "--data", "x", "--out", "y"]


def failing(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.fixture(autouse=True)
def own_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the test runner's standard output and signals as they are."""
    monkeypatch.setattr("runtime.command_line._forget_unwritable_output", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("keras", '-e ".[train]"'),
        ("tensorflow", '-e ".[train]"'),
        ("h5py", '-e ".[train]"'),
        ("scipy", '-e ".[train]"; to measure, -e ".[benchmarks]" is enough'),
        ("tf2onnx", '-e ".[export]"'),
        ("onnxruntime", '-e ".[cpu]", or -e ".[gpu]"'),
        ("torch", "torch"),
        ("jax", "jax"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(
    capsys: pytest.CaptureFixture[str], module: str, needed: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(failing(ModuleNotFoundError(f"No module named {module!r}", name=module)))
    assert ended.value.code == REFUSED
    assert capsys.readouterr().err == f"error: expected {module} for this command, found none; pip install {needed}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(unbuffered: str) -> None:
    code = "from runtime.command_line import run_command; run_command(lambda: print('answer') or 0)"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == REFUSED
    assert done.stderr == b"error: cannot write to standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_log_on_a_full_disk_does_not_end_the_work(unbuffered: str) -> None:
    code = "from runtime.command_line import run_command, tell; run_command(lambda: [tell('a'), tell('b'), 0][-1])"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=full, check=False)
    assert done.returncode == DONE


def test_a_full_disk_is_not_blamed_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(failing(OSError(errno.ENOSPC, "No space left on device")))
    assert ended.value.code == REFUSED
    assert capsys.readouterr().err == (
        "error: expected room on the disk for what is written, found none (No space left on device); "
        "free some and try again\n"
    )


def test_an_error_is_one_line_whatever_a_name_in_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(failing(UsageError("expected images in a\nb\x1b[2J, found none")))
    assert capsys.readouterr().err == "error: expected images in a\\nb\\x1b[2J, found none\n"
    with pytest.raises(SystemExit):
        ArgumentParser(prog="classify").parse_args(["a\nb"])
    assert capsys.readouterr().err == "classify: unrecognized arguments: a\\nb (--help lists the options)\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG])
@pytest.mark.parametrize("name", ["closed/x", b"closed/x"])
def test_a_place_that_cannot_be_reached_is_one_line(
    number: int, name: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(failing(OSError(number, "Not for you", name)))
    assert ended.value.code == REFUSED
    said = "error: expected a place that can be reached at closed/x, found: Not for you; check its name "
    assert capsys.readouterr().err == f"{said}and permissions\n"


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'runtime.x'", name="runtime.x"), OSError(errno.EIO, "x"), KeyError()]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(failing(error))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal that it could handle")
def test_a_terminated_process_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from runtime.command_line import run_command
from runtime.folders import folder_written_aside

def command():
    with folder_written_aside(Path({str(tmp_path / "bundle")!r}), "marker", ()) as folder:
        (folder / "marker").write_text("")
        print("begun", flush=True)
        time.sleep(60)

run_command(command)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        process.terminate()
        process.wait(timeout=30)
    assert process.returncode == TERMINATED
    assert list(tmp_path.iterdir()) == []


DROPPED = """
import signal, time
from runtime.command_line import run_command

class Graph:
    def __del__(self):
        signal.raise_signal(signal.{name})

def command():
    Graph()
    time.sleep(60)
    return 0

run_command(command)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to one process")
@pytest.mark.parametrize(
    ("name", "code", "said"), [("SIGTERM", TERMINATED, ""), ("SIGINT", INTERRUPTED, "interrupted\n")]
)
def test_a_signal_that_comes_while_an_object_is_deleted_is_not_lost(name: str, code: int, said: str) -> None:
    """Libraries delete some when they like: Python drops what is raised there, and says so with a traceback."""
    words = [sys.executable, "-c", DROPPED.format(name=name)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to one process")
@pytest.mark.parametrize("module", ["runtime.classify", "runtime.watch"])
def test_ctrl_c_while_libraries_are_imported_is_quiet(tmp_path: Path, module: str) -> None:
    press = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "numpy.py").write_text(press)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, b"", b"interrupted\n")


@pytest.mark.parametrize(
    ("parser", "arguments", "said"),
    [
        (train_parser(), ["draw", "--out", "x", "--images", "1", "--seed", "x"], "--seed: expected a whole number"),
        (train_parser(), [*FIT, "--seed", "-1"], "--seed: expected a whole number from 0 to 4294967295, received -1"),
        (train_parser(), [*FIT, "--learning-rate", "abc"], "--learning-rate: expected a number of 0 or more"),
        (train_parser(), [*FIT, "--learning-rate", "inf"], "--learning-rate: expected a number of 0 or more"),
        (train_parser(), [*FIT, "--scale", "x"], "--scale: expected a number from 0 to below 1, received x"),
        (train_parser(), [*FIT, "--scale", "1"], "--scale: expected a number from 0 to below 1, received 1"),
        (train_parser(), [*FIT, "--early-stopping", "1.5"], "--early-stopping: expected a whole number of 0 or more"),
        (cluster_parser(), ["in", "--out", "x", "--gpus", "x"], "--gpus: expected 0, a share from 0 to 1 or a whole"),
        (cluster_parser(), ["in", "--out", "x", "--gpus", "1.5"], "--gpus: expected 0, a share from 0 to 1 or a whole"),
        (serve_parser(), ["--port", "x"], "--port: expected a port from 0 to 65535, received x"),
        (serve_parser(), ["--port", "65536"], "--port: expected a port from 0 to 65535, received 65536"),
    ],
)
def test_a_wrong_number_is_told_in_words_of_the_user(
    capsys: pytest.CaptureFixture[str], parser: ArgumentParser, arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == REFUSED
    assert said in capsys.readouterr().err
