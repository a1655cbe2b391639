"""Archives on Ray Data: what needs Ray starts it as the command does, a cluster of two CPUs each time."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import pytest

if find_spec("ray") is None:  # not imported: the command sets first what Ray reads then
    pytest.skip("Ray is not installed (the extra `cluster`)", allow_module_level=True)
pytest.importorskip("pyarrow", reason="Arrow is not installed (the extra `cluster`)")

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.bundle import Bundle
from runtime.classify import main as classify
from runtime.classify_cluster import main as classify_cluster
from runtime.cluster import storage
from runtime.cluster.cell_table import BLOCK, block_of
from runtime.cluster.connection import ended_where_lost, refusal
from runtime.cluster.flow import outcomes
from runtime.cluster.job import done_blocks, locked_output
from runtime.cluster.listing import read_block, write_listing
from runtime.cluster.pool import READING_CPUS, WORKER_CPUS, Capacity, pool_of
from runtime.cluster.stages import ReadingStage, WritingStage, rows_of_block
from runtime.cluster.storage import Losses, StoredFile, fetched, stored_files
from runtime.command_line import DONE
from runtime.demo import demo_cells
from runtime.errors import ClusterError, OutputError, UnreadableCellError, UsageError
from runtime.inputs import find_inputs
from runtime.locks import try_lock
from runtime.schema import Prediction
from tests.runtime.audits import AUDIT
from tests.runtime.tinted import tinted
from tests.tiny_bundle import write_tiny_bundle

SAME = ("path", "label", "status", "reason", "sha256", "threshold", "bundle", "precision", "backend", "version")
NAMES = 60


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Sixty names of drawn cells, and what is no cell."""
    folder = tmp_path / "archive"
    (folder / "inner").mkdir(parents=True)
    cells = demo_cells()
    for number in range(NAMES):
        (folder / "inner" / f"{number:02}.png").hardlink_to(cells[number % len(cells)])
    (folder / "bad.bmp").write_bytes(b"no image")
    (folder / "notes.csv").write_text("left out", encoding="utf-8")
    (folder / ".hidden.png").write_bytes(b"left out")
    return folder


