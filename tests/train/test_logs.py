from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from train.logs import EpochLogs
from train.run_folder import Epoch

HEAD, TAIL = 12, 4  # bytes of a record's length and of its check sums


def epoch(number: int) -> Epoch:
    return Epoch(number, 0.5, 0.75, 0.25, 1.0, 0.125, 2.0, 1)


def events(folder: Path) -> Iterator[Any]:
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[HEAD : HEAD + length])
            content = content[HEAD + length + TAIL :]


def scalars(folder: Path) -> set[tuple[int, str, float]]:
    return {(one.step, two.tag, two.simple_value) for one in events(folder) for two in one.summary.value}


def test_an_epoch_is_on_the_disk_before_the_next_begins(tmp_path: Path) -> None:
    with closing(EpochLogs(tmp_path, 1, pytest.fail)) as logs:
        logs.add(epoch(1))
        assert (1, "val_accuracy", 1.0) in scalars(tmp_path)
        assert len(scalars(tmp_path)) == 6


def test_a_resumed_run_hides_what_came_after_its_last_finished_epoch(tmp_path: Path) -> None:
    EpochLogs(tmp_path, 8, pytest.fail).close()
    assert [one.step for one in events(tmp_path) if one.session_log.status == SessionLog.START] == [8]


def test_logs_that_cannot_be_written_are_told_once_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    said: list[str] = []
    with closing(EpochLogs(tmp_path / "logs", 1, said.append)) as logs:
        logs.add(epoch(1))
        logs.add(epoch(2))
    assert said == [f"TensorBoard gets no more logs: cannot write {tmp_path / 'logs'}: File exists"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_disk_that_fills_is_told_once_and_leaves_no_complaint_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda _: full)
    said: list[str] = []
    with closing(EpochLogs(tmp_path, 1, said.append)) as logs:
        logs.add(epoch(1))
    assert said == [f"TensorBoard gets no more logs: cannot write {tmp_path}: No space left on device"]
    assert full.closed
