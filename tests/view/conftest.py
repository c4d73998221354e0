"""One real Chromium for all page tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.needs import find_chromium

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium as the system ships it; a test that takes it needs_chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(FLAGS)
        )
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open an address; any error in the page, its console included, fails the test."""
    contexts, problems = [], []

    def open_it(
        url: str,
        *,
        width: int = 1280,
        height: int = 800,
        script: str = "",
        **options: Any,
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda m: (
                problems.append(m.text)
                if m.type == "error" and "ERR_CONNECTION_REFUSED" not in m.text
                else None  # the browser's own word on a server a test has closed
            ),
        )
        page.problems = problems
        page.goto(url)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until an expression of the page is true (its CSP forbids eval there)."""

    def wait(page: Page, expression: str, timeout_s: float = 45.0) -> Any:
        deadline_s = time.monotonic() + timeout_s
        while not (value := page.evaluate(expression)):
            assert time.monotonic() < deadline_s, f"never true: {expression}"
            page.wait_for_timeout(30)
        return value

    return wait
