"""A real service in a process of its own, and a real browser before it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime.demo import demo_cells
from tests.runtime.watched import Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.page.served import Served
    from tests.page.visitor import Visitor

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",  # tests may run as root
    "--use-fake-device-for-media-stream=device-count=2",
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for all tests of the page; Playwright's event loop ends with it, so that others can run theirs."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"the page is tested in Chromium, which is not installed (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The folder and database that the service follows."""
    return Watched(tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="package")
def service(browser: Browser, watched: Watched) -> Iterator[Served]:
    """A service with the model of the package."""
    from tests.page.served import served

    with served("--watch-db", str(watched.database), "--watch-folder", str(watched.folder)) as one:
        yield one


@pytest.fixture
def visitor(browser: Browser, service: Served) -> Iterator[Visitor]:
    """Somebody who opens the page on a desktop."""
    from tests.page.visitor import Visitor

    with Visitor(browser, service.url) as one:
        yield one


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder with the drawn cells in folders, a file that is no image, and files that lie beside images."""
    folder = tmp_path / "cells"
    for path in demo_cells():
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "broken.bmp").write_text("no image")
    (folder / "results.csv").write_text("path,label\n")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def images() -> list[Path]:
    """The drawn cells."""
    return [Path(path) for path in demo_cells()]
