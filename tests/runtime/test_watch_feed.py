from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the service needs it: pip install -e '.[serve]'")

from runtime.classifier import ClassifierOptions
from runtime.errors import OutputError, UsageError
from runtime.serve import build_parser, feed_of
from runtime.service.desk import Desk
from runtime.service.watch_feed import NoPictureError, WatchFeed
from runtime.watching.database import lock_path
from runtime.watching.result_store import ResultStore
from tests.runtime.service_help import Client, form
from tests.runtime.watched import Watched


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture
def feed(watched: Watched) -> WatchFeed:
    return WatchFeed(watched.database, watched.folder)


@pytest.fixture
def client(feed: WatchFeed) -> Iterator[Client]:
    with Desk(feed=feed) as desk:
        yield Client(desk)


def names(results: list[dict[str, Any]]) -> list[str]:
    return [row["path"] for row in results]


def test_the_newest_rows_come_oldest_first_and_then_only_those_that_are_new(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp", "b.bmp", "c.bmp")
    first = feed.news(after=0, limit=2)
    assert (names(first.results), first.last) == (["b.bmp", "c.bmp"], 3)
    assert feed.news(first.last, 2).results == []
    watched.add("d.bmp", p_all=0.4, status="review")
    [row] = feed.news(first.last, 2).results
    assert {key: row[key] for key in ("id", "path", "label", "p_all", "status")} == {
        "id": 4,
        "path": "d.bmp",
        "label": "healthy",
        "p_all": 0.4,
        "status": "review",
    }
    assert row["time"]
    assert row["threshold"] == 0.5


def test_a_service_that_was_killed_is_not_taken_for_one_that_runs(watched: Watched, feed: WatchFeed) -> None:
    code = "import sys, time; from pathlib import Path; from runtime.watching.result_store import ResultStore; "
    code += "store = ResultStore(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    watched.add("a.bmp")
    assert not feed.news(0, 1).watching
    with subprocess.Popen([sys.executable, "-c", code, str(watched.database)], stdout=subprocess.PIPE) as service:
        assert service.stdout
        service.stdout.readline()
        assert feed.news(0, 1).watching
        service.kill()
    assert watched.database.with_name(f"{watched.database.name}-wal").exists(), "killed, it leaves its log"
    news = feed.news(0, 1)
    assert (news.watching, news.last) == (False, 1)


def test_a_question_for_a_service_keeps_none_from_beginning(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp")
    asked = threading.Event()

    def ask() -> None:
        with closing(sqlite3.connect(lock_path(watched.database), isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
            asked.set()
            time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    asked.wait()
    with ResultStore(watched.database):
        assert feed.news(0, 1).watching
    asking.join()


def test_all_rows_are_counted_however_few_are_asked_for(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp", "b.bmp")
    assert feed.news(0, 1).counts == {"ALL": 2, "healthy": 0, "review": 0, "error": 0}
    watched.add("c.bmp", p_all=0.4, status="review")
    watched.add("d.bmp", p_all=None)
    assert feed.news(0, 1).counts == {"ALL": 2, "healthy": 1, "review": 1, "error": 1}


@pytest.mark.parametrize("opened_at_last", ["first.bmp", "newest.bmp"])
def test_a_file_that_is_opened_at_last_is_news_and_counts_once(
    watched: Watched, feed: WatchFeed, opened_at_last: str
) -> None:
    for name in ("first.bmp", "b.bmp", "newest.bmp"):
        watched.add(name, p_all=None if name == opened_at_last else 0.9)
    before = feed.news(0, 10)
    assert before.counts == {"ALL": 2, "healthy": 0, "review": 0, "error": 1}
    watched.add(opened_at_last)
    after = feed.news(before.last, 10)
    assert names(after.results) == [opened_at_last]
    assert after.counts == {"ALL": 3, "healthy": 0, "review": 0, "error": 0}


def test_a_database_that_is_replaced_is_counted_anew_and_has_another_name(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp", "b.bmp")
    first = feed.news(0, 10)
    watched.database.unlink()
    watched.add("other.bmp", "another.bmp", "third.bmp", time="2026-01-02T00:00:00.000+00:00")
    second = feed.news(0, 10)
    assert second.counts["ALL"] == 3
    assert second.database != first.database


def test_a_database_without_a_row_has_no_news(watched: Watched, feed: WatchFeed) -> None:
    watched.add()
    assert vars(feed.news(0, 10)) == {
        "results": [],
        "last": 0,
        "counts": {"ALL": 0, "healthy": 0, "review": 0, "error": 0},
        "database": "",
        "watching": False,
        "warning": "",
    }


def test_the_warning_of_the_last_cells_is_handed_on_until_it_is_over(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp", warning="WARNING: taken together")
    watched.add("b.bmp")
    assert feed.news(0, 10).warning == "WARNING: taken together"
    watched.add("c.bmp", warning="")
    assert feed.news(0, 10).warning == ""


def test_a_database_that_an_older_service_wrote_has_no_warning(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp")
    with closing(sqlite3.connect(watched.database)) as older:
        older.execute("DROP TABLE shift")
    assert (len(feed.news(0, 10).results), feed.news(0, 10).warning) == (1, "")


def test_a_reader_neither_waits_for_a_writer_nor_stops_it(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp")
    with closing(sqlite3.connect(watched.database, timeout=0, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE results SET status = 'review'")
        assert feed.news(0, 10).results[0]["status"] == "ok"  # what was committed
        writer.execute("COMMIT")
    assert feed.news(0, 10).results[0]["status"] == "review"


def test_a_service_writes_while_the_feed_is_asked_again_and_again(watched: Watched, feed: WatchFeed) -> None:
    seen = 0
    for number in range(20):
        watched.add(f"{number}.bmp")
        news = feed.news(seen, 10)
        assert names(news.results) == [f"{number}.bmp"]
        seen = news.last


def test_nothing_is_written_by_reading(watched: Watched, feed: WatchFeed) -> None:
    watched.add("a.bmp")
    before = watched.database.read_bytes()
    feed.news(0, 10)
    assert watched.database.read_bytes() == before


def test_the_picture_of_a_row_is_a_small_jpeg(watched: Watched, feed: WatchFeed) -> None:
    watched.cell("plate/a.png")
    watched.add("plate/a.png")
    with Image.open(io.BytesIO(feed.picture(1))) as image:
        assert (image.format, image.size) == ("JPEG", (320, 320))


@pytest.mark.parametrize("name", ["../secret.png", "/absolute", "link.png", "folder/link.png", "a\0.png", ""])
def test_no_picture_outside_the_folder(watched: Watched, feed: WatchFeed, tmp_path: Path, name: str) -> None:
    secret = watched.cell("cell.png").rename(tmp_path / "secret.png")
    name = str(secret) if name == "/absolute" else name
    if "link" in name:
        (watched.folder / "folder").mkdir()
        (watched.folder / name).symlink_to(secret)
    watched.add("placeholder.png")
    rename_row(watched, name, secret)
    with pytest.raises(NoPictureError, match="expected"):
        feed.picture(1)


def rename_row(watched: Watched, name: str, like: Path) -> None:
    """Let the database name another file, with the size and the time of one that exists."""
    found = like.stat()
    with closing(sqlite3.connect(watched.database)) as connection, connection:
        connection.execute(
            "UPDATE results SET file = CAST(? AS TEXT), size = ?, mtime_ns = ?",
            (name.encode(), found.st_size, found.st_mtime_ns),
        )


def test_a_link_inside_the_folder_is_followed(watched: Watched, feed: WatchFeed) -> None:
    target = watched.cell("real.png")
    (watched.folder / "link.png").symlink_to(target)
    watched.add("link.png")
    assert feed.picture(1)


def test_no_picture_of_a_file_that_changed_or_went_or_is_no_image(watched: Watched, feed: WatchFeed) -> None:
    path = watched.cell("a.png")
    watched.add("a.png")
    os.utime(path, ns=(1, 1))
    with pytest.raises(NoPictureError, match="has changed since"):
        feed.picture(1)
    path.unlink()
    with pytest.raises(NoPictureError, match="No such file"):
        feed.picture(1)
    path.write_text("no image")
    watched.add("a.png")
    with pytest.raises(NoPictureError, match="not an image that can be read"):
        feed.picture(2)
    with pytest.raises(NoPictureError, match="expected the number of a row, found 3"):
        feed.picture(3)


def test_no_picture_of_other_content_of_the_same_size_and_time(watched: Watched, feed: WatchFeed) -> None:
    path = watched.cell("a.png")
    watched.add("a.png")
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(NoPictureError, match="has changed since"):
        feed.picture(1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_cell_is_not_waited_for(watched: Watched, feed: WatchFeed) -> None:
    os.mkfifo(watched.folder / "pipe.png")
    watched.add("pipe.png")
    with pytest.raises(NoPictureError, match="has changed since"):
        feed.picture(1)


def test_a_name_that_is_no_text_comes_through(watched: Watched, client: Client) -> None:
    watched.add("cell_\udcff.bmp")
    assert client.get("/watch/rows").json()["results"][0]["path"] == "cell_\udcff.bmp"


def test_the_route_says_what_it_shows_and_where_pictures_are(watched: Watched, client: Client) -> None:
    watched.cell("a.png")
    watched.add("a.png")
    answer = client.get("/watch/rows?after=0&limit=5").json()
    assert (answer["last"], answer["pictures"], answer["counts"]["ALL"]) == (1, True, 1)
    picture = client.get("/watch/pictures/1")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "question",
    ["rows?after=-1", "rows?after=x", "rows?limit=0", "rows?limit=201", "rows?limit=1&limit=2", "rows?after=",
     f"rows?after={2**63}", "rows?after=%C2%B2", "pictures/0", "pictures/x", "pictures/-1", "explanations/0"],
)  # fmt: skip
def test_a_wrong_number_is_refused(watched: Watched, client: Client, question: str) -> None:
    watched.add("a.bmp")
    answer = client.get(f"/watch/{question}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("expected ")


def test_the_number_of_a_row_is_described_as_it_is_checked(watched: Watched, client: Client) -> None:
    watched.add("gone.png")
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/watch/pictures/{row}", "/watch/explanations/{row}"):
        [row] = paths[path]["get"]["parameters"]
        least, most = row["schema"]["minimum"], row["schema"]["maximum"]
        codes = [client.get(path.format(row=number)).status_code for number in (least - 1, least, most, most + 1)]
        assert codes == [400, 404, 404, 400]


def test_the_largest_numbers_are_answered(watched: Watched, client: Client) -> None:
    watched.add("a.bmp")
    assert client.get(f"/watch/rows?after={2**63 - 1}").json()["results"] == []
    assert client.get(f"/watch/pictures/{2**63 - 1}").status_code == 404


def test_a_path_is_no_number_of_a_picture(client: Client) -> None:
    assert client.get("/watch/pictures/..%2F..%2Fetc%2Fpasswd").status_code in (400, 404)


def test_the_map_of_a_row_is_that_of_its_cell(watched: Watched, feed: WatchFeed) -> None:
    path = watched.cell("a.png")
    with Desk(feed=feed) as desk:
        desk.open(ClassifierOptions())
        client = Client(desk)
        of_the_file = client.post("/explain", files=form([("a.png", path.read_bytes())])).json()
        watched.add("a.png", p_all=of_the_file["p_all"], bundle=desk.classifier.bundle.content_sha256)
        assert client.get("/watch/explanations/1").json() == of_the_file
        assert desk.bytes_held == 0


def test_no_map_of_what_another_model_answered_or_of_what_is_gone(watched: Watched, feed: WatchFeed) -> None:
    watched.cell("a.png")
    with Desk(feed=feed) as desk:
        desk.open(ClassifierOptions())
        own = desk.classifier.bundle.content_sha256
        watched.add("a.png", bundle="ef" * 32)
        client = Client(desk)
        of_another_bundle = client.get("/watch/explanations/1")
        assert of_another_bundle.status_code == 409
        assert "found one of efefefefefef" in of_another_bundle.json()["detail"]
        path = watched.cell("b.png")
        watched.add("b.png", p_all=0.123, bundle=own)
        of_another_answer = client.get("/watch/explanations/2")
        assert of_another_answer.status_code == 409
        assert "expected the row's answer, p_all 0.123 in fp32, found 0." in of_another_answer.json()["detail"]
        path.unlink()
        assert client.get("/watch/explanations/2").status_code == 404
        path.write_text("no image")
        watched.add("b.png", bundle=own)
        assert client.get("/watch/explanations/3").status_code == 422


def test_a_database_that_is_away_is_said_and_asked_for_later(watched: Watched, client: Client) -> None:
    answer = client.get("/watch/rows")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["detail"].startswith("cannot read the database: expected the database of a watched folder at ")
    watched.add("a.bmp")
    assert client.get("/watch/rows").status_code == 200


def test_a_service_that_follows_nothing_says_so() -> None:
    with Desk() as desk:
        answer = Client(desk).get("/watch/rows")
        assert answer.status_code == 404
        assert "--watch-db" in answer.json()["detail"]


def test_without_the_folder_there_are_rows_but_no_pictures(watched: Watched) -> None:
    watched.add("a.bmp")
    feed = WatchFeed(watched.database)
    assert len(feed.news(0, 10).results) == 1
    with pytest.raises(NoPictureError, match="--watch-folder"):
        feed.picture(1)


def test_the_command_line_refuses_what_cannot_be_followed(watched: Watched, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE other (x)")
    for arguments, error, message in (
        (["--watch-folder", str(watched.folder)], UsageError, "expected --watch-db beside --watch-folder"),
        (["--watch-db", "x", "--watch-folder", str(tmp_path / "none")], UsageError, "expected the watched folder at"),
        (["--watch-db", str(foreign)], OutputError, "found one of another program"),
    ):
        with pytest.raises(error, match=message):
            feed_of(build_parser().parse_args(arguments))
    later = feed_of(build_parser().parse_args(["--watch-db", str(tmp_path / "later.sqlite")]))
    assert later is not None
    ResultStore(tmp_path / "later.sqlite").close()
    assert later.news(0, 1).results == []
