from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.page.served import Served
from tests.page.visitor import DESKTOP, PHONE, Browser, Visitor, about_with, expect, made_file
from tests.runtime.watched import Watched

MOST_STEPS = 40  # of the tabulator
WIDER_PHONE = (390, 844)
TABLET = (700, 900)
IS_COVERED = """(one) => {
  const { x, y, height } = one.getBoundingClientRect();
  return !one.contains(document.elementFromPoint(x + 5, y + height / 2));
}"""

LINES = """(one) => {
  const lines = new Map();
  const walker = document.createTreeWalker(one, NodeFilter.SHOW_TEXT);
  for (const range = document.createRange(); walker.nextNode();) {
    for (let place = 0; place < walker.currentNode.length; place += 1) {
      range.setStart(walker.currentNode, place);
      range.setEnd(walker.currentNode, place + 1);
      const { top } = range.getBoundingClientRect();
      lines.set(top, (lines.get(top) ?? '') + range);
    }
  }
  return [...lines.values()];
}"""


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
    visitor.see("#watch-heat-toggle").check()


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
    watched.add("seen.bmp", "review.bmp", p_all=0.4, status="review", warning="WARNING: taken together")
    curve = [{"threshold": 0.5, "sensitivity": 0.9, "specificity": 0.8}]
    mean = {"measure": "brightness", "low": 0, "high": 1, "is_share": False, "text": "mean brightness {mean}"}
    shift = {"fewest_cells": 1, "means": [mean], "text": "WARNING: {cells} cells: {unusual}"}
    about = about_with(explain="class activation", curve=curve, shift=shift)
    with Visitor(browser, service.url, size, dark=dark, before=about) as visitor:
        heat = {"p_all": 0.9, "rows": 1, "columns": 1, "heat": [[1.0]], "method": "class activation"}
        visitor.page.route("**/explain", lambda route: route.fulfill(json=heat))
        visitor.is_ready()
        assert not visitor.violations(), "empty"
        visitor.add([*images, cells / "broken.bmp"])
        visitor.waits_for(len(images) + 1)
        expect(visitor.see("#shift")).to_contain_text(f"WARNING: {len(images)} cells: mean brightness")
        assert not visitor.violations(), "with results"
        assert not visitor.scrolls_sideways()
        for state in STATES:
            state(visitor)
            assert not visitor.violations(), state.__name__
            assert not visitor.scrolls_sideways(), state.__name__
            close(visitor)


def test_with_forced_colors_one_sees_what_is_pressed_and_how_long_a_bar_is(
    visitor: Visitor, images: list[Path]
) -> None:
    visitor.page.emulate_media(forced_colors="active")
    visitor.add(images[:1])
    visitor.waits_for(1)
    background = "(one, part) => getComputedStyle(one, part).backgroundColor"
    pressed, other = (visitor.see(f"#view-{name}").evaluate(background) for name in ("cells", "subjects"))
    assert pressed != other
    bar = visitor.see("#cells .bar")
    assert bar.evaluate(background) != bar.evaluate(background, "::before")


def test_controls_do_not_overlap_on_a_phone(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(browser, service.url, WIDER_PHONE) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        key, direction = (visitor.see(f"#sort-{name}").bounding_box() for name in ("key", "direction"))
        assert key
        assert direction
        assert key["x"] + key["width"] <= direction["x"] or key["y"] + key["height"] <= direction["y"]


def test_no_number_of_the_models_card_is_broken_on_a_phone(browser: Browser, service: Served) -> None:
    with Visitor(browser, service.url, PHONE) as visitor:
        visitor.is_ready()
        open_card(visitor)
        lines = visitor.see("#card-text td").evaluate_all(
            """cells => cells.flatMap((cell) => {
              const text = cell.firstChild;
              return [...text.data.matchAll(/\\S+/g)].map((word) => {
                const range = document.createRange();
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                return range.getClientRects().length;
              });
            })"""
        )
        assert lines
        assert set(lines) == {1}


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


def test_nothing_of_a_cells_facts_has_to_be_scrolled(visitor: Visitor, images: list[Path]) -> None:
    visitor.add(images[:1])
    visitor.waits_for(1)
    visitor.see("#cells tbody .open").click()
    hidden = visitor.see("#cell-facts dd").evaluate_all("all => all.map((one) => one.scrollHeight - one.clientHeight)")
    assert hidden == [0] * len(hidden)


def test_headings_are_read_without_their_arrows(visitor: Visitor, images: list[Path]) -> None:
    visitor.add(images[:1])
    visitor.waits_for(1)
    visitor.see("#cells [data-sort=p_all]").click()
    for name in ("File", "p_all"):
        expect(visitor.page.get_by_role("button", name=name, exact=True)).to_be_visible()


def test_a_narrow_place_breaks_a_name_behind_an_underscore(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    names = [f"UID_H{'2' * digits}_33_10_hem.png" for digits in range(1, 7)]
    with Visitor(browser, service.url, PHONE) as visitor:
        visitor.add([made_file(name, images[0].read_bytes()) for name in names])
        visitor.waits_for(len(names))
        for place, name in enumerate(names):
            lines = visitor.see("#cells tbody bdi").nth(place).evaluate(LINES)
            assert "".join(lines) == name
            assert all(line.endswith("_") for line in lines[:-1]), lines


def test_one_cell_in_full_is_not_cut_off_on_a_tablet(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(browser, service.url, TABLET) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").click()
        for fact in visitor.see("#cell-facts dd").all():
            assert fact.evaluate("fact => fact.scrollHeight <= fact.clientHeight"), fact.inner_text()


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


def test_the_headings_never_cover_the_row_that_has_the_focus(visitor: Visitor, images: list[Path]) -> None:
    visitor.add([made_file(f"{number}.png", images[0].read_bytes()) for number in range(30)])
    visitor.waits_for(30)
    rows = visitor.see("#cells tbody .open")
    rows.last.focus()
    for place in reversed(range(29)):
        visitor.page.keyboard.press("ArrowUp")
        expect(rows.nth(place)).to_be_focused()
        assert not rows.nth(place).evaluate(IS_COVERED), place
