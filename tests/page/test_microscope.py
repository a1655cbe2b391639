from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.watching.result_store import ResultStore
from tests.page.served import Served
from tests.page.visitor import Browser, Page, Route, Visitor, expect
from tests.runtime.audits import AUDIT
from tests.runtime.watched import Watched

NOT_WATCHED = "runtime.watch is not running: new cells are not classified until it is started."


@pytest.fixture(autouse=True)
def without_database(watched: Watched) -> None:
    """Each test begins before the watching service has been started."""
    watched.remove()


@pytest.fixture
def microscope(browser: Browser, service: Served) -> Iterator[Visitor]:
    with Visitor(browser, f"{service.url}/#microscope") as visitor:
        yield visitor


def test_the_last_cells_of_a_watched_folder_are_followed_live(microscope: Visitor, watched: Watched) -> None:
    state = microscope.see("#watch-state")
    expect(state).to_contain_text("No news: cannot read the database")
    watched.cell("plate/first.png")
    watched.add("plate/first.png", "<i>gone.bmp")
    expect(state).to_have_text(NOT_WATCHED)
    cards = microscope.see("#watch-cells > li")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("<i>gone.bmp")
    expect(cards.nth(1).locator("img")).to_have_attribute("alt", "Cell first.png")
    watched.add("review.bmp", p_all=0.4, status="review")
    watched.add("empty.bmp", p_all=None)
    expect(cards).to_have_count(4)
    expect(cards.nth(1)).to_contain_text("review")
    expect(cards.nth(1)).to_contain_text("near the threshold")
    assert microscope.counts("#watch-counts") == {"ALL": 2, "healthy": 1, "review": 1, "error": 1}
    moved = watched.database.rename(watched.database.with_name("moved"))
    expect(state).to_contain_text("No news: cannot read the database")
    moved.rename(watched.database)
    expect(state).to_have_text(NOT_WATCHED)
    expect(cards).to_have_count(4)
    watched.remove()
    watched.add("other.bmp", time="2026-02-02T00:00:00.000+00:00")
    expect(cards).to_have_count(1)
    assert microscope.counts("#watch-counts")["ALL"] == 1


def test_only_a_watching_service_that_runs_is_said_to_be_followed(microscope: Visitor, watched: Watched) -> None:
    state = microscope.see("#watch-state")
    with ResultStore(watched.database):
        expect(state).to_have_text("Following live; no cell has come yet.")
    expect(state).to_have_text(NOT_WATCHED)
    watched.add("a.bmp")
    with ResultStore(watched.database):
        expect(state).to_have_text("Following live, the newest first.")
        expect(microscope.see("#watch-cells > li")).to_have_count(1)


def test_a_service_that_falls_silent_is_not_said_to_be_followed(
    browser: Browser, service: Served, watched: Watched
) -> None:
    def hurry(page: Page) -> None:
        page.add_init_script("const wait = AbortSignal.timeout; AbortSignal.timeout = (ms) => wait(ms / 20);")

    watched.add("a.bmp")
    with Visitor(browser, f"{service.url}/#microscope", before=hurry) as visitor:
        state = visitor.see("#watch-state")
        expect(state).to_have_text(NOT_WATCHED)
        visitor.page.route("**/watch/rows*", lambda unanswered: None)
        expect(state).to_contain_text("No news: the service does not answer")
        visitor.page.unroute("**/watch/rows*")
        expect(state).to_have_text(NOT_WATCHED)


def test_the_warning_of_the_watching_service_is_shown_until_it_is_over(microscope: Visitor, watched: Watched) -> None:
    warning = microscope.see("#watch-shift[role=alert]")
    watched.add("a.bmp", warning="WARNING: taken together, 100 cells look unlike <those>")
    expect(warning).to_have_text("WARNING: taken together, 100 cells look unlike <those>")
    watched.add("b.bmp", warning="")
    expect(microscope.see("#watch-cells > li")).to_have_count(2)
    expect(warning).to_be_hidden()


def test_what_answered_the_cells_is_said_and_it_may_be_another_than_this_service(
    microscope: Visitor, watched: Watched
) -> None:
    watched.add("a.bmp", bundle="ef" * 32)
    answered = f"{AUDIT.precision} on {AUDIT.backend}; bundle efefefefefef, version {AUDIT.version}"
    expect(microscope.see("#watch-origin")).to_have_text(f"The newest was answered by {answered}.")
    expect(microscope.see("#origin")).to_contain_text("This service answers with compact fp32")


def test_names_as_long_as_instruments_make_them_are_told_apart(microscope: Visitor, watched: Watched) -> None:
    watched.add(*(f"2026-01-31T09-15-00_slide-0042_field-117_cell-{number:06}_stain-MGG.bmp" for number in range(2)))
    names = microscope.see("#watch-cells .watch-name bdi")
    expect(names).to_have_count(2)
    for name in names.all():
        assert name.evaluate("name => name.scrollHeight <= name.clientHeight && name.scrollWidth <= name.clientWidth")


