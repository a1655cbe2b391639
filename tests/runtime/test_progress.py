from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.command_line import DONE
from runtime.progress import with_progress

ROOT = Path(__file__).parents[2]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_that_counts_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := _Terminal())
    assert [*with_progress(iter("abc"), total=3, unit="cell", title="read")] == ["a", "b", "c"]
    assert "read:   0%" in shown.getvalue()
    assert "0/3" in shown.getvalue()


def test_what_is_no_terminal_gets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert [*with_progress([1, 2], unit="cell")] == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_script_that_classifies_does_not_wait_for_the_import_of_the_bar() -> None:
    code = "import sys; sys.modules['tqdm'] = None; from runtime.classify import main; sys.exit(main(['--demo']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == DONE, done.stderr
