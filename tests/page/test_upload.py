from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runtime.results import COLUMNS
from tests.page.served import Served
from tests.page.visitor import Browser, Dialog, Page, Request, Response, Route, Visitor, about_with, expect, made_file
from tests.runtime.service_help import zipped

MANY = 10_000
EMPTY_ARCHIVE = b"PK\x05\x06" + bytes(18)
ROWS_A_PAGE = 100
ANSWER_IN_THE_PAGE = """
const fetched = window.fetch;
window.fetch = async (path, options) => {
  if (path !== 'classify') return fetched(path, options);
  const answer = { label: 'ALL', p_all: 0.9, status: 'ok', reason: '', seconds: 0.01 };
  const results = options.body.getAll('files').map(({ name }) => ({ path: name, ...answer }));
  return new Response(JSON.stringify({ results, appearances: { cells: 0, sums: {} } }));
};
"""
COUNT_LONG_TASKS = """() => {
  window.longest_ms = 0;
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) window.longest_ms = Math.max(window.longest_ms, duration);
  }).observe({ type: 'longtask' });
}"""
MOST_FROZEN_MS = 500  # on a machine with other work; alone it is a fifth


def sent_names(request: Request) -> list[str]:
    return re.findall(r'filename="([^"]*)"', (request.post_data_buffer or b"").decode("latin-1"))


def in_memory(paths: list[Path]) -> list[dict[str, Any]]:
    """Files whose content Playwright shows in the requests that send them."""
    return [made_file(path.name, path.read_bytes()) for path in paths]


def answers(route: Route, **changes: Any) -> None:
    """Answer each file with the same row."""
    row = {"label": "ALL", "p_all": 0.9, "status": "ok", "reason": "", "seconds": 0.01}
    results = [{"path": name, **row, **changes} for name in sent_names(route.request)]
    route.fulfill(json={"results": results, "appearances": {"cells": 0, "sums": {}}})


def test_a_folder_that_is_dropped_comes_in_with_a_row_for_each_file(
    visitor: Visitor, service: Served, cells: Path
) -> None:
    visitor.is_ready().drop(cells)
    visitor.waits_for(10)
    assert visitor.names() == ["broken.bmp", *sorted(path.name for path in cells.glob("*/DRAWN_*.png"))]
    assert visitor.column("status")[0] == "\u00d7 error"
    assert visitor.column("reason")[0] == "not an image that can be read (expected BMP, PNG, JPEG, TIFF)"
    expected = service.classify(sorted(cells.glob("*/DRAWN_*.png"), key=lambda path: (path.parent.name, path.name)))
    assert visitor.column("label")[1:] == [{"ALL": "▲ ALL", "healthy": "○ healthy"}[row["label"]] for row in expected]
    assert visitor.column("p")[1:] == [f"{row['p_all']:.4f}" for row in expected]
    assert visitor.counts()["error"] == 1


def test_pictures_appear_beside_their_rows(visitor: Visitor, images: list[Path]) -> None:
    visitor.add(images)
    visitor.waits_for(len(images))
    expect(visitor.see("#cells tbody img").first).to_be_visible()
    assert visitor.see("#cells tbody tr").first.locator("img").evaluate("image => image.naturalWidth") > 0


def test_tiff_files_have_pictures_too_alone_and_in_an_archive(visitor: Visitor, images: list[Path]) -> None:
    cell = io.BytesIO()
    Image.open(images[0]).convert("RGB").save(cell, "TIFF")
    plate = zipped({"b.tif": cell.getvalue()})
    visitor.add([made_file("a.tif", cell.getvalue()), made_file("plate.zip", plate), made_file("c.tif", b"II*\0")])
    visitor.waits_for(3)
    pictures = visitor.see("#cells tbody img")
    expect(pictures).to_have_count(2)  # of the damaged file there is none
    assert [status == "\u00d7 error" for status in visitor.column("status")] == [False, False, True]
    assert pictures.first.evaluate("image => image.naturalWidth") > 0
    visitor.see("#cells tbody .open").first.click()
    expect(visitor.see("#cell-picture img")).to_be_visible()


def test_the_csv_holds_what_the_service_answered(visitor: Visitor, cells: Path) -> None:
    answered: list[dict[str, Any]] = []

    def keep(response: Response) -> None:
        if response.url.endswith("/classify"):
            answered.extend(response.json()["results"])

    visitor.page.on("response", keep)
    paths = [*sorted(cells.glob("*/DRAWN_*.png")), cells / "broken.bmp"]
    visitor.add(paths)
    visitor.waits_for(len(paths))
    name, rows = visitor.download()
    assert name == "allnet-threshold-0.5.csv"
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == [path.name for path in paths]
    for row, answer in zip(rows, answered, strict=True):
        assert {key: row[key] for key in ("label", "status", "reason")} == {
            key: answer[key] for key in ("label", "status", "reason")
        }
        assert float(row["seconds"]) == answer["seconds"]
        assert row["p_all"] == ("" if answer["p_all"] is None else f"{answer['p_all']:.6f}")


