from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.command_line import INTERRUPTED
from train.tensorflow_import import quiet_tensorflow

ROOT = Path(__file__).parents[2]


def test_what_a_library_writes_while_it_is_imported_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_tensorflow():
        os.write(2, b"I0000 port.cc\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"


def test_what_a_library_wrote_is_shown_where_its_import_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError), quiet_tensorflow():
        os.write(2, b"libcudart.so.12 not found\n")
        raise ImportError
    assert capfd.readouterr().err == "libcudart.so.12 not found\n"


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_a_library_wrote_is_not_shown_where_a_user_ends_it(
    capfd: pytest.CaptureFixture[str], end: type[BaseException]
) -> None:
    with pytest.raises(end), quiet_tensorflow():
        os.write(2, b"I0000 port.cc\n")
        raise end
    assert capfd.readouterr().err == ""


DROPPED = """
import signal
from runtime.command_line import run_command
from train.tensorflow_import import quiet_tensorflow

class Graph:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def command():
    with quiet_tensorflow():
        Graph()
        print("imported", flush=True)
    return 0

run_command(command)
"""


def test_an_interrupt_that_an_import_drops_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", DROPPED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "imported\n", "interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes a stream")
def test_what_is_for_people_never_comes_among_the_results() -> None:
    code = "import sys; from runtime.command_line import run_command; "
    code += "run_command(lambda: print('note', file=sys.stderr) or print('row') or 0)"
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"row\n")
