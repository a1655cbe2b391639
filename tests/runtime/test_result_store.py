from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.results import AUDIT_COLUMNS, COLUMNS, ResultsFile
from runtime.schema import Prediction
from runtime.watching.database import APPLICATION_ID, NAME_TO_TYPE, STORE_VERSION, FileVersion, own_files
from runtime.watching.result_reader import read_predictions
from runtime.watching.result_store import ResultStore
from tests.runtime.another_user import another_user, needs_root, open_folder
from tests.runtime.audits import AUDIT
from tests.runtime.stored_rows import stored_rows

NOT_UTF8 = os.fsdecode(b"not-utf8-\xff.bmp")


def version(name: str = "a.bmp", size: int = 10, mtime_ns: int = 1_700_000_000_123_456_789) -> FileVersion:
    return FileVersion(name, size, mtime_ns)


def prediction(name: str = "a.bmp", p_all: float | None = 0.25) -> Prediction:
    if p_all is None:
        return Prediction(f"/cells/{name}", "", None, "error", "the file is empty", 0.5, AUDIT)
    return Prediction(f"/cells/{name}", "healthy", p_all, "ok", "", 0.5, AUDIT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[ResultStore]:
    with ResultStore(path) as store:
        yield store


def test_rows_come_back_as_they_were_in_the_order_in_which_they_came(store: ResultStore, path: Path) -> None:
    written = [prediction("b.bmp"), prediction("a.bmp", p_all=None), prediction(NOT_UTF8, p_all=1.0)]
    for one in written:
        store.add(version(one.path), one)
    store.commit()
    assert stored_rows(path) == written


def test_the_table_has_the_columns_of_the_results_table_after_those_of_the_identity(
    store: ResultStore, path: Path
) -> None:
    with closing(sqlite3.connect(path)) as reader:
        columns = [row[1] for row in reader.execute("PRAGMA table_info(results)")]
    assert columns == ["file", "size", "mtime_ns", *COLUMNS, *AUDIT_COLUMNS]


def test_a_name_that_is_not_utf8_comes_back_in_csv_as_its_bytes(store: ResultStore, path: Path) -> None:
    store.add(version(NOT_UTF8), prediction(NOT_UTF8))
    store.commit()
    assert store.holds(version(NOT_UTF8))
    with closing(sqlite3.connect(path)) as reader:
        reader.text_factory = bytes
        [(file, kind)] = reader.execute("SELECT file, typeof(file) FROM results")
    assert (file, kind) == (b"not-utf8-\xff.bmp", b"text")
    table = path.with_name("results.csv")
    with ResultsFile(table) as results:
        for row in stored_rows(path):
            results.write(row)
    assert b"/cells/not-utf8-\xff.bmp,healthy" in table.read_bytes()
    with table.open(encoding="utf-8", errors="surrogateescape") as stream:
        assert next(csv.DictReader(stream))["path"] == f"/cells/{NOT_UTF8}"


def test_a_version_is_held_from_when_it_is_added_and_after_a_restart(path: Path) -> None:
    with ResultStore(path) as store:
        assert not store.holds(version())
        store.add(version(), prediction())
        assert store.holds(version())
        store.commit()
        assert store.holds(version())
    with ResultStore(path) as store:
        assert store.holds(version())
        for other in (version("b.bmp"), version(size=11), version(mtime_ns=1)):
            assert not store.holds(other)


def test_two_versions_of_a_file_are_two_rows(store: ResultStore, path: Path) -> None:
    store.add(version(size=1), prediction(p_all=0.1))
    store.add(version(size=2), prediction(p_all=0.2))
    store.commit()
    assert [row.p_all for row in stored_rows(path)] == [0.1, 0.2]


def test_two_contents_of_a_version_are_two_rows_in_one_commit_and_in_two(store: ResultStore, path: Path) -> None:
    other = replace(prediction(p_all=0.1), audit=replace(AUDIT, sha256="ef" * 32))
    third = replace(prediction(p_all=0.2), audit=replace(AUDIT, sha256="cd" * 32))
    store.add(version(), prediction(), 1)
    store.add(version(), other, 2)
    store.commit()
    assert (store.holds(version(), 1), store.holds(version(), 2)) == (False, True)
    store.add(version(), third, 3)
    store.add(version(), other, 4)
    store.commit()
    assert stored_rows(path) == [prediction(), other, third]
    assert store.holds(version(), 4), "the last look counts"


def test_content_that_comes_back_after_another_has_the_last_row(store: ResultStore, path: Path) -> None:
    one = prediction()
    other = replace(prediction(p_all=0.75), audit=replace(AUDIT, sha256="ef" * 32))
    for mtime_ns, each in enumerate((one, other, one)):
        store.add(version(mtime_ns=mtime_ns), each)
        store.commit()
    assert stored_rows(path) == [one, other, one]


def test_the_same_content_at_another_time_has_no_other_row_and_is_known_by_that_time(
    store: ResultStore, path: Path
) -> None:
    earlier, later = version(mtime_ns=1), version(mtime_ns=2)
    store.add(earlier, prediction())
    store.commit()
    store.add(later, prediction(), 5)
    store.add(version("b.bmp", mtime_ns=2), prediction("b.bmp"))  # a copy is a file of its own
    store.commit()
    assert stored_rows(path) == [prediction(), prediction("b.bmp")]
    assert (store.holds(earlier), store.holds(later, 5)) == (False, True)


def test_a_database_of_version_1_is_read_and_written_on(path: Path) -> None:
    with ResultStore(path) as store:
        for name in ("a.bmp", NOT_UTF8):
            store.add(version(name), prediction(name))
        store.commit()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        [table] = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'results'").fetchone()
        for statement in (
            "ALTER TABLE results RENAME TO newer",
            table.replace("UNIQUE (file, size, mtime_ns, sha256)", "UNIQUE (file, size, mtime_ns)"),
            f"INSERT INTO results (rowid, {', '.join(NAME_TO_TYPE)}) SELECT rowid + 7, * FROM newer",  # noqa: S608
            "DROP TABLE newer",
            "DROP TABLE looks",
            "PRAGMA user_version = 1",
        ):
            connection.execute(statement)
    rows = [prediction(), prediction(NOT_UTF8)]
    assert stored_rows(path) == rows
    with ResultStore(path) as store:
        assert store.holds(version(NOT_UTF8), 5), "when it had changed was not kept: nothing is read again for that"
        other = replace(prediction(), audit=replace(AUDIT, sha256="ef" * 32))
        store.add(version(), other, 6)
        store.commit()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT max(rowid) FROM results").fetchone() == (10,), "pages count on them"
    assert stored_rows(path) == [*rows, other]


def test_rows_that_reached_the_disk_in_a_commit_that_failed_are_not_written_twice(
    store: ResultStore, path: Path
) -> None:
    for _ in range(2):
        store.add(version(), prediction())
        store.commit()
    assert len(stored_rows(path)) == 1


def test_what_was_not_committed_is_dropped_by_closing(path: Path) -> None:
    with ResultStore(path) as store:
        store.add(version(), prediction())
        assert store.unwritten == 1
    assert stored_rows(path) == []


def test_a_transaction_is_on_the_disk_before_it_counts(store: ResultStore) -> None:
    [mode] = store._connection.execute("PRAGMA journal_mode").fetchone()
    [synchronous] = store._connection.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2), "2 is FULL"