def test_names_of_files_are_not_sent(visitor: Visitor, images: list[Path]) -> None:
    sent: list[Request] = []

    def keep(route: Route) -> None:
        sent.append(route.request)
        route.fallback()

    visitor.page.route("**/classify", keep)
    visitor.add(in_memory(images[:2]))
    visitor.waits_for(2)
    assert [name for request in sent for name in sent_names(request)] == ["cell-1", "cell-2"]
    assert not any(images[0].name.encode() in (request.post_data_buffer or b"") for request in sent)


def test_the_members_of_an_archive_are_rows_with_pictures_of_their_own(
    visitor: Visitor, service: Served, images: list[Path], tmp_path: Path
) -> None:
    archive = tmp_path / "plate.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for path in images[:3]:
            written.write(path, path.name)
        written.writestr("broken.png", images[0].read_bytes()[:2000])
    visitor.add([images[4], archive, images[5]])
    visitor.waits_for(6)
    names = [images[4].name, *(path.name for path in images[:3]), "broken.png", images[5].name]
    assert visitor.names() == names
    _, rows = visitor.download()
    assert rows[1]["path"] == f"plate.zip/{images[0].name}"
    expect(visitor.see("#cells tbody img")).to_have_count(5)
    expect(visitor.see("#cells tbody tr").nth(4).locator("img")).to_have_count(0)  # what was not read is not unpacked
    visitor.see("#cells tbody .open").nth(2).click()
    expect(visitor.see("#cell-picture img")).to_be_visible()
    with visitor.page.expect_response("**/explain") as explained:
        visitor.see("#heat-toggle").check()
    assert explained.value.json()["p_all"] == service.classify([images[1]])[0]["p_all"]


def test_the_folders_in_an_archive_of_powershell_are_folders(visitor: Visitor, images: list[Path]) -> None:
    content = zipped({"cells\\UID_7_1_2_all.png": images[0].read_bytes()})
    visitor.add([made_file("plate.zip", content)])
    visitor.waits_for(1)
    assert visitor.names() == ["UID_7_1_2_all.png"]
    expect(visitor.see("#cells tbody img")).to_have_count(1)
    visitor.see("#view-subjects").click()
    expect(visitor.see("#subjects tbody th")).to_have_text("7")


