from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.page.served import Served
from tests.page.visitor import Browser, Page, Route, Visitor, about_with, expect, made_file

CURVE = [{"threshold": step / 20, "sensitivity": 1 - step / 20, "specificity": step / 40 + 0.5} for step in range(21)]
MORE_THAN_A_PAGE = 104
COUNT_ON_PAPER = """() => {
  const count = (what) => document.querySelectorAll(`#cells tbody ${what}`).length;
  window.addEventListener('beforeprint', () => { window.rowsOnPaper = count('tr'); });
  window.print = () => { window.picturesOnPaper = count('img'); };
}"""


@pytest.fixture
def answered(visitor: Visitor, images: list[Path], cells: Path) -> Visitor:
    visitor.add([*images, cells / "broken.bmp"])
    visitor.waits_for(len(images) + 1)
    return visitor


def test_every_column_sorts_both_ways_and_what_is_missing_stays_last(answered: Visitor) -> None:
    for key, column in (("p_all", "p"), ("label", "label"), ("seconds", "seconds"), ("status", "status")):
        button, heading = answered.see(f"[data-sort={key}]"), answered.see(f"th:has([data-sort={key}])")
        seen = {}
        for _ in range(2):
            before = heading.get_attribute("aria-sort") or "none"
            button.click()
            expect(heading).to_have_attribute("aria-sort", re.compile(f"^(?!{before})"))
            seen[heading.get_attribute("aria-sort")] = [text.split()[-1] for text in answered.column(column) if text]
        if key == "label":
            assert seen["ascending"].pop() == seen["descending"].pop()  # of the file that has none
        assert seen["ascending"] == sorted(seen["ascending"])
        assert seen["descending"] == sorted(seen["ascending"], reverse=True)


def test_files_sort_as_people_count(visitor: Visitor, images: list[Path]) -> None:
    data = images[0].read_bytes()
    visitor.add([{"name": f"cell {n}.png", "mimeType": "image/png", "buffer": data} for n in (10, 9, 100, 1)])
    visitor.waits_for(4)
    visitor.see("[data-sort=path]").click()
    expect(visitor.see("#cells tbody bdi")).to_have_text(["cell 1.png", "cell 9.png", "cell 10.png", "cell 100.png"])
    visitor.see("#sort-key").select_option("id")
    expect(visitor.see("#cells tbody bdi")).to_have_text(["cell 10.png", "cell 9.png", "cell 100.png", "cell 1.png"])


def test_rows_are_filtered_by_label_status_and_name(answered: Visitor, images: list[Path]) -> None:
    answered.see("#filter-label").select_option("ALL")
    expect(answered.see("#shown")).to_contain_text("the CSV has all")
    assert set(answered.column("label")) == {"▲ ALL"}
    assert len(answered.names()) == answered.counts()["ALL"]
    answered.see("#filter-label").select_option("")
    answered.see("#filter-status").select_option("error")
    expect(answered.see("#cells tbody bdi")).to_have_text(["broken.bmp"])
    answered.see("#filter-status").select_option("")
    answered.see("#filter-text").fill("drawn_h1")
    expect(answered.see("#cells tbody bdi")).to_have_text(["DRAWN_H1_3_1_hem.png"])
    expect(answered.see("#shown")).to_have_text(f"1 of {len(images) + 1} shown; the CSV has all.")
    assert len(answered.download()[1]) == len(images) + 1


def test_the_threshold_moves_labels_and_counts_and_goes_back(answered: Visitor) -> None:
    before = answered.counts()
    expect(answered.see("#threshold-note")).to_have_text("This is the bundle's threshold, 0.5.")
    expect(answered.see("#threshold-reset")).to_be_hidden()
    answered.see("#threshold-slider").focus()
    for _ in range(3):
        answered.page.keyboard.press("ArrowRight")
    expect(answered.see("#threshold-number")).to_have_value("0.515")
    answered.set_threshold(1)
    expect(answered.see("#counts [data-kind=ALL] dd")).to_have_text(re.compile(r"^0\b"))
    assert answered.counts()["healthy"] == before["ALL"] + before["healthy"]
    assert "▲ ALL" not in answered.column("label")
    assert answered.see("#threshold-note").inner_text().startswith("Not the bundle's threshold: 1 is shown,")
    name, rows = answered.download()
    assert name == "allnet-threshold-1.csv"
    assert {row["label"] for row in rows} == {"healthy", ""}
    answered.see("#threshold-reset").click()
    expect(answered.see("#threshold-note")).to_have_text("This is the bundle's threshold, 0.5.")
    expect(answered.see("#counts [data-kind=ALL] dd")).to_contain_text(str(before["ALL"]))
    assert answered.counts() == before


