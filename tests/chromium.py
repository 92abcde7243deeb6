"""The system's Chromium, driven by Playwright: without a window, a network of its own, or another's profile."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from playwright import async_api, sync_api

_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Heard:
    """What a page said and asked for since it was made."""

    def __init__(self, page: Any) -> None:
        self.complaints: list[str] = []
        """What it wrote to the console, what its policy forbade, and errors nobody caught."""
        self.requests: list[str] = []
        """URLs, that of the page itself among them."""
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


def _program() -> str:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "chromium is not here: `make services` installs it"
    return program


@contextmanager
def chromium() -> Iterator[sync_api.Browser]:
    """For pages that are files."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_program(), args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@asynccontextmanager
async def chromium_beside() -> AsyncIterator[async_api.Browser]:
    """For pages that a server of this very process serves."""
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_program(), args=_OPTIONS)
        try:
            yield browser
        finally:
            await browser.close()
