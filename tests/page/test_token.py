from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.served import Served, served
from tests.page.visitor import DESKTOP, PHONE, Browser, Visitor, expect

TOKEN = "a-token-for-the-tests"  # noqa: S105  of no other service


@pytest.fixture(scope="module")
def guarded(browser: Browser) -> Iterator[Served]:
    with served(ALLNET_TOKEN=TOKEN) as one:
        yield one


def test_the_token_is_asked_for_and_kept_until_the_tab_is_closed(
    browser: Browser, guarded: Served, images: list[Path]
) -> None:
    with Visitor(browser, guarded.url) as visitor:
        visitor.see("#token").fill(TOKEN.replace("-", "\u2013"))  # as editors change it; no request could bring it
        visitor.page.keyboard.press("Enter")
        expect(visitor.see("#token")).to_be_focused()
        visitor.see("#token").fill("another-token-that-is-wrong")
        visitor.page.keyboard.press("Enter")
        expect(visitor.see("#token-note")).to_contain_text("The service does not accept this token.")
        visitor.see("#token").fill(f" {TOKEN} ")
        visitor.page.keyboard.press("Enter")
        visitor.add(images[:1])
        visitor.waits_for(1)
        visitor.page.reload()
        visitor.is_ready()
        assert visitor.page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [
            [TOKEN],
            0,
            "",
        ]


def test_without_a_token_the_page_says_what_is_missing_and_asks_again(browser: Browser, guarded: Served) -> None:
    with Visitor(browser, guarded.url) as visitor:
        expect(visitor.see("#token")).to_be_focused()
        visitor.page.keyboard.press("Escape")
        expect(visitor.see("#origin")).to_contain_text("expected the header Authorization: Bearer TOKEN")
        expect(visitor.see("#choose-files")).to_be_hidden()
        visitor.see("#ask-again").click()
        visitor.see("#token").fill(TOKEN)
        visitor.page.keyboard.press("Enter")
        expect(visitor.is_ready().see("#choose-files")).to_be_visible()


@pytest.mark.parametrize(
    ("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)], ids=["desktop", "dark", "phone"]
)
def test_no_rule_of_accessibility_is_broken_while_the_token_is_asked_for(
    browser: Browser, guarded: Served, size: tuple[int, int], dark: bool
) -> None:
    with Visitor(browser, guarded.url, size, dark=dark) as visitor:
        expect(visitor.see("#token")).to_be_focused()
        assert not visitor.violations()
        visitor.see("#token").fill("another-token-that-is-wrong")
        visitor.page.keyboard.press("Enter")
        expect(visitor.see("#token-note")).to_contain_text("does not accept")
        assert not visitor.violations(), "refused"
        assert not visitor.scrolls_sideways()
        visitor.page.keyboard.press("Escape")
        expect(visitor.see("#origin")).to_contain_text("expected the header")
        assert not visitor.violations(), "put away"
