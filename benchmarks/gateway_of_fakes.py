"""A gateway as `quantbench shadow up` runs it, observer and all, in front of servers that compute nothing.

    .venv/bin/python -P benchmarks/gateway_of_fakes.py FOLDER --port 8080 [--at http://127.0.0.1:9101]
    .venv/bin/python -P benchmarks/gateway_of_fakes.py FOLDER --move champion=3

FOLDER gets a workspace with three artifacts of nothing, a ledger in which version 1 is champion and 2 is shadow, and
the pairs. Each version is answered for by a process of its own, which repeats the prompt and says its version; with
`--at` all are at one address that is there already. `--move` is what a promotion writes. SIGUSR1 has the gateway print
how many tasks it has.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from aiohttp import web

from configs.errors import QuantbenchError
from pipelines.execution import gateway, served_aliases
from pipelines.execution.gateway import OpenGateway, open_gateway, run_gateway
from pipelines.execution.workspace import Workspace
from registry.contracts import Endpoint
from registry.ledger import Entry, Ledger
from registry.tracking.address import sqlite_uri
from serving_checks.engines.base import ServerCommand, ServerRequest
from serving_checks.engines.vllm import VllmEngine
from serving_checks.server import serve

MODEL, VERSIONS, WORDS = "demo", ("1", "2", "3"), 8
_CONFIG = """
version: 1
name: live
model: {model}
listen: {{port: {port}}}
device: cpu
"""
_ALL_OF_IT = """
keep_prompts: true
follow_seconds: 0.2
mirror: {queue: 4096, concurrency: 16}
"""
"""For servers that say who they are, so that each pair can be looked at. Else all is as users have it."""


class _Fake(VllmEngine):
    """This file as a server in vLLM's place."""

    version = ""

    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        """Itself, on `port`."""
        return ServerCommand([sys.executable, "-P", __file__, "--answer", self.version, "--port", str(port)], {})


def _message(chat: bool, part: str, text: str, reason: str | None) -> dict[str, Any]:
    said = {part: {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, "finish_reason": reason, **said}
    return {"id": "a", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}


def answer(version: str, port: int) -> None:
    """Repeat each prompt, in one piece or in WORDS of them, and say who answers."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response()
        body, chat = json.loads(await request.read()), request.path.endswith("/chat/completions")
        said = f"{body['messages'][-1]['content'] if chat else body['prompt']} of {version}"
        if not body.get("stream"):
            usage = {"prompt_tokens": 1, "completion_tokens": WORDS, "total_tokens": WORDS + 1}
            return web.json_response(_message(chat, "message", said, "stop") | {"usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for place in range(WORDS):
            event = _message(chat, "delta", f"{said} at {place};", "stop" if place + 1 == WORDS else None)
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.002)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def run() -> None:
        runner = web.ServerRunner(web.Server(handle, handler_cancellation=True, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        print(f"pid {os.getpid()}", flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


def opened(folder: Path, port: int, more: str) -> tuple[OpenGateway, Workspace]:
    """The workspace, made where it is not there, and what the gateway is run with.

    Args:
        more: Of the config.
    """
    workspace = Workspace(folder / "workspace")
    workspace.create()
    ledger = Ledger(sqlite_uri(workspace.root / "ledger.db"))
    if ledger.last(MODEL, "alias:champion") is None:
        move(folder, "champion", "1")
        move(folder, "shadow", "2")
    config = folder / "gateway.yaml"
    config.write_text(_CONFIG.format(model=MODEL, port=port) + more, encoding="utf-8")
    _put(gateway, "run_named", lambda *_: SimpleNamespace(run_id="none", config={}, registered_model=MODEL))
    return open_gateway(config, [], workspace), workspace


def move(folder: Path, alias: str, version: str) -> None:
    """Write into the ledger that an alias points at a version."""
    workspace = Workspace(folder / "workspace")
    ledger = Ledger(sqlite_uri(workspace.root / "ledger.db"))
    with workspace.store.staging() as staging:
        (staging / "config.json").write_text("{}")
        (staging / "version").write_text(version)
        digest = workspace.store.put(staging).digest
    last = ledger.last(MODEL, f"alias:{alias}")
    row = {"kind": "promote", "at": datetime.now(UTC), "who": "a benchmark", "why": "", "version_to": version}
    entry = Entry(model=MODEL, stream=f"alias:{alias}", sequence=0, artifact=digest, **row)
    ledger.append(entry, last)


def _put(module: ModuleType, name: str, stand_in: Any) -> None:
    """In place of what `module` has under `name`, for good (AttributeError where it has nothing)."""
    patch.object(module, name, stand_in).start()


@contextmanager
def _serve(request: ServerRequest, log: Path, **patience: Any) -> Iterator[Any]:
    engine = _Fake(request.config)  # type: ignore[arg-type] # the config's default is vLLM's
    engine.version = (request.model_dir / "version").read_text()
    with serve(request, log, engine=engine, **patience) as running:
        yield running


@contextmanager
def _at(url: str, *_: Any, **__: Any) -> Iterator[Any]:
    endpoint = Endpoint(base_url=url, served_model_name=MODEL, model_path="", max_model_len=4096)
    yield SimpleNamespace(endpoint=endpoint, watch=None)


def run(folder: Path, port: int, url: str | None) -> None:
    """The gateway, until it is told to end."""
    listening = gateway.listening

    @asynccontextmanager
    async def told(*arguments: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: print(f"tasks {len(asyncio.all_tasks(loop))}", flush=True))
        async with listening(*arguments):
            yield

    _put(gateway, "listening", told)
    _put(
        served_aliases,
        "checked_folder",
        lambda model, serving, *_: SimpleNamespace(model=model, serving=serving, dtype="float32"),
    )
    _put(served_aliases, "served", _serve if url is None else lambda *_, **__: _at(url))
    run_gateway(*opened(folder, port, "" if url else _ALL_OF_IT), lambda text: print(text, flush=True))


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--at", metavar="URL", help="where all versions are served")
    parser.add_argument("--move", metavar="ALIAS=VERSION", help="promote, and end")
    parser.add_argument("--answer", metavar="VERSION", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.answer:
            answer(options.answer, options.port)
        elif options.folder is None:
            parser.error("name a folder")
        elif options.move:
            move(options.folder, *options.move.split("="))
        else:
            run(options.folder, options.port, options.at)
    except QuantbenchError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
