"""A gateway with its real observer, its logs and its page, in front of two servers of a test."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from pipelines.execution.gateway import OBSERVER
from pipelines.execution.gateway_watching import watched
from pipelines.recipe.gateway_config import GatewayConfig
from registry.contracts import LiveVerdict, ShadowVerdict
from registry.contracts.shadow_verdict import Outcome
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.observed import Arms, ObserverJob, Served
from serving_checks.gateway.observer import Observer
from serving_checks.gateway.split import SplitConfig
from serving_checks.gateway.upstream import Upstream
from serving_checks.server import free_port
from tests.unit.serving_checks.test_gateway import Behind

PRICE = {
    "device": "a device",
    "currency": "EUR",
    "per_hour": 3.6,
    "source": "a test",
    "read_on": "2026-01-02",
    "made_up": True,
}


def told(outcome: Outcome = "continue", reason: str = "undecided", **more: Any) -> LiveVerdict:
    """What is said of version 2 beside version 1."""
    fields = {
        "model": "demo",
        "champion_version": "1",
        "champion": "sha256:1",
        "candidate_version": "2",
        "candidate": "sha256:2",
        "share": 0.0,
    }
    return LiveVerdict.model_validate(fields | {"outcome": outcome, "reason": reason} | more)


def ramped(share: float, step: int, outcome: Outcome = "continue", pairs: int = 1) -> LiveVerdict:
    """The same at a step of a ramp of four, from 0; somebody has judged it."""
    steps = [0.1, 0.2, 0.5, 1.0]
    reason = "undecided: score (1 of 9)"
    verdict = ShadowVerdict(
        outcome=outcome,
        reason=reason,
        alpha=0.05,
        config={},
        config_digest="sha256:0",
        frozen_digest=None,
        frozen=False,
        pairs=pairs,
        pairs_digest="sha256:0",
        looks=[pairs],
        metrics=[],
    )
    return told(outcome, reason, share=share, step=step, steps=steps, state="running", pairs=pairs, verdict=verdict)


class Timed:
    """Answers in words, streamed or not, at a pace; each third prompt that ends with `!` it refuses."""

    def __init__(self, first_seconds: float = 0.0, token_seconds: float = 0.0, last: str = "four") -> None:
        self.first_seconds, self.token_seconds, self.last = first_seconds, token_seconds, last

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = json.loads(await request.read())
        prompt = json.dumps(asked.get("messages", asked.get("prompt", "")))
        if "fail" in prompt:
            return web.json_response({"error": {"message": f"no: {prompt}"}}, status=500)
        chat = request.path.endswith("/chat/completions")
        words = ["one ", "two ", prompt if "repeat" in prompt else "three ", self.last]
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(words)}
        await asyncio.sleep(self.first_seconds)
        if not asked.get("stream"):
            await asyncio.sleep(self.token_seconds * (len(words) - 1))
            text = "".join(words)
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return web.json_response({"choices": [said | {"finish_reason": "stop"}], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for place, word in enumerate(words):
            said = {"delta": {"content": word}} if chat else {"text": word}
            await self._event(response, {"choices": [said | {"finish_reason": "stop" if place == 3 else None}]})
            await asyncio.sleep(self.token_seconds if place < 3 else 0)
        await self._event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


class Watched(NamedTuple):
    gateway: Gateway
    observer: Observer
    base: str
    session: aiohttp.ClientSession
    folder: Path

    async def ask(self, prompt: str, **more: Any) -> int:
        """A request of either API; its status."""
        headers = more.pop("headers", {})
        chat = more.pop("chat", False)
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        async with self.session.post(
            self.base + path, json={"model": "demo", "max_tokens": 4} | asked | more, headers=headers
        ) as answer:
            await answer.read()
            return answer.status

    async def text(self, path: str, **headers: str) -> str:
        async with self.session.get(self.base + path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()

    async def read(self, requests: int) -> None:
        """Wait until the observer has read so many answers, worked off the mirror, and told of it."""
        async with asyncio.timeout(60):
            while self.observer.counts.read < requests or self.observer.counts.waiting or not self._counted(requests):
                await asyncio.sleep(0.05)

    def _counted(self, requests: int) -> bool:
        agreement = self.observer.read.agreement
        done = self.observer.counts.mirrored
        return requests == 0 or (agreement is not None and agreement.compared + agreement.failed >= done > 0)


@asynccontextmanager
async def watched_gateway(
    folder: Path, champion: Timed | None = None, candidate: Timed | None = None, share: float = 0.0, **config: Any
) -> AsyncIterator[Watched]:
    """It answers for the length of the block.

    Args:
        folder: Gets pairs and logs.
        share: Of clients, that the candidate answers.
        config: More of the gateway's.
    """
    listen = {"port": free_port(None)} | config.pop("listen", {})
    wanted = GatewayConfig.model_validate(
        {"version": 1, "name": "live", "model": "demo", "listen": listen, "price": PRICE} | config
    )
    job = ObserverJob(
        database=folder / "pairs.db",
        keep_days=1,
        keep_prompts=wanted.keep_prompts,
        mirror=wanted.mirror,
        patience=wanted.patience,
        model=wanted.model,
        price=wanted.price,
        log=wanted.log,
    )
    async with AsyncExitStack() as stack:
        upstreams = []
        for version, timed in (("1", champion or Timed()), ("2", candidate or Timed(last="five"))):
            endpoint = await stack.enter_async_context(Behind(timed, f"v{version}").answering())
            upstreams.append(await stack.enter_async_context(Upstream(version, endpoint, wanted.patience)))
        observer = await stack.enter_async_context(Observer(OBSERVER, job, folder / "observer.log", print))
        observer.ask(Arms(*(Served.at(one.version, one.endpoint) for one in upstreams)))
        gateway = Gateway(wanted.model, wanted.listen, upstreams[0], observer.offer, SplitConfig(share=share))
        gateway.candidate = upstreams[1]
        stack.enter_context(watched(gateway, observer, wanted, folder))
        gateway.standing.followed(told(share=share))
        await stack.enter_async_context(listening(gateway, wanted.listen))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Watched(gateway, observer, f"http://127.0.0.1:{wanted.listen.port}", session, folder)