def test_a_full_disk_loses_nothing_and_writes_no_half_batch(store: ResultStore, path: Path) -> None:
    [pages] = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    for number in range(500):
        store.add(version(f"{number}.bmp"), prediction(f"{number}.bmp"))
    with pytest.raises(OutputError, match=r"cannot use the database .*results\.sqlite: database or disk is full"):
        store.commit()
    assert (store.unwritten, stored_rows(path)) == (500, [])
    assert store.holds(version("499.bmp"))
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.commit()
    assert (store.unwritten, len(stored_rows(path))) == (0, 500)


def test_a_lock_of_another_program_loses_nothing(store: ResultStore, path: Path) -> None:
    store.add(version(), prediction())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutputError, match="database is locked"):
            store.commit()
        assert store.unwritten == 1
        other.execute("ROLLBACK")
    store.commit()
    assert len(stored_rows(path)) == 1


def test_a_lock_that_cannot_be_made_refuses_the_service(path: Path) -> None:
    """As where the database lies on a file system that can only be read."""
    Path(f"{path}-lock").mkdir()
    with pytest.raises(OutputError, match="-lock: unable to open database file; choose a place that can be written"):
        ResultStore(path)


def test_a_database_that_turns_read_only_loses_nothing(store: ResultStore, path: Path) -> None:
    store.add(version(), prediction())
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(OutputError, match="attempt to write a readonly database"):
        store.commit()
    store._connection.execute("PRAGMA query_only = OFF")
    store.commit()
    assert len(stored_rows(path)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps an open file from being removed")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_that_was_taken_away_is_not_written_on_in_silence(
    replaced: bool, store: ResultStore, path: Path
) -> None:
    path.rename(path.with_name("away"))
    if replaced:
        path.write_bytes(b"")
    store.add(version(), prediction())
    with pytest.raises(OutputError, match="put the database back"):
        store.commit()
    path.with_name("away").replace(path)
    store.commit()
    assert len(stored_rows(path)) == 1


