"""The page, served by this process, and a browser: Debian's chromium, driven by playwright. Run by `make test-web`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from escnet.app.limits import Limits
from escnet.app.models import SHIPPED, LoadedModels

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

LIMITS = Limits(pixels=200_000, words=12, upload_megabytes=1)


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave the folder alone, unless its mark is asked for: -m web."""
    return None if "web" in config.getoption("markexpr") else True


@pytest.fixture(scope="session")
def models() -> LoadedModels:
    models = LoadedModels(SHIPPED, "cpu")
    for name in models.names:
        models.segmenter(name)
    return models


@pytest.fixture(scope="session")
def url(models: LoadedModels) -> Iterator[str]:
    from escnet.app.serving import serving

    with serving(models, LIMITS) as served:
        yield served.url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "there is no chromium; install Debian's package, or name one by CHROMIUM=PATH"
    # As root chromium has no sandbox; its camera is a moving picture of its own.
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> dict[str, BrowserContext]:
    """Browsers for light and for dark colours, whose tabs share what they have loaded, which takes a second."""
    granted = ["camera", "clipboard-read", "clipboard-write"]
    return {
        scheme: browser.new_context(color_scheme=scheme, accept_downloads=True, permissions=granted)
        for scheme in ("light", "dark")
    }


@pytest.fixture
def new_page(contexts: dict[str, BrowserContext], url: str) -> Iterator[Callable[..., Page]]:
    """Opens the page in a tab, which is a user of his own: ``new_page(width=360, scheme="dark")``."""
    pages: list[Page] = []

    def open_page(width: int = 1440, height: int = 1000, scheme: str = "light") -> Page:
        page = contexts[scheme].new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(20_000)
        page.asked = []
        page.broken = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.broken.append(str(error)))
        page.goto(url)
        page.get_by_role("button", name="Segment", exact=True).wait_for()
        return page

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    return new_page()


@pytest.fixture
def screenshots() -> Path | None:
    """Where pictures of the page are kept, if ESCNET_SCREENSHOTS names a folder."""
    folder = os.environ.get("ESCNET_SCREENSHOTS")
    return Path(folder) if folder else None