def test_an_archive_that_is_answered_while_its_row_is_open_makes_way_for_its_first_member(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    archive, held = io.BytesIO(), list[Route]()
    with zipfile.ZipFile(archive, "w") as written:
        for path in images[:2]:
            written.write(path, path.name)
    with Visitor(
        browser, service.url, before=lambda page: page.route("**/classify", lambda route: held.append(route))
    ) as visitor:
        visitor.add([made_file("plate.zip", archive.getvalue())])
        visitor.see("#cells tbody .open").first.click()
        expect(visitor.see("#cell-facts")).to_contain_text("waiting")
        visitor.page.wait_for_timeout(100)
        held[0].fallback()
        expect(visitor.see("#cell-facts")).to_contain_text(f"plate.zip/{images[0].name}")
        expect(visitor.see("#cell-facts")).to_contain_text("Answered by")
        expect(visitor.see("#cell-place")).to_have_text("1 of 2")
        visitor.see("#cell-next").click()
        expect(visitor.see("#cell-facts")).to_contain_text(f"plate.zip/{images[1].name}")


def test_where_an_archive_is_not_understood_the_page_says_what_to_do(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.write(images[0], "a.png")

    def renamed(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("a.png", "b.png"))

    with Visitor(browser, service.url, before=lambda page: page.route("**/classify", renamed)) as visitor:
        visitor.add([made_file("plate.zip", archive.getvalue())])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").click()
        expect(visitor.see("#cell-facts")).to_contain_text("add the unpacked image to see it and its heat map")
        expect(visitor.see("#cell-heat")).to_be_hidden()


def test_a_damaged_archive_is_a_row_with_the_reason(visitor: Visitor) -> None:
    visitor.add([made_file("plate.zip", b"PK\x03\x04 and nothing more")])
    visitor.waits_for(1)
    assert visitor.column("reason")[0].startswith("not taken: expected a zip archive that can be read")


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04 and nothing more", EMPTY_ARCHIVE, zipped({f"{number}.png": b"" for number in range(1001)})],
    ids=["damaged", "empty", "too many"],
)
def test_what_is_wrong_with_an_archive_is_said_under_its_own_name(visitor: Visitor, content: bytes) -> None:
    visitor.add([made_file("plate $& 7.zip", content)])
    visitor.waits_for(1)
    assert "'plate $& 7.zip'" in visitor.column("reason")[0]


@pytest.mark.parametrize("limit", [{}, {"request_bytes": 1000}], ids=["too many", "too large"])
def test_who_adds_too_large_an_archive_is_told_to_unpack_it(
    browser: Browser, service: Served, limit: dict[str, int]
) -> None:
    limits = {"file_bytes": 2**26, "request_files": 1000, "request_bytes": 2**28, **limit}
    with Visitor(browser, service.url, before=about_with(limits=limits)) as visitor:
        visitor.add([made_file("plate.zip", zipped({f"{number}.png": b"" for number in range(1001)}))])
        visitor.waits_for(1)
        advice = "; unpack the archive and add its folder, which may be of any size"
        assert visitor.column("reason")[0].endswith(advice)


def paste(visitor: Visitor, image: Path) -> None:
    visitor.page.evaluate(
        """(bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], 'image.png'));
          document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }));
        }""",
        list(image.read_bytes()),
    )


def test_a_picture_that_is_pasted_is_classified(visitor: Visitor, images: list[Path]) -> None:
    paste(visitor.is_ready(), images[0])
    visitor.waits_for(1)
    assert visitor.names() == ["pasted-1.png"]
    assert visitor.counts()["error"] == 0


def test_what_is_added_while_the_microscope_is_shown_comes_into_sight(
    browser: Browser, service: Served, images: list[Path], cells: Path
) -> None:
    with Visitor(browser, f"{service.url}/#microscope") as visitor:
        paste(visitor.is_ready(), images[0])
        expect(visitor.see("#cells tbody tr")).to_be_visible()
        expect(visitor.see("#microscope")).to_be_hidden()
        visitor.see("#microscope-tab").click()
        visitor.drop(cells, at="#microscope-title")
        visitor.waits_for(11)
        expect(visitor.see("#cells tbody tr").first).to_be_visible()


def test_who_leaves_the_page_is_asked_as_long_as_not_all_is_downloaded(visitor: Visitor, images: list[Path]) -> None:
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    visitor.page.on("dialog", stay)
    visitor.add(images[:1])
    visitor.waits_for(1)
    visitor.page.evaluate("location.reload()")
    visitor.page.wait_for_timeout(300)
    assert asked == ["beforeunload"]
    visitor.waits_for(1)
    visitor.download()
    visitor.page.reload()
    assert asked == ["beforeunload"]
    assert not visitor.names()


def test_a_chosen_folder_leaves_out_what_lies_beside_images(visitor: Visitor, cells: Path) -> None:
    visitor.is_ready().page.set_input_files("#folder", cells)
    visitor.waits_for(10)
    assert "results.csv" not in visitor.names()


def test_a_busy_service_is_asked_again_when_it_said(browser: Browser, service: Served, images: list[Path]) -> None:
    asked = 0

    def busy_once(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "found too much to do"})
        else:
            route.fallback()

    with Visitor(browser, service.url, before=lambda page: page.route("**/classify", busy_once)) as visitor:
        visitor.add(images)
        expect(visitor.see("#progress-note")).to_have_text("Waiting 1 s: found too much to do")
        visitor.waits_for(len(images))
        assert asked == 2
        expect(visitor.see("#progress-note")).to_have_text("")


