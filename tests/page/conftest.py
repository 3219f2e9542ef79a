"""The page in a real Chromium: these tests run with `-m page` only, and are skipped where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(config, items):
    """Whatever else is selected: the page is asked for by its name."""
    if "page" in (config.option.markexpr or "").replace("not page", ""):
        if chromium() is None:
            pytest.exit("skipped: no Chromium on the PATH; install one, or set CHROMIUM", returncode=0)
        return
    others = [item for item in items if item.get_closest_marker("page")]
    items[:] = [item for item in items if not item.get_closest_marker("page")]
    config.hook.pytest_deselected(items=others)


def chromium() -> str | None:
    """The path of a Chromium of the system."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser():
    """A Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install '.[page]'")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Opens the page of a double; console errors and requests to other hosts fail the test at its end."""
    contexts, wrong = [], []

    def opened(double, width=1280, height=860, expected=(), **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)

        def said(message):
            if message.type == "error" and not any(word in message.text for word in expected):
                wrong.append(message.text)

        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(double.address) or wrong.append(request.url))
        page.goto(double.address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong
