"""A real browser for the tests of pages, and a run over a small data set to look at."""

import contextlib
import shutil

import pytest
from bright_places import Pictures, explained

from jaxplain.page import gallery

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(_NAMES)}")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Opens a page of its own; scripts' errors, dialogs and forbidden requests fail the test."""
    wrong: list[str] = []

    def said(message, expected):
        if message.type == "error" and not (expected and expected in message.text):
            wrong.append(message.text)

    with contextlib.ExitStack() as open_now:

        def visit(
            url, *, width=1280, scheme="light", selector="#grid a", state="visible", expected=None
        ):
            size = {"width": width, "height": 900}
            context = browser.new_context(viewport=size, color_scheme=scheme)
            open_now.callback(context.close)
            context.set_default_timeout(20_000)
            page = context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
            page.on("console", lambda message: said(message, expected))
            page.goto(url)
            if selector:
                page.wait_for_selector(selector, state=state)
            return page

        yield visit
    assert wrong == []


@pytest.fixture(scope="session")
def serious():
    """What axe-core finds serious on a page."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()

    def serious(page):
        found = axe.run(page, options={"preload": False}).response["violations"]
        return [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    return serious


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A gallery of 150 records."""
    folder = tmp_path_factory.mktemp("pictures")
    source = Pictures(150)
    gallery(explained(folder / "maps", source), source, folder / "page")
    return folder / "page"
