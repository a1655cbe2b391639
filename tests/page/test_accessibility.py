from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.page.served import Served
from tests.page.visitor import DESKTOP, PHONE, Browser, Visitor, about_with, expect
from tests.runtime.watched import Watched

MOST_STEPS = 40  # of the tabulator


def violations(visitor: Visitor) -> str:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the rules of axe come with dev")
    results = axe.Axe().run(visitor.page, options={"resultTypes": ["violations"]})
    report: str = results.generate_report()
    return report if results.violations_count else ""


def open_cell(visitor: Visitor) -> None:
    visitor.see("#cells tbody .open").first.click()
    visitor.see("#heat-toggle").check()
    expect(visitor.see("#heat-note")).to_contain_text("By class activation")


def open_subjects(visitor: Visitor) -> None:
    visitor.see("#view-subjects").click()
    visitor.set_threshold(0.7)


def open_card(visitor: Visitor) -> None:
    visitor.see("#open-card").click()
    expect(visitor.see("#card-text")).to_contain_text("compact")


def open_camera(visitor: Visitor) -> None:
    visitor.see("#open-camera").click()
    expect(visitor.see("#camera-note")).to_have_text("")


def open_microscope(visitor: Visitor) -> None:
    visitor.see("#microscope-tab").click()
    expect(visitor.see("#watch-cells > li").first).to_be_visible()


STATES: tuple[Callable[[Visitor], None], ...] = (open_subjects, open_cell, open_card, open_camera, open_microscope)


def close(visitor: Visitor) -> None:
    visitor.page.keyboard.press("Escape")
    visitor.see("#images-tab").click()
    visitor.see("#view-cells").click()


@pytest.mark.parametrize(
    ("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)], ids=["desktop", "dark", "phone"]
)
def test_no_rule_of_accessibility_is_broken_and_nothing_scrolls_sideways(
    browser: Browser,
    service: Served,
    watched: Watched,
    images: list[Path],
    cells: Path,
    size: tuple[int, int],
    dark: bool,
) -> None:
    watched.add("seen.bmp", "review.bmp", p_all=0.4, status="review")
    curve = [{"threshold": 0.5, "sensitivity": 0.9, "specificity": 0.8}]
    with Visitor(
        browser, service.url, size, dark=dark, before=about_with(explain="class activation", curve=curve)
    ) as visitor:
        heat = {"p_all": 0.9, "rows": 1, "columns": 1, "heat": [[1.0]], "method": "class activation"}
        visitor.page.route("**/explain", lambda route: route.fulfill(json=heat))
        visitor.is_ready()
        assert not violations(visitor), "empty"
        visitor.add([*images, cells / "broken.bmp"])
        visitor.waits_for(len(images) + 1)
        assert not violations(visitor), "with results"
        assert not visitor.scrolls_sideways()
        for state in STATES:
            state(visitor)
            assert not violations(visitor), state.__name__
            assert not visitor.scrolls_sideways(), state.__name__
            close(visitor)


def focused(visitor: Visitor) -> str:
    return str(visitor.page.evaluate("document.activeElement.id || document.activeElement.className"))


def tab_to(visitor: Visitor, wanted: str) -> None:
    for _ in range(MOST_STEPS):
        visitor.page.keyboard.press("Tab")
        if focused(visitor) == wanted:
            return
    raise AssertionError(f"{wanted} is not reached with the tabulator")


def test_all_is_done_with_the_keyboard_alone(visitor: Visitor, images: list[Path]) -> None:
    page, keyboard = visitor.is_ready().page, visitor.page.keyboard
    page.on("filechooser", lambda _: None)  # from now on no window of the system's opens
    tab_to(visitor, "open-card")
    keyboard.press("Enter")
    expect(visitor.see("#card-dialog")).to_be_visible()
    keyboard.press("Escape")
    expect(visitor.see("#open-card")).to_be_focused()
    tab_to(visitor, "choose-files")
    assert visitor.see("#choose-files").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files(images)
    visitor.waits_for(len(images))
    tab_to(visitor, "threshold-slider")
    keyboard.press("End")
    expect(visitor.see("#counts [data-kind=ALL] dd")).to_contain_text("0")
    tab_to(visitor, "threshold-reset")
    keyboard.press("Enter")
    expect(visitor.see("#threshold-slider")).to_be_focused()
    tab_to(visitor, "filter-text")
    keyboard.type("DRAWN_H")
    expect(visitor.see("#cells tbody tr")).to_have_count(3)
    tab_to(visitor, "view-subjects")
    keyboard.press("Space")
    expect(visitor.see("#subjects")).to_be_visible()
    keyboard.press("Shift+Tab")
    keyboard.press("Space")
    tab_to(visitor, "download")
    with page.expect_download():
        keyboard.press("Enter")
    tab_to(visitor, "open")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(visitor.see("#cell-facts")).to_contain_text("DRAWN_H2_6_1_hem.png")
    keyboard.press("Escape")
    expect(visitor.see("#cells tbody .open").nth(1)).to_be_focused()


def test_labels_do_not_rely_on_color(visitor: Visitor, images: list[Path]) -> None:
    visitor.add(images)
    visitor.waits_for(len(images))
    assert set(visitor.column("label")) <= {"▲ ALL", "○ healthy"}


def test_the_notice_stands_where_answers_are_read(visitor: Visitor, images: list[Path]) -> None:
    visitor.add(images[:1])
    visitor.waits_for(1)
    expect(visitor.see("#answers .notice")).to_contain_text("For research, not a diagnosis.")
    visitor.see("#cells tbody .open").click()
    expect(visitor.see("#cell-dialog .notice")).to_be_visible()
    visitor.page.keyboard.press("Escape")
    visitor.page.emulate_media(media="print")
    expect(visitor.see("#answers .notice")).to_be_visible()
    expect(visitor.see("#drop")).to_be_hidden()
