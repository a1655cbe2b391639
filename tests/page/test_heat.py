from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.page.served import Served
from tests.page.visitor import Browser, Page, Route, Visitor, about_with, expect

EXPLANATION = {"p_all": 0.9, "rows": 2, "columns": 2, "heat": [[1.0, 0.0], [0.0, -1.0]], "method": "class activation"}
COLOR_AT = """(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"""


def explaining(**answer: Any) -> Callable[[Page], object]:
    def prepare(page: Page) -> None:
        about_with(explain="class activation")(page)
        page.route("**/explain", lambda route: route.fulfill(**answer))

    return prepare


def test_what_speaks_for_which_answer_is_drawn_over_the_cell(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    with Visitor(browser, service.url, before=explaining(json=EXPLANATION)) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").first.click()
        assert visitor.see("#cell-picture canvas").count() == 0  # the cell is looked at first
        visitor.see("#heat-toggle").check()
        layer = visitor.see("#cell-picture canvas")
        expect(visitor.see("#heat-note")).to_contain_text("By class activation.")
        red, _, blue, opacity = layer.evaluate(COLOR_AT, [5, 5])
        assert red > 200 > 50 > blue
        assert 100 < opacity < 200  # the cell is still seen
        red, _, blue, opacity = layer.evaluate(COLOR_AT, [474, 474])
        assert blue > 200 > 50 > red
        assert layer.evaluate(COLOR_AT, [470, 5])[3] < 30
        expect(visitor.see("#heat-legend")).to_contain_text("speaks for ALL")
        visitor.see("#heat-toggle").uncheck()
        expect(layer).to_have_count(0)


def test_a_heat_map_that_cannot_be_had_is_said(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(
        browser, service.url, before=explaining(status=503, json={"detail": "found too much to do"})
    ) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").first.click()
        visitor.see("#heat-toggle").check()
        expect(visitor.see("#heat-note")).to_have_text("No heat map: found too much to do")


def test_a_heat_map_of_another_shape_is_refused(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(browser, service.url, before=explaining(json={**EXPLANATION, "rows": 3})) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").first.click()
        visitor.see("#heat-toggle").check()
        expect(visitor.see("#heat-note")).to_contain_text("expected a heat map of 3 x 2 numbers")


def test_the_services_own_map_is_drawn(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(browser, service.url) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").first.click()
        visitor.see("#heat-toggle").check()
        layer = visitor.see("#cell-picture canvas")
        expect(visitor.see("#heat-note")).to_contain_text("By ")
        opacities = [layer.evaluate(COLOR_AT, [x, y])[3] for x in (40, 160, 300, 440) for y in (40, 160, 300, 440)]
        assert max(opacities) > min(opacities)


def test_a_service_that_explains_nothing_offers_no_map(browser: Browser, service: Served, images: list[Path]) -> None:
    with Visitor(browser, service.url, before=about_with(explain="")) as visitor:
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.see("#cells tbody .open").first.click()
        expect(visitor.see("#cell-facts")).to_contain_text(images[0].name)
        expect(visitor.see("#cell-heat")).to_be_hidden()


def test_an_answer_that_comes_while_its_cell_is_open_is_shown(
    browser: Browser, service: Served, images: list[Path]
) -> None:
    held: list[Route] = []
    with Visitor(
        browser, service.url, before=lambda page: page.route("**/classify", lambda route: held.append(route))
    ) as visitor:
        visitor.add(images[:1])
        visitor.see("#cells tbody .open").first.click()
        facts = visitor.see("#cell-facts")
        expect(facts).to_contain_text(images[0].name)
        expect(facts).not_to_contain_text(re.compile("p_all|Answered by"))
        expect(visitor.see("#cell-heat")).to_be_hidden()
        visitor.page.wait_for_timeout(100)
        held[0].fallback()
        expect(facts).to_contain_text(re.compile("p_all.*Answered by"))
        expect(visitor.see("#cell-heat")).to_be_visible()
