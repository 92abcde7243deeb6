"""A model's server behind Ray Serve: each replica starts it as it was measured, and passes requests on.

Ray Serve has a module of its own for vLLM; it starts the engine in the version and in the way that Ray was made for.
What was measured is this server, by this command, so it stays a process of its own, in an environment of its own.
"""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
from typing import Any

import aiohttp
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

HEADERS = ("accept", "authorization", "content-type", "x-request-id")
LOOK_SECONDS, STOP_SECONDS = 1.0, 30.0
PIECE_BYTES = 65536


def _end_with_its_parent() -> None:
    """Of Linux: a replica that is killed leaves no server, and none of its memory on the GPU (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@serve.deployment
class Model:
    """One server."""

    async def __init__(self, command: list[str], env: dict[str, str], health: str, startup_seconds: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        self._server = subprocess.Popen(
            [*command, *listen],
            env={**os.environ, **env},
            preexec_fn=_end_with_its_parent,  # noqa: PLW1509
        )
        self._health = health
        # How many requests there may be at once is Ray's affair, how long they may take is the client's.
        unlimited = {"connector": aiohttp.TCPConnector(limit=0), "timeout": aiohttp.ClientTimeout(total=None)}
        self._client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", **unlimited)
        try:
            async with asyncio.timeout(startup_seconds):
                while not await self._answers():
                    await asyncio.sleep(LOOK_SECONDS)
        except BaseException:
            await self._end()
            raise

    async def _answers(self) -> bool:
        if self._server.poll() is not None:
            raise RuntimeError(f"the server ended with {self._server.returncode}: its words are in this replica's log")
        try:
            async with self._client.get(self._health) as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def check_health(self) -> None:
        """Ray Serve asks; a replica whose server does not answer is replaced."""
        if not await self._answers():
            raise RuntimeError("the server does not answer")

    async def __call__(self, request: Request) -> Response:
        """Pass a request on and its answer back, piece by piece. A client that leaves takes its request with it."""
        headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
        headers["accept-encoding"] = "identity"
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        asked = self._client.request(request.method, path, data=await request.body(), headers=headers)
        answer = await asked.__aenter__()

        async def pieces() -> Any:
            try:
                async for piece in answer.content.iter_chunked(PIECE_BYTES):
                    yield piece
            finally:
                answer.close()

        kept = {name: answer.headers[name] for name in ("content-type", "x-request-id") if name in answer.headers}
        return StreamingResponse(pieces(), answer.status, kept)

    async def _end(self) -> None:
        await self._client.close()
        self._server.terminate()
        try:
            await asyncio.to_thread(self._server.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()

    async def __del__(self) -> None:
        await self._end()


def build(args: dict[str, Any]) -> serve.Application:
    """What serve.yaml imports."""
    return Model.bind(args["command"], args["env"], args["health"], args["startup_seconds"])
