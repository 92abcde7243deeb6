"""The live page in a real browser: it shows what the status says, asks for a key, and runs nobody else's script."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.chromium import Heard, chromium_beside
from tests.watched_gateway import Timed, told, watched_gateway

pytestmark = pytest.mark.service

_SHOWN = "() => !document.getElementById('all').hidden && document.querySelectorAll('#rows tr').length > 10"
_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def cell(page: Page, name: str, side: int) -> str:
    """What stands in the first row of this name."""
    row = page.locator("#rows tr").filter(has=page.get_by_text(name, exact=True)).first
    return await row.locator("td").nth(side).inner_text()


@pytest.mark.parametrize("width", [360, 1400])
def test_it_shows_what_the_status_says(tmp_path: Path, width: int) -> None:
    async def run() -> None:
        async with watched_gateway(tmp_path, candidate=Timed(last="five")) as one, chromium_beside() as browser:
            for number in range(20):
                await one.ask(f"prompt {number}", **_USAGE)
            await one.read(20)
            await asyncio.sleep(1.1)
            verdict = "<img src=x onerror=alert(1)>"
            one.gateway.standing.followed(told("fail", verdict, pairs=20))
            page = await browser.new_page(viewport={"width": width, "height": 900})
            heard = Heard(page)
            await page.goto(f"{one.base}/")
            await page.wait_for_function(_SHOWN)
            assert verdict in await page.inner_text("#verdict")
            assert await page.locator("img").count() == 0, "text, and no element"
            assert await cell(page, "share of clients", 1) == "100 %"
            assert await cell(page, "output", 1) == await cell(page, "output", 2) == "80"
            assert "MADE UP" in await page.inner_text("body")
            assert "0 % of 20" in await page.inner_text("#pairs")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert heard.complaints == []
            # Nothing but the page's own script runs in it.
            await page.evaluate(
                "document.body.append(Object.assign("
                "document.createElement('script'), {textContent: 'window.foreign = 1'}))"
            )
            assert await page.evaluate("window.foreign") is None
            one.gateway.standing.followed(told())
            await expect(page.locator("#verdict")).to_have_text("No verdict yet.", timeout=30_000)

    asyncio.run(run())


def test_it_asks_for_a_key_and_tells_a_gateway_that_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        keys = ["sha256:" + hashlib.sha256(b"word").hexdigest()]
        async with chromium_beside() as browser:
            page = await browser.new_page()
            async with watched_gateway(tmp_path, listen={"api_keys": keys}) as one:
                await page.goto(f"{one.base}/live")
                await expect(page.locator("#door")).to_be_visible()
                await expect(page.locator("#all")).to_be_hidden()
                await page.fill("#key", "other")
                await page.click("form button")
                await expect(page.get_by_text("does not know this key")).to_be_visible()
                await page.fill("#key", "word")
                await page.click("form button")
                await page.wait_for_function(_SHOWN)
                await expect(page.locator("#door")).to_be_hidden()
                assert await page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
            await expect(page.locator("#trouble")).to_contain_text("does not answer", timeout=30_000)

    asyncio.run(run())