def test_one_service_at_a_time(path: Path) -> None:
    with ResultStore(path), pytest.raises(OutputError, match="for this service alone, found that another one"):
        ResultStore(path)
    with ResultStore(path) as store:
        store.add(version(), prediction())
        store.commit()


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links only for administrators")
def test_a_link_to_a_database_is_that_database(store: ResultStore, path: Path) -> None:
    link = path.parent / "links" / "link.sqlite"
    link.parent.mkdir()
    link.symlink_to(path)
    store.add(version(), prediction())
    store.commit()
    assert len(stored_rows(link)) == 1, "also what stands in its log alone"
    with pytest.raises(OutputError, match="for this service alone, found that another one"):
        ResultStore(link)
    assert own_files(link) == {"link.sqlite", *own_files(path)}


def test_rows_are_read_while_a_service_writes(store: ResultStore, path: Path) -> None:
    store.add(version(), prediction())
    store.commit()
    store._connection.execute("BEGIN IMMEDIATE")
    assert len(stored_rows(path)) == 1
    store._connection.execute("ROLLBACK")


def names_beside(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def write_a_row(path: Path, name: str = "a.bmp") -> None:
    with ResultStore(path) as store:
        store.add(version(name), prediction(name))
        store.commit()


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_another_user_reads_a_database_at_rest_and_leaves_its_folder_as_it_was(mode: int) -> None:
    with open_folder(mode) as folder:
        path = folder / "results.sqlite"
        write_a_row(path)
        before = names_beside(path)
        with another_user():
            assert len(stored_rows(path)) == 1
        assert names_beside(path) == before == ["results.sqlite", "results.sqlite-lock"]


def test_a_database_that_an_older_version_left_is_read_without_a_file_beside_it(path: Path) -> None:
    write_a_row(path)
    make_database(path, "PRAGMA journal_mode = WAL")
    before = names_beside(path)
    assert len(stored_rows(path)) == 1
    assert names_beside(path) == before


def test_what_was_read_while_a_service_began_and_ended_is_read_anew(path: Path) -> None:
    for number in range(3):
        write_a_row(path, f"{number}.bmp")
    os.utime(path, (0, 0))  # a file system's clock may stand still for as long as a service of one row takes
    read: list[list[str]] = []

    def use(predictions: Iterator[Prediction]) -> int:
        read.append([next(predictions).path])
        if len(read) == 1:
            write_a_row(path, "late.bmp")
        read[-1] += [one.path for one in predictions]
        return len(read[-1])

    assert read_predictions(path, use) == 4
    assert len(read) == 2


def test_the_own_files_are_those_that_lie_there(store: ResultStore, path: Path) -> None:
    store.add(version(), prediction())
    store.commit()
    found = {file.name for file in path.parent.iterdir()}
    assert {path.name, f"{path.name}-wal"} < found <= own_files(path)


def make_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


OURS = f"PRAGMA application_id = {APPLICATION_ID}"
FOREIGN: dict[str, tuple[tuple[str, ...], str]] = {
    "another program's": (("CREATE TABLE patients (name)",), "found one of another program"),
    "another program's results": (("CREATE TABLE results (path)",), "found one of another program"),
    "newer": ((OURS, f"PRAGMA user_version = {STORE_VERSION + 1}", "CREATE TABLE results (path)"), "a newer version"),
    "other columns": (
        (OURS, f"PRAGMA user_version = {STORE_VERSION}", "CREATE TABLE results (path)"),
        "expected the columns file, size",
    ),
}


@pytest.mark.parametrize(("statements", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_database_is_refused_and_left_as_it_was(
    statements: tuple[str, ...], message: str, path: Path
) -> None:
    make_database(path, *statements)
    before = path.read_bytes()
    for use in (ResultStore, stored_rows):
        with pytest.raises(OutputError, match=message):
            use(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_other_files_and_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("path,label\n" * 100)
    for place, message in {
        "text.sqlite": "file is not a database",
        "": "unable to open database file",
        "missing/results.sqlite": r"expected a folder for the database at .*missing, found none",
    }.items():
        with pytest.raises(OutputError, match=message):
            ResultStore(tmp_path / place)
    with pytest.raises(OutputError, match=r"expected the database of a watched folder at .*none"):
        stored_rows(tmp_path / "none.sqlite")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["text.sqlite"]
