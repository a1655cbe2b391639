from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.files import current_umask, file_clock_ns, sha256_of_file, write_text_aside, written_aside
from runtime.folders import folder_written_aside, settle_folder
from runtime.inputs import spread_over
from runtime.locks import locked_folder

ROOT = Path(__file__).parents[2]


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text_aside(path, "Zelle\n")
    assert path.read_text(encoding="utf-8") == "Zelle\n"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_aside(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*x\.txt: .*; choose a place that can be written"):
        write_text_aside(tmp_path / "file" / "x.txt", "")


def test_a_folder_appears_whole_and_replaces_one_of_its_kind(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for content in ("first", "second"):
        with folder_written_aside(target, "marker", ("first", "second")) as folder:
            (folder / "marker").write_text(content)
            (folder / content).write_text("")
            assert not (target / content).exists()
    assert sorted(path.name for path in target.iterdir()) == ["marker", "second"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_written_aside(tmp_path / "bundle", "marker", ()) as folder:
        (folder / "marker").write_text("")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


WRITING = """
import sys, time
from pathlib import Path
from runtime.folders import folder_written_aside
with folder_written_aside(Path(sys.argv[1]), "marker", ()) as folder:
    (folder / "half").mkdir()
    (folder / "half" / "model.onnx").write_text("")
    print(folder, flush=True)
    time.sleep(600)
"""


@contextmanager
def another_process_writing(target: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Yield a process and its temporary folder; kill it at the end."""
    command = [sys.executable, "-c", WRITING, str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process, Path(process.stdout.readline().rstrip("\n"))
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not show which folders are in use")
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "bundle [1]"
    others = [tmp_path / name for name in (".bundle [1].unfinished-of-mine", ".bundle 1.unfinished-abcd1234")]
    for other in others:
        other.mkdir()
    with another_process_writing(target) as (killed, left), another_process_writing(target) as (_, written):
        killed.kill()
        killed.wait()
        assert left.exists(), "nobody could clear it away"
        with folder_written_aside(target, "marker", ()) as folder:
            (folder / "marker").write_text("")
            assert not left.exists()
            assert (written / "half" / "model.onnx").exists()
    assert sorted(tmp_path.iterdir()) == sorted([target, written, *others])


def write_folder(target: Path, content: str) -> None:
    with folder_written_aside(target, "marker", ()) as folder:
        (folder / "marker").write_text(content)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not show which folders are in use")
@pytest.mark.parametrize("is_in_place", [False, True], ids=["nothing in place", "another one in place"])
def test_what_a_killed_process_moved_away_comes_back_where_nothing_took_its_place(
    tmp_path: Path, is_in_place: bool
) -> None:
    target = tmp_path / "bundle [1]"
    for content in ("older", "old"):
        moved_away = tmp_path / f".bundle [1].unfinished-{content:_<8}-old"
        moved_away.mkdir()
        (moved_away / "marker").write_text(content)
        while file_clock_ns(target) <= moved_away.stat().st_ctime_ns:
            """Wait until the file system's clock, which may be coarse, goes on."""
    half = tmp_path / ".bundle [1].unfinished-old_____"
    half.mkdir()
    if is_in_place:
        target.mkdir()
        (target / "marker").write_text("new")
    settle_folder(target)
    assert (target / "marker").read_text() == ("new" if is_in_place else "old")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not show which folders are in use")
def test_what_a_living_process_moves_away_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_folder(target, "old")
    moved_away = target.rename(tmp_path / ".bundle.unfinished-abcd1234-old")
    with ThreadPoolExecutor(1) as pool:
        with locked_folder(tmp_path):
            settled = pool.submit(settle_folder, target)
            assert not wait([settled], timeout=0.2).done, "who replaces a folder holds the one that it is in"
            moved_away.rename(target)
        settled.result()
    assert (target / "marker").read_text() == "old"


def test_an_old_folder_that_cannot_be_removed_does_not_fail_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    write_folder(target, "old")

    def rmdir(path: str, *, dir_fd: int | None = None) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", rmdir)
        write_folder(target, "new")
    assert (target / "marker").read_text() == "new"
    settle_folder(target)
    assert list(tmp_path.iterdir()) == [target], "the next start removes it"


def test_a_replacement_that_fails_half_way_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    write_folder(target, "old")
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if to == target and not path.name.endswith("-old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, to)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match=r"cannot write .*bundle: Input/output"):
        patch.setattr(Path, "rename", rename)
        write_folder(target, "new")
    assert (target / "marker").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot flush folders")
def test_a_file_system_that_cannot_flush_folders_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    write_folder(tmp_path / "bundle", "new")
    assert (tmp_path / "bundle" / "marker").read_text() == "new"


def test_someone_elses_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    with (
        pytest.raises(OutputError, match="or one that holds a marker to replace"),
        folder_written_aside(tmp_path / "thesis", "marker", ()),
    ):
        pass
    assert (tmp_path / "thesis" / "chapter1").exists()


def test_a_note_that_someone_laid_into_a_folder_of_ours_is_not_deleted_with_it(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with folder_written_aside(target, "marker", ("model.*",)) as folder:
        (folder / "marker").write_text("")
        (folder / "model.onnx").write_text("")
    (target / "notes.txt").write_text("mine")
    with (
        pytest.raises(OutputError, match=r"found notes\.txt; move it away"),
        folder_written_aside(target, "marker", ("model.*",)),
    ):
        pass
    assert (target / "notes.txt").read_text() == "mine"


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    content = b"cell" * 1_000_000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_limit_takes_cells_from_everywhere() -> None:
    assert spread_over(list("abcdefghij"), 5) == list("acegi")
    assert spread_over(list("abc"), None) == list("abc")