def test_who_goes_on_does_not_wait_as_long_as_a_busy_service_said(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    def busy(route: Route) -> None:
        route.fulfill(status=503, headers={"Retry-After": "30"}, json={"detail": "found too much to do"})

    with Visitor(browser, service.url, before=lambda page: page.route("**/classify", busy, times=1)) as visitor:
        visitor.add(images)
        expect(visitor.see("#progress-note")).to_have_text("Waiting 30 s: found too much to do")
        visitor.see("#stop").click()
        visitor.see("#go-on").click()
        visitor.waits_for(len(images))


def test_answers_of_another_model_or_threshold_than_the_page_shows_are_not_taken(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    with Visitor(browser, service.url, before=about_with(identity="that of before")) as visitor:
        visitor.add(images)
        expect(visitor.see("#progress-note")).to_contain_text("Stopped: expected the model and threshold")
        expect(visitor.see("#progress-note")).to_contain_text("load the page")
        assert visitor.counts()["waiting"] == len(images)


def test_what_is_too_much_at_once_is_sent_in_parts(browser: Browser, service: Served, images: list[Path]) -> None:
    largest = 0

    def few(route: Route) -> None:
        nonlocal largest
        largest = max(largest, len(sent_names(route.request)))
        if len(sent_names(route.request)) > 2:
            route.fulfill(status=413, json={"detail": "expected less"})
        else:
            route.fallback()

    with Visitor(browser, service.url, before=lambda page: page.route("**/classify", few)) as visitor:
        visitor.add(in_memory(images))
        visitor.waits_for(len(images))
        assert largest == len(images)
        assert visitor.counts()["error"] == 0


def test_a_file_that_is_too_large_is_not_sent(browser: Browser, service: Served, images: list[Path]) -> None:
    limits = {"file_bytes": 2**20, "request_files": 2, "request_bytes": 2**22}
    with Visitor(browser, service.url, before=about_with(limits=limits)) as visitor:
        visitor.add([made_file("large.bmp", b"x" * (2**20 + 1)), *in_memory(images)])
        visitor.waits_for(len(images) + 1)
        assert visitor.column("reason")[0] == "expected at most 1 MB, found 2 MB"
        assert visitor.counts()["error"] == 1


def test_a_fault_stops_and_what_is_left_goes_on_when_asked(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    is_broken = True

    def broken(route: Route) -> None:
        if is_broken:
            route.fulfill(status=500, json={"detail": "found a fault in the service"})
        else:
            route.fallback()

    with Visitor(browser, service.url, before=lambda page: page.route("**/classify", broken)) as visitor:
        visitor.add(images)
        expect(visitor.see("#progress-note")).to_have_text("Stopped: found a fault in the service")
        is_broken = False
        visitor.see("#go-on").click()
        visitor.waits_for(len(images))


def test_how_many_are_answered_is_written_as_the_counts_say_and_told_seldom(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    held: list[Route] = []
    shown = "['#progress-text', '#progress-told'].map(name => document.querySelector(name).textContent)"
    with Visitor(
        browser, service.url, before=lambda page: page.route("**/classify", lambda route: held.append(route))
    ) as visitor:
        visitor.add([made_file(f"{number}.png", images[0].read_bytes()) for number in range(100)])
        waiting = visitor.see("#counts [data-kind=waiting] dd")
        expect(waiting).to_have_text("100")
        expect(visitor.see("#progress-told")).to_have_text("0 of 100 answered.")
        while not held:
            visitor.page.wait_for_timeout(50)
        held.pop().continue_()
        expect(waiting).not_to_have_text("100")
        written, told = visitor.page.evaluate(shown)
        assert written == f"{100 - int(waiting.inner_text())} of 100 answered."
        assert told in ("0 of 100 answered.", written)
        expect(visitor.see("#progress-told")).to_have_text(written)


def test_sending_can_be_stopped_and_gone_on_with(browser: Browser, service: Served, images: list[Path]) -> None:
    held: list[Route] = []
    holds = True

    def hold(route: Route) -> None:
        if holds:
            held.append(route)
        else:
            route.fallback()

    with Visitor(browser, service.url, before=lambda page: page.route("**/classify", hold)) as visitor:
        visitor.add(images)
        visitor.see("#stop").click()
        expect(visitor.see("#progress-note")).to_have_text("Stopped.")
        visitor.waits_for(0, len(images))
        assert visitor.download() == (f"allnet-threshold-0.5.0-of-{len(images)}.csv", [])
        holds = False
        visitor.see("#go-on").click()
        visitor.waits_for(len(images))
        assert visitor.names() == [path.name for path in images]
        visitor.see("#clear").click()
        expect(visitor.see("#answers")).to_be_hidden()


def test_the_answer_of_another_file_is_never_shown(browser: Browser, service: Served, images: list[Path]) -> None:
    def mixed_up(page: Page) -> None:
        page.route("**/classify", lambda route: answers(route, path="cell-7"))

    with Visitor(browser, service.url, before=mixed_up) as visitor:
        visitor.add([*in_memory(images[:2]), made_file("plate.zip", EMPTY_ARCHIVE)])
        visitor.waits_for(3)
        assert visitor.column("reason") == ["the service answered for another file"] * 3


def test_a_file_that_went_before_it_was_sent_is_a_row_with_the_reason(
    browser: Browser, service: Served, images: list[Path], tmp_path: Path
) -> None:
    going = tmp_path / "going.png"
    going.write_bytes(images[0].read_bytes())
    with Visitor(browser, service.url) as visitor:
        visitor.is_ready().page.evaluate("""() => {
          const slice = File.prototype.slice;
          File.prototype.slice = function (...range) {
            if (this.name === 'going.png') return { text: () => Promise.reject(new DOMException('', 'NotFoundError')) };
            return slice.apply(this, range);
          };
        }""")
        visitor.add([going, images[0]])
        visitor.waits_for(2)
        assert visitor.column("reason")[0] == "cannot be opened: it was moved or changed after it was added"
        assert visitor.counts()["error"] == 1


def test_ten_thousand_files_do_not_freeze_the_page(browser: Browser, service: Served, tmp_path: Path) -> None:
    for number in range(MANY):
        (tmp_path / f"cell_{number}.bmp").touch()
    with Visitor(browser, service.url, before=lambda page: page.add_init_script(ANSWER_IN_THE_PAGE)) as visitor:
        visitor.is_ready().page.evaluate(COUNT_LONG_TASKS)
        visitor.drop(tmp_path)
        expect(visitor.see("#progress-text")).to_contain_text("10,000 of 10,000 answered", timeout=60_000)
        assert visitor.see("#cells tbody tr").count() == ROWS_A_PAGE
        assert visitor.counts()["ALL"] == MANY
        visitor.see("#cells [data-sort=path]").click()
        visitor.see("[data-page=last]").click()
        assert visitor.names()[-1] == "cell_9999.bmp"
        visitor.set_threshold(0.95)
        expect(visitor.see("#counts [data-kind=healthy] dd")).to_contain_text("10,000")
        assert visitor.page.evaluate("window.longest_ms") < MOST_FROZEN_MS


def test_what_is_still_being_added_when_all_is_removed_does_not_come_back(visitor: Visitor) -> None:
    visitor.is_ready().page.evaluate("""() => {
      const transfer = new DataTransfer();
      for (let number = 0; number < 1200; number += 1) transfer.items.add(new File(['x'], `${number}.bmp`));
      const input = document.getElementById('files');
      input.files = transfer.files;
      input.dispatchEvent(new Event('change'));
      document.getElementById('clear').click();
      return new Promise((resolve) => { setTimeout(resolve, 500); });
    }""")
    expect(visitor.see("#answers")).to_be_hidden()


def test_a_picture_from_the_camera_is_classified(visitor: Visitor) -> None:
    visitor.is_ready().see("#open-camera").click()
    expect(visitor.see("#camera-note")).to_have_text("")
    visitor.page.wait_for_timeout(300)  # for the first frame
    visitor.see("#camera-shot").click()
    expect(visitor.see("#camera-note")).to_have_text("Picture 1 was taken.")
    visitor.page.keyboard.press("Escape")
    visitor.waits_for(1)
    assert visitor.names() == ["camera-1.png"]
    assert visitor.page.evaluate("document.querySelector('video').srcObject") is None


def test_the_camera_that_was_chosen_is_taken_again(visitor: Visitor) -> None:
    chosen = visitor.see("#camera-device")
    visitor.is_ready().see("#open-camera").click()
    expect(chosen.locator("option")).to_have_count(2)
    chosen.select_option(label="fake_device_1")
    visitor.page.keyboard.press("Escape")
    visitor.see("#open-camera").click()
    visitor.page.wait_for_timeout(500)
    expect(visitor.see("#camera-note")).to_have_text("")
    expect(chosen.locator("option:checked")).to_have_text("fake_device_1")
    label = "video => video.srcObject.getVideoTracks()[0].label"
    assert visitor.see("#camera-video").evaluate(label) == "fake_device_1"


def test_no_camera_stays_on_when_its_window_is_closed(visitor: Visitor) -> None:
    visitor.is_ready()
    visitor.page.evaluate(
        """() => {
          window.streams = [];
          const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            const stream = await ask(wanted);
            window.streams.push(stream);
            await new Promise((resolve) => { setTimeout(resolve, 300); });
            return stream;
          };
        }"""
    )
    visitor.see("#open-camera").click()
    visitor.page.wait_for_timeout(150)  # the stream is there, and not yet given out
    visitor.page.keyboard.press("Escape")
    visitor.see("#open-camera").click()
    expect(visitor.see("#camera-note")).to_have_text("Waiting for the camera …")
    expect(visitor.see("#camera-note")).to_have_text("")
    visitor.page.keyboard.press("Escape")
    # The browser tells of a closed dialog a moment later.
    visitor.page.wait_for_function(
        "() => window.streams.length === 2 && window.streams.every((stream) => !stream.active)"
    )
