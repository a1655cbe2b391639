from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.files import current_umask, folder_written_aside, sha256_of_file, write_text_aside, written_aside
from runtime.inputs import spread_over

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
from runtime.files import folder_written_aside
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