def test_a_threshold_is_typed_while_answers_come_in_and_what_is_none_changes_nothing(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    held: list[Route] = []

    def prepare(page: Page) -> None:
        about_with(threshold=0.613)(page)  # between two steps of the slider
        page.route("**/classify", lambda route: held.append(route))

    with Visitor(browser, service.url, before=prepare) as visitor:
        visitor.add(images[:1])
        number = visitor.see("#threshold-number")
        number.select_text()  # which waits until it is shown
        number.press_sequentially("0.2")
        held[0].fallback()
        visitor.waits_for(1)
        expect(number).to_have_value("0.2")
        number.press("Enter")
        expect(visitor.see("#threshold-note")).to_contain_text("0.2 is shown")
        visitor.set_threshold(0.613)
        for wrong in ("7", ""):
            number.fill(wrong)
            number.press("Enter")
            expect(number).to_have_value("0.613")
        expect(visitor.see("#threshold-note")).to_contain_text("0.613 is shown")


def test_sensitivity_and_specificity_are_those_of_the_bundles_curve(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    with Visitor(browser, service.url, before=about_with(curve=CURVE)) as visitor:
        visitor.add(images)
        visitor.waits_for(len(images))
        visitor.set_threshold(0.81)
        point = visitor.see("#operating-point")
        expect(point).to_contain_text("Sensitivity20.0 %")
        expect(point).to_contain_text("Specificity90.0 %")
        expect(point).to_contain_text("Measured on the bundle's validation cells at 0.8, not on yours")


def test_only_none_is_no_share_and_only_all_are_a_whole_one(visitor: Visitor) -> None:
    shares = [(0, 300), (300, 300), (1, 300), (299, 300), (1, 3000), (2999, 3000), (133, 200), (67, 200)]
    shown = visitor.call("counts.js", "given.map(([count, total]) => module.percent(count, total))", shares)
    assert shown == ["0 %", "100 %", "0.3 %", "99.7 %", "<0.1 %", ">99.9 %", "66.5 %", "33.5 %"]


def test_a_bundle_without_a_curve_says_so(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(browser, service.url, before=about_with(curve=[])) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        expect(visitor.see("#operating-point")).to_contain_text("does not say which sensitivity")


def test_a_service_with_another_threshold_than_the_bundles_says_so(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    with Visitor(browser, service.url, before=about_with(threshold=0.6)) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        expect(visitor.see("#threshold-note")).to_have_text(
            "Not the bundle's threshold: 0.6 is shown, the bundle's is 0.5. The service was started with it."
        )


def test_subjects_are_counted_whatever_is_filtered(answered: Visitor) -> None:
    answered.see("#filter-label").select_option("ALL")
    answered.see("#view-subjects").click()
    expect(answered.see("#filters")).to_be_hidden()
    lines = [line.split("\t") for line in answered.see("#subjects tbody tr").all_inner_texts()]
    assert [line[:2] for line in lines] == [
        ["1", "2"],
        ["2", "2"],
        ["3", "2"],
        ["H1", "1"],
        ["H2", "1"],
        ["H3", "1"],
        ["(unknown)", "0"],
    ]
    assert {line[3] for line in lines} == {"insufficient", "unknown"}
    expect(answered.see("#shown")).to_have_text("10 counted, whatever is filtered.")
    name, rows = answered.download()
    assert name == "allnet-threshold-0.5.subjects.csv"
    assert rows[0]["group"] == "1"


def test_one_cell_is_shown_in_full_and_the_next_by_an_arrow_key(answered: Visitor, images: list[Path]) -> None:
    answered.see("#cells tbody .open").first.click()
    facts = answered.see("#cell-facts")
    expect(facts).to_contain_text(images[0].name)
    expect(answered.see("#cell-picture img")).to_be_visible()
    answered.page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text(images[1].name)
    answered.page.keyboard.press("Escape")
    expect(answered.see("#cell-dialog")).to_be_hidden()
    expect(answered.see("#cells tbody .open").nth(1)).to_be_focused()


def test_the_models_card_is_shown_with_its_headings_and_tables(visitor: Visitor) -> None:
    visitor.is_ready().see("#open-card").click()
    card = visitor.see("#card-text")
    expect(card.locator("h3")).to_have_text("compact: ALL or healthy, from the image of one white blood cell")
    expect(card.locator("h4").first).to_have_text("What it does")
    expect(card.locator("th").first).to_have_text("accuracy")
    expect(card.locator("strong").first).to_have_text("For research, not a diagnosis.")
    assert not re.search(r"\*\*|`|^[#|]", card.inner_text(), re.MULTILINE), "nothing of Markdown is left"
    visitor.page.keyboard.press("Escape")
    expect(visitor.see("#open-card")).to_be_focused()


def test_which_model_answers_is_said(visitor: Visitor) -> None:
    expect(visitor.is_ready().see("#origin")).to_contain_text("compact fp32 on ONNX Runtime")
    expect(visitor.see("#origin")).to_contain_text("bundle ")


def test_paper_gets_all_rows_that_pass_the_filter_and_waits_for_their_pictures(
    visitor: Visitor, images: list[Path]
) -> None:
    page, rows = visitor.page, visitor.see("#cells tbody tr")
    names = ["other.png", *(f"cell {number}.png" for number in range(MORE_THAN_A_PAGE))]
    visitor.add([made_file(name, images[0].read_bytes()) for name in names])
    expect(visitor.see("#pager")).to_be_visible()
    visitor.see("#filter-text").fill("cell")
    visitor.see("[data-page=next]").click()
    expect(rows).to_have_count(4)
    page.evaluate(COUNT_ON_PAPER)
    page.pdf()
    assert page.evaluate("window.rowsOnPaper") == MORE_THAN_A_PAGE
    expect(rows).to_have_count(4)
    page.keyboard.press("Control+p")
    page.wait_for_function("() => window.picturesOnPaper")
    assert page.evaluate("window.picturesOnPaper") == MORE_THAN_A_PAGE