def command(archive: Path, out: Path, bundle: Path, *more: str) -> list[str]:
    return [str(archive), "--out", str(out), "--bundle", str(bundle), "--block-size", "4", *more]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("block-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_an_output_inside_the_archive_is_none_of_its_cells(tmp_path: Path) -> None:
    with locked_output(tmp_path / "archive" / "out"):
        for name in ("block-0000000.parquet", "_listing/0000000.parquet", "_job.json", "cell.bmp"):
            (tmp_path / "archive" / "out" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "archive" / "out" / name).touch()
        assert find_inputs([str(tmp_path / "archive")]).paths == (str(tmp_path / "archive" / "out" / "cell.bmp"),)


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_a_machine_of_any_size_keeps_room_to_read_beside_all_workers(cpus: int) -> None:
    for workers in (None, *range(1, cpus + 1)):
        pool = pool_of(Capacity(cpus, 0), workers, 0.0)
        assert pool.workers * WORKER_CPUS + READING_CPUS <= cpus
        assert pool.workers * pool.threads_each <= cpus


def test_more_workers_than_would_leave_room_to_read_are_refused() -> None:
    with pytest.raises(UsageError, match="expected at most 2 workers on 2 CPUs and 0 GPUs, received 3"):
        pool_of(Capacity(2, 0), 3, 0.0)
    with pytest.raises(UsageError, match=r"expected a cluster with 0\.5 GPUs for each worker, found 0 in all"):
        pool_of(Capacity(8, 0), None, 0.5)
    assert pool_of(Capacity(8, 2), None, 0.3).workers == 6  # three on each GPU


def test_rows_are_those_of_classify_and_the_same_command_does_nothing_twice(
    archive: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", tmp_path / "table.csv"
    assert classify_cluster(command(archive, out, tiny_bundle, "--workers", "2")) == 2
    assert "61 files in" in capsys.readouterr().err
    assert classify([str(archive), "--audit", "--bundle", str(tiny_bundle), "--out", str(table)]) == 2
    rows = rows_of(out)
    with table.open(encoding="utf-8", newline="") as stream:
        expected = [*csv.DictReader(stream)]
    assert [[str(row[name]) for name in SAME] for row in rows] == [[row[name] for name in SAME] for row in expected]
    assert ["" if row["p_all"] is None else f"{row['p_all']:.6f}" for row in rows] == [row["p_all"] for row in expected]

    blocks = sorted(out.glob("block-*.parquet"))
    blocks[3].unlink()
    kept = [path.stat().st_mtime_ns for path in blocks if path.exists()]
    assert classify_cluster(command(archive, out, tiny_bundle)) == 2
    assert [row["path"] for row in rows_of(out)] == [row["path"] for row in rows]
    assert [path.stat().st_mtime_ns for path in blocks if path != blocks[3]] == kept
    capsys.readouterr()
    assert classify_cluster(command(archive, out, tiny_bundle)) == 2
    assert "everything is classified already" in capsys.readouterr().err

    other = write_tiny_bundle(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="expected the bundle of the job that was begun in"):
        classify_cluster(command(archive, out, other))
    with pytest.raises(UsageError, match=r"expected the threshold of the job .*, 0\.5, received 0\.9"):
        classify_cluster(command(archive, out, tiny_bundle, "--threshold", "0.9"))
    with pytest.raises(UsageError, match=r"expected the inputs of the job .*archive, received .*other; give the same"):
        classify_cluster(command(other, out, tiny_bundle))


@pytest.mark.parametrize(
    ("make", "said"),
    [(False, "an image or a folder of images at .*none, found nothing"), (True, "images in .*none, found none")],
)
def test_inputs_that_give_nothing_are_refused_before_ray_is_started_and_leave_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: bool, said: str
) -> None:
    monkeypatch.delattr("runtime.cluster.archive.connected")
    if make:
        (tmp_path / "none").mkdir()
    for name in ("new", "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=said):
            classify_cluster(command(tmp_path / "none", tmp_path / name, tiny_bundle))
    assert not (tmp_path / "new").exists()
    assert not [*(tmp_path / "there").iterdir()]


def test_a_lock_that_a_refused_job_removes_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked_after_the_other(stream: TextIO) -> bool:
        Path(stream.name).unlink()
        return try_lock(stream)

    monkeypatch.setattr("runtime.cluster.job.try_lock", locked_after_the_other)
    with pytest.raises(OutputError, match="for this job alone"), locked_output(tmp_path / "out"):
        pass


def test_inputs_that_hold_each_other_are_refused_for_their_files_would_have_two_rows(tmp_path: Path) -> None:
    for names in (["a/b", "a-b", "a"], ["a", "./a"], ["s3://bucket/a/b", "s3://bucket/a"]):
        with pytest.raises(UsageError, match=r"expected inputs that hold different files, received .* in "):
            classify_cluster([*names, "--out", str(tmp_path / "out")])


def listened_at_by(process: int) -> set[str]:
    """Return the addresses of this machine at which a process and those that it started can be reached."""
    found = set()
    for child in psutil.Process(process).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found |= {each.laddr.ip for each in child.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    assert found
    return found


def test_a_driver_that_is_killed_loses_and_repeats_nothing(archive: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = command(archive, out, tiny_bundle)
    driver = subprocess.Popen([sys.executable, "-m", "runtime.classify_cluster", *arguments], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(out.glob("block-*.parquet")) and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(OutputError, match="found that another one writes to it"), locked_output(out):
        pass
    assert listened_at_by(driver.pid) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    (out / ".block-0000001-left.parquet").write_bytes(b"cut off")
    assert classify_cluster(arguments) == 2
    paths = [row["path"] for row in rows_of(out)]
    assert len(paths) == len(set(paths)) == NAMES + 1
    assert not list(out.glob(".block*"))


class FatalReading(ReadingStage):
    """Reads, and is killed by each try of block 1."""

    def __call__(self, table: Any) -> Any:
        if block_of(table) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


class UnknownReading(ReadingStage):
    """Stands for one whose code a machine of the cluster does not have."""

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, ("not_on_this_machine",)


class OnceFatalWriting(WritingStage):
    """Writes, and is killed by the first try of block 2, when the file stands."""

    def __call__(self, table: Any) -> Any:
        written = super().__call__(table)
        if block_of(table) == 2 and not (tried := self.output / ".tried").exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def test_a_block_that_kills_each_worker_is_given_up_and_named_and_all_others_are_kept(
    archive: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = command(archive, out, tiny_bundle, "--include", "0*.png")
    with monkeypatch.context() as patch:
        patch.setattr("runtime.cluster.archive.ReadingStage", FatalReading)
        patch.setattr("runtime.cluster.archive.WritingStage", OnceFatalWriting)
        with pytest.raises(
            ClusterError,
            match=r"found 1 failed \(block 1; .*04.png to .*07.png\): WorkerCrashedError: .*look for a file among",
        ):
            classify_cluster(arguments)
    assert [Path(row["path"]).name for row in rows_of(out)] == [f"0{number}.png" for number in (0, 1, 2, 3, 8, 9)]
    assert classify_cluster(arguments) == 0
    assert [Path(row["path"]).name for row in rows_of(out)] == [f"0{number}.png" for number in range(10)]


def test_an_error_on_the_side_of_ray_is_told_and_no_file_blamed(
    archive: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.cluster.archive.ReadingStage", UnknownReading)
    with pytest.raises(ClusterError, match=r"found 1 failed .*No module named 'not_on_this_machine'") as caught:
        classify_cluster(command(archive, tmp_path / "out", tiny_bundle, "--include", "00.png"))
    assert "look for a file" not in str(caught.value)


def test_a_block_that_cannot_be_written_ends_the_job_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    prediction = Prediction("a.png", "", None, "error", "the file is empty", 0.1, AUDIT)
    rows = rows_of_block(7, [prediction])
    outcome = WritingStage(tmp_path / "file")(rows)
    with pytest.raises(
        ClusterError, match=r"cannot write .*the blocks so far are kept: then run the same command to continue"
    ):
        [*outcomes(outcome.to_pylist())]
    [(block, counts)] = outcomes(WritingStage(tmp_path)(rows).to_pylist())
    assert (block, counts.outcomes.rows, counts.unopened) == (7, 1, 0)
    assert [path.name for path in tmp_path.glob("block*")] == ["block-0000007.parquet"]


def test_cells_that_look_unusual_as_a_whole_are_told_as_by_classify_also_of_blocks_from_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "bluish", tmp_path / "out"
    folder.mkdir()
    for number, cell in enumerate(demo_cells() * 3):
        tinted(cell, folder / f"{number}.png", (0.7, 0.9, 1.3))

    def warned(run: Callable[[list[str]], int], *more: str) -> list[str]:
        assert run([str(folder), *more]) == DONE
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]

    [expected] = warned(classify, "--out", str(tmp_path / "table.csv"))
    in_blocks = (classify_cluster, "--out", str(out), "--block-size", "9")
    assert warned(*in_blocks) == [expected]
    (out / "block-0000001.parquet").unlink()
    assert warned(*in_blocks) == [expected]  # fewer cells were left than are judged
    assert warned(*in_blocks) == [expected]  # none was


def test_a_block_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "block-0000000.parquet").write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"expected a block of this job at .*delete the file"):
        [*done_blocks(tmp_path, 1)]


def test_a_cluster_that_does_not_answer_is_one_line(archive: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ClusterError, match="found none that answers: Connection refused"):
        classify_cluster(command(archive, tmp_path / "out", tiny_bundle, "--address", f"127.0.0.1:{port}"))


def test_the_reason_why_a_cluster_was_not_joined_is_found_in_what_ray_quotes() -> None:
    error = ConnectionError("Failed to connect to Ray cluster at head:1")
    assert refusal(error) == "Failed to connect to Ray cluster at head:1"
    error.__cause__ = RuntimeError(
        "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n  in ray\n"
        "ray.exceptions.AuthenticationError: the token is missing. Set RAY_AUTH_MODE\n"
    )
    assert refusal(error) == "the token is missing. Set RAY_AUTH_MODE"


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_cluster_that_is_lost_ends_the_process_with_a_line(
    is_silent: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, codes, ended = [], [], threading.Event()

    def ask() -> None:
        asked.append(is_silent)
        if len(asked) == 1:
            return
        if is_silent:
            ended.wait(60)
        raise ConnectionError("gone")

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr("runtime.cluster.connection.ASKED_EACH_S", 0.01)
    monkeypatch.setattr("runtime.cluster.connection.os._exit", end)
    with ended_where_lost(ask, "head:1", 0.2):
        assert ended.wait(60)
    assert codes == [1]
    assert "error: expected the Ray cluster at head:1 to answer until the end, found it lost" in capsys.readouterr().err


@pytest.fixture
def store() -> Iterator[Any]:
    """An object store in memory."""
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/cells/{name}": b"data" for name in ("b/2.bmp", "b/.x.bmp", "a/1.bmp", "notes.csv", "c.odd")})
    yield memory
    memory.rm("/cells", recursive=True)


def test_a_store_is_listed_by_the_rules_of_folders(store: Any) -> None:
    found = [*stored_files("memory://cells", (), 10.0)]
    assert [file.path for file, wanted in found if wanted] == [
        "memory:///cells/c.odd",
        "memory:///cells/a/1.bmp",
        "memory:///cells/b/2.bmp",
    ]
    assert len(found) == 5
    with pytest.raises(UsageError, match="at memory://none, found nothing"):
        [*stored_files("memory://none", (), 10.0)]


def test_a_store_that_is_silent_or_cannot_be_reached_is_not_taken_for_an_empty_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cells/"
        with pytest.raises(
            UsageError, match=rf"expected a store that can be read at {url}, found: no answer within 0\.1"
        ):
            [*stored_files(url, (), 0.1)]
    with pytest.raises(UsageError, match=rf"expected a store that can be read at {url}, found: Cannot connect"):
        [*stored_files(url, (), 10.0)]


def test_a_file_that_is_gone_is_a_row_and_a_store_that_is_gone_an_error(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PAUSE_S", 0.0)
    files = [StoredFile(f"memory:///cells/{name}", 4) for name in ("a/1.bmp", "gone.bmp", "b/2.bmp")]
    first, gone, last = fetched(files, 10.0, Losses())
    assert first == last == b"data"
    assert isinstance(gone, UnreadableCellError)
    assert str(gone).startswith("cannot be opened")

    asked = []

    def hang(path: str) -> bytes:
        asked.append(path)
        time.sleep(0.2)
        return b"too late"

    monkeypatch.setattr(store, "cat_file", hang)
    with pytest.raises(ClusterError, match="found 8 files in a row that could not be read, each tried 3 times"):
        [*fetched([files[0]] * 20, 0.01, Losses())]
    assert len(asked) < 20 * storage.TRIES


def test_a_store_that_is_gone_is_an_error_also_where_a_block_holds_only_a_few_files(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> None:
    monkeypatch.setattr(storage, "PAUSE_S", 0.0)
    monkeypatch.setattr("runtime.cluster.stages.LOSSES", Losses())
    monkeypatch.setattr(store, "cat_file", raising(OSError("gone")))
    write_listing(tmp_path / "listing", ["memory://cells/a"], (), 1, 10.0)
    manifest = Bundle.open(tiny_bundle).manifest
    read = ReadingStage(tmp_path / "listing", manifest.image, manifest.typical, 10.0)
    tables = [read(pa.table({BLOCK: [0]})) for _ in range(storage.LOST_IN_A_ROW)]
    assert all(BLOCK in table.column_names for table in tables[:-1])
    with pytest.raises(ClusterError, match=r"found 8 files in a row .* gone; the blocks so far are kept"):
        [*outcomes(tables[-1].to_pylist())]


def raising(error: Exception) -> Callable[[str], bytes]:
    def ask(path: str) -> bytes:
        raise error

    return ask


def test_an_object_that_is_forbidden_is_a_row_and_credentials_that_expired_an_error(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable, forbidden = (StoredFile(f"memory:///cells/{name}", 4) for name in ("a/1.bmp", "b/2.bmp"))
    read = store.cat_file
    refuse = raising(PermissionError("the token has expired"))
    monkeypatch.setattr(store, "cat_file", lambda path: (refuse if path.endswith("2.bmp") else read)(path))
    found = [*fetched([forbidden, readable] * storage.LOST_IN_A_ROW, 10.0, Losses())]
    assert found[1::2] == [b"data"] * storage.LOST_IN_A_ROW
    assert {str(each) for each in found[::2]} == {"cannot be opened: the token has expired"}
    with pytest.raises(ClusterError, match=r"expected the right to read .* expired; renew the credentials"):
        [*fetched([readable] + [forbidden] * storage.LOST_IN_A_ROW, 10.0, Losses())]


def test_a_listing_keeps_order_and_names_that_are_no_text(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    cells.mkdir()
    names = [*(f"{number:04}.png" for number in range(600)), os.fsdecode(b"\xff.png")]
    for name in names:
        (cells / name).touch()
    listed = write_listing(tmp_path / "listing", [str(cells)], (), 2, 10.0)
    assert listed.files == len(names)
    assert len(list((tmp_path / "listing").iterdir())) == 2
    found = [file.path for block in range(301) for file in read_block(tmp_path / "listing", block)]
    assert found == [str(cells / name) for name in names]
