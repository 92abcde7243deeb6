"""The live page in a real browser: it shows what the status says, asks for a key, and runs nobody else's script."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.chromium import Browser, browser
from tests.watched_gateway import Timed, told, watched_gateway

pytestmark = pytest.mark.service

_SHOWN = "!document.getElementById('all').hidden && document.querySelectorAll('#rows tr').length > 10"
_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def cell(page: Browser, name: str, side: int) -> str:
    """What stands in the first row of this name."""
    rows = "[...document.querySelectorAll('#rows tr')]"
    return str(
        await page.value(f"{rows}.find(row => row.cells[0].textContent === '{name}')?.cells[{side}].textContent")
    )


@pytest.mark.parametrize("width", [360, 1400])
def test_it_shows_what_the_status_says(tmp_path: Path, width: int) -> None:
    async def run() -> None:
        async with watched_gateway(tmp_path, candidate=Timed(last="five")) as one, browser() as page:
            for number in range(20):
                await one.ask(f"prompt {number}", **_USAGE)
            await one.read(20)
            await asyncio.sleep(1.1)
            verdict = "<img src=x onerror=alert(1)>"
            one.gateway.standing.followed(told("fail", verdict, pairs=20))
            await page.open(f"{one.base}/", width)
            await page.until(_SHOWN)
            assert verdict in str(await page.value("document.getElementById('verdict').textContent"))
            assert await page.value("document.querySelectorAll('img').length") == 0, "text, and no element"
            assert await cell(page, "share of clients", 1) == "100 %"
            assert await cell(page, "output", 1) == await cell(page, "output", 2) == "80"
            assert "MADE UP" in str(await page.value("document.body.textContent"))
            assert "0 % of 20" in str(await page.value("document.getElementById('pairs').textContent"))
            assert await page.value("document.documentElement.scrollWidth") <= width
            assert page.complaints == []
            # Nothing but the page's own script runs in it.
            await page.do(
                "Runtime.evaluate",
                expression="document.body.append(Object.assign(document.createElement("
                "'script'), {textContent: 'window.foreign = 1'}))",
            )
            assert await page.value("window.foreign") is None
            one.gateway.standing.followed(told())
            await page.until("document.getElementById('verdict').textContent === 'No verdict yet.'")

    asyncio.run(run())


def test_it_asks_for_a_key_and_tells_a_gateway_that_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        keys = ["sha256:" + hashlib.sha256(b"word").hexdigest()]
        async with browser() as page:
            async with watched_gateway(tmp_path, listen={"api_keys": keys}) as one:
                await page.open(f"{one.base}/live")
                await page.until("!document.getElementById('door').hidden")
                assert await page.value("document.getElementById('all').hidden")
                for key, then in (
                    ("other", "document.body.textContent.includes('does not know this key')"),
                    ("word", _SHOWN),
                ):
                    await page.value(f"document.getElementById('key').value = '{key}'")
                    await page.value("document.querySelector('form button').click()")
                    await page.until(then)
                assert await page.value("document.getElementById('door').hidden")
                assert await page.value("Object.keys(localStorage).length + document.cookie.length") == 0
            await page.until("document.getElementById('trouble').textContent.includes('does not answer')")
            assert not await page.value("document.getElementById('trouble').hidden")

    asyncio.run(run())
