from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import kserve
from runtime.command_line import DONE, REFUSED
from runtime.errors import ServerError, UsageError
from runtime.served_model import ServedModel
from tests.runtime.service_help import Running, noise_cell
from tests.tiny_bundle import write_tiny_bundle

MODEL = "compact_fp32"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(write_tiny_bundle(tmp_path_factory.mktemp("load") / "bundle")) as service:
        yield service


@pytest.fixture
def command(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    cells = tmp_path / "cells"
    cells.mkdir()
    for seed in range(6):
        (cells / f"{seed}.png").write_bytes(noise_cell(seed))
    # A clock of which each reading takes a second, so that clients ask as often on a slow machine as on a fast one.
    monkeypatch.setattr(kserve, "time", SimpleNamespace(perf_counter=count().__next__))
    return [running.url, "--model", MODEL, "--data", str(cells), "--seconds", "30", "--clients", "1", "3"]


def test_every_answer_under_load_is_that_of_its_cells(command: list[str], tmp_path: Path) -> None:
    assert kserve.main([*command, "--batch-size", "4", "--out", str(tmp_path)]) == DONE
    rows = json.loads((tmp_path / "kserve.json").read_text())["rows"]
    assert [row["clients"] for row in rows] == [1, 3]
    for row in rows:
        assert row["answers"] > 0 < row["p50_ms"] <= row["p99_ms"]
        assert (row["wrong"], row["errors"]) == (0, 0)


def test_mixed_up_answers_and_errors_are_counted(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infer = ServedModel.infer
    asked = 0

    def confused(model: ServedModel, cells: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += 1
        if asked == 8:
            raise ServerError("expected an answer, found none")
        return infer(model, cells) if asked <= 6 else np.float32(1) - infer(model, cells)

    monkeypatch.setattr(ServedModel, "infer", confused)
    assert kserve.main(command) == REFUSED
    first = capsys.readouterr().out.splitlines()[1].split(maxsplit=9)
    answers, wrong, errors = int(first[2]), int(first[7]), int(first[8])
    assert (answers, errors) == (wrong, 1)
    assert first[9] == "expected an answer, found none"


def test_cells_that_are_all_alike_would_prove_nothing(command: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected cells with different answers"):
        kserve.main([*command, "--data", str(tmp_path / "cells" / "1.png")])