def test_the_newest_two_dozen_are_kept(microscope: Visitor, watched: Watched) -> None:
    watched.add(*(f"{number}.bmp" for number in range(60)))
    cards = microscope.see("#watch-cells > li")
    expect(cards).to_have_count(24)
    expect(cards.first).to_contain_text("59.bmp")


def test_a_tab_that_is_looked_at_while_it_asks_shows_each_row_once(visitor: Visitor, watched: Watched) -> None:
    watched.add("a.bmp", "b.bmp")
    held: list[Route] = []
    visitor.page.route("**/watch/rows*", lambda question: held.append(question))
    visitor.is_ready().see("#microscope-tab").click()
    visitor.page.wait_for_timeout(200)
    visitor.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    visitor.page.wait_for_timeout(200)
    for question in held:
        question.continue_()
    visitor.page.unroute("**/watch/rows*")
    expect(visitor.see("#watch-state")).to_have_text(NOT_WATCHED)
    expect(visitor.see("#watch-cells > li")).to_have_count(2)


def answer_of(service: Served, path: Path) -> dict[str, Any]:
    """What the service's model says of a cell, as the columns of its row."""
    [row] = service.classify([path])
    return {"p_all": row["p_all"], "bundle": httpx.get(f"{service.url}/about").json()["bundle"]}


def test_heat_maps_lie_over_the_cells_that_have_a_picture(
    microscope: Visitor, service: Served, watched: Watched
) -> None:
    own = answer_of(service, watched.cell("first.png"))
    watched.add("first.png", "gone.bmp", **own)
    maps = microscope.see("#watch-cells canvas")
    expect(microscope.see("#watch-cells img")).to_have_count(1)
    expect(maps).to_have_count(0)
    microscope.see("#watch-heat-toggle").check()
    expect(maps).to_have_count(1)
    expect(microscope.see("#watch-heat-note")).to_contain_text("it shows what moved the model, not what is ill")
    expect(microscope.see("#watch-heat-legend")).to_contain_text("speaks for ALL")
    microscope.page.emulate_media(media="print")
    for swatch in microscope.see("#watch-heat-legend .swatch").all():
        assert swatch.evaluate("swatch => getComputedStyle(swatch).printColorAdjust") == "exact"
    microscope.page.emulate_media(media="screen")
    watched.cell("second.png")
    watched.add("second.png", **own)
    expect(maps).to_have_count(2)
    microscope.see("#watch-heat-toggle").uncheck()
    expect(maps).to_have_count(0)
    expect(microscope.see("#watch-heat-legend")).to_be_hidden()


def test_a_heat_map_that_cannot_be_had_is_said_and_the_others_are_drawn(
    microscope: Visitor, service: Served, watched: Watched
) -> None:
    watched.cell("other.png")
    watched.add("own.png", **answer_of(service, watched.cell("own.png")))
    watched.add("other.png", bundle="ef" * 32)
    expect(microscope.see("#watch-cells img")).to_have_count(2)
    microscope.see("#watch-heat-toggle").check()
    cards = microscope.see("#watch-cells > li")
    expect(cards.nth(1).locator("canvas")).to_have_count(1)
    expect(cards.first).to_contain_text("No heat map: expected a row of the bundle that is served here")
    expect(cards.first.locator("canvas")).to_have_count(0)
    microscope.see("#watch-heat-toggle").uncheck()
    expect(microscope.see("#watch-cells .no-heat")).to_have_count(0)


def test_what_a_busy_service_refuses_is_asked_for_again(microscope: Visitor, service: Served, watched: Watched) -> None:
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        kind = route.request.url.split("/")[-2]
        if kind in refused:
            route.fallback()
        else:
            refused.append(kind)
            route.fulfill(status=503, json={"detail": "found too much to do"})

    microscope.page.route(re.compile("/watch/(pictures|explanations)/"), refuse_once)
    watched.add("own.png", **answer_of(service, watched.cell("own.png")))
    microscope.see("#watch-heat-toggle").check()
    expect(microscope.see("#watch-cells canvas")).to_have_count(1)
    assert refused == ["pictures", "explanations"]


def test_tabs_are_changed_by_arrow_keys(visitor: Visitor) -> None:
    visitor.is_ready().see("#images-tab").focus()
    visitor.page.keyboard.press("ArrowRight")
    expect(visitor.see("#microscope")).to_be_visible()
    expect(visitor.see("#images")).to_be_hidden()
    assert visitor.page.url.endswith("#microscope")
    visitor.page.keyboard.press("ArrowLeft")
    expect(visitor.see("#images")).to_be_visible()
