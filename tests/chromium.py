"""A real browser without a window, spoken to by its own protocol (Chrome DevTools Protocol)."""

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-port=0",
    "about:blank",
)


class Browser:
    """One page of it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """What the page wrote to the console, and what its policy forbade."""

    async def do(self, method: str, **asked: Any) -> dict[str, Any]:
        """One command; what it gives."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": asked})
        async with asyncio.timeout(30):
            while True:
                told = json.loads((await self._socket.receive()).data)
                if told.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                    self.complaints.append(json.dumps(told["params"]))
                if told.get("id") == number:
                    assert "error" not in told, told
                    return dict(told["result"])

    async def open(self, url: str, width: int = 1000, *, dark: bool = False) -> None:
        """Show a page as a screen of this width does."""
        await self.do("Log.enable")
        await self.do("Runtime.enable")
        await self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[scheme])
        await self.do("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """Of a JavaScript expression."""
        told = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(30):
            while not await self.value(expression):
                await asyncio.sleep(0.05)

    async def picture(self, file: Path) -> None:
        """All of the page, as PNG."""
        told = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(told["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """One for the length of the block, with nothing of any other's."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "chromium is not here: `make services` installs it"
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--user-data-dir={profile}",
            *_OPTIONS,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as session, asyncio.timeout(120):
                port = Path(profile) / "DevToolsActivePort"
                while not port.is_file() or not port.read_text().strip():
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
                address = f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
                while not (pages := [one for one in await _list(session, address) if one["type"] == "page"]):
                    await asyncio.sleep(0.05)
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Browser(socket)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _list(session: aiohttp.ClientSession, address: str) -> list[dict[str, Any]]:
    async with session.get(address) as answer:
        return list(await answer.json(content_type=None))
