"""Somebody who uses the page; fails at the end if the page's code failed or its policy was broken."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright: pip install -e '.[dev]'")

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, Request, Response, Route, expect

# The tests take from here what they need of Playwright, so that without it they are skipped in one place.
__all__ = [
    "DESKTOP",
    "PHONE",
    "Browser",
    "Dialog",
    "Page",
    "Request",
    "Response",
    "Route",
    "Visitor",
    "about_with",
    "expect",
    "made_file",
]

DESKTOP = (1280, 900)
PHONE = (360, 740)
EXPECTED_ERRORS = "Failed to load resource"  # what Chromium says of each answer that is not 200
Json = dict[str, Any]


class Visitor:
    """A page in a browser profile of its own."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        size: tuple[int, int] = DESKTOP,
        *,
        dark: bool = False,
        before: Callable[[Page], object] = lambda page: None,
    ) -> None:
        """`before` prepares the page, such as its network, before it is opened."""
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            permissions=["camera"],
        )
        self._context.set_default_timeout(15_000)
        self.page = self._context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._take_note)
        before(self.page)
        self.page.goto(url)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._context.close()
        if kind is None:
            assert not self.faults

    def _take_note(self, message: ConsoleMessage) -> None:
        if message.type == "error" and EXPECTED_ERRORS not in message.text:
            self.faults.append(message.text)

    def see(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def is_ready(self) -> Visitor:
        """Wait until the page knows what answers."""
        expect(self.see("#origin")).to_contain_text("This service answers with")
        return self

    def add(self, files: Sequence[Path] | Sequence[Json]) -> None:
        """Choose files, real ones or made ones (name, mimeType, buffer)."""
        self.is_ready()
        self.page.set_input_files("#files", files)  # type: ignore[arg-type]  # it takes a list of either

    def drop(self, *paths: Path, at: str = "#drop") -> None:
        """Drop files and folders from outside the browser."""
        session = self._context.new_cdp_session(self.page)
        box = self.see(at).bounding_box()
        assert box
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data})

    def waits_for(self, answered: int, of: int | None = None) -> None:
        """Wait until so many files are answered."""
        expect(self.see("#progress-text")).to_contain_text(f"{answered:,} of {of or answered:,} answered")
        if of is None:
            expect(self.see("#stop")).to_be_hidden()

    def names(self) -> list[str]:
        return self.see("#cells tbody .open").all_inner_texts()

    def column(self, name: str) -> list[str]:
        return [" ".join(text.split()) for text in self.see(f"#cells tbody td.{name}").all_inner_texts()]

    def counts(self, where: str = "#counts") -> dict[str, int]:
        """The numbers in the tiles, by label and status."""
        tiles = self.see(f"{where} [data-kind]")
        found = tiles.evaluate_all(
            "all => all.map(one => [one.dataset.kind, one.querySelector('dd span').textContent])"
        )
        return {kind: int(count.replace(",", "")) for kind, count in found}

    def download(self) -> tuple[str, list[Json]]:
        """Return the name and the rows of the CSV."""
        with self.page.expect_download() as found:
            self.see("#download").click()
        text = found.value.path().read_bytes().decode()
        return found.value.suggested_filename, list(csv.DictReader(io.StringIO(text, newline="")))

    def set_threshold(self, threshold: float) -> None:
        self.see("#threshold-number").fill(str(threshold))
        self.see("#threshold-number").press("Enter")

    def call(self, module: str, expression: str, argument: object = None) -> Any:
        """Evaluate an expression on a module of the page, `module`, and an argument, `given`."""
        return self.page.evaluate(
            f"async (given) => {{ const module = await import('/static/{module}'); return {expression}; }}", argument
        )

    def violations(self) -> str:
        """Return what axe says against the page as it stands, empty for nothing."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the rules of axe come with dev")
        results = axe.Axe().run(self.page, options={"resultTypes": ["violations"]})
        report: str = results.generate_report()
        return report if results.violations_count else ""

    def scrolls_sideways(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def about_with(**changes: Any) -> Callable[[Page], object]:
    """Let /about say other things."""

    def change(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), **changes})

    return lambda page: page.route("**/about", change)


def made_file(name: str, data: bytes) -> Json:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}
