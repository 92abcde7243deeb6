"""Asks one server one prompt: what was answered, how long that took, and what went wrong in the server's own words."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

from configs.errors import RequestError, StageError
from configs.reading.json_text import parse_json
from configs.reading.text import gathered
from registry.contracts.reply import Reply
from registry.contracts.serving import Endpoint
from serving_checks.engines.base import Engine
from serving_checks.replay.answer_stream import StreamedReply, read_answer
from serving_checks.replay.config import AskingConfig
from serving_checks.replay.prompts import Prompt
from serving_checks.transport.http_json import authorization, refusal

_BUSY = (429, 503)
_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Before a busy server is asked again; it may name a longer one."""
_LONGEST_PAUSE_SECONDS = 60.0
_ALIVE_SECONDS = 20.0
"""An engine whose API shares its process is silent for the length of a step."""
_ALIVE_ATTEMPTS = 3
_EVENT_BYTES = 1 << 24
"""Of one line of a stream: the ids of a long prompt come in one."""


class EndpointGone(StageError):
    """The server does not answer any more: nothing that it is asked would be an answer of the model's."""


class ForcedScore(NamedTuple):
    """How likely a model finds another one's answer."""

    agreement: float
    """Share of its tokens that are the likeliest."""
    mean_logprob: float
    """Of a token, in nats."""


class ReplayClient:
    """Asks one server; use as an async context manager.

    Args:
        endpoint: An OpenAI-compatible server's.
        engine: Which fields it takes.
        config: How it is asked.
    """

    def __init__(self, endpoint: Endpoint, engine: Engine, config: AskingConfig) -> None:
        self.endpoint = endpoint
        self._engine, self._config = engine, config

    async def __aenter__(self) -> Self:
        import aiohttp

        # As `transport.streaming`: nothing queues in the client, and loopback is behind no proxy.
        self._headers = authorization(self.endpoint.api_key_variable)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=not self.endpoint.keeps_connections),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            read_bufsize=_EVENT_BYTES // 2,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, prompt: Prompt) -> Reply:
        """The answer, or what went wrong instead: a refusal, a time limit, a stream that broke.

        Raises:
            EndpointGone: The server does not answer any more.
            RequestError: It wants another key, or has no such path or model.
        """
        for pause in (*_PAUSES_SECONDS, None):
            reply, wanted = await self._ask_once(prompt)
            if reply.status not in _BUSY or pause is None:
                break
            await asyncio.sleep(min(max(pause, wanted), _LONGEST_PAUSE_SECONDS))
        if reply.status in (401, 403, 404):
            raise RequestError(
                f"{self._url(prompt.chat)} answered {reply.error}",
                remedy=self._engine.remedy_for(reply.status) or "correct the address or the model's name in the config",
            )
        if reply.error and reply.status in (0, 200) and not await self._is_alive():
            raise EndpointGone(
                f"{self.endpoint.base_url} does not answer any more: {reply.error}",
                remedy="see the end of its log for why, and start it again",
                blame="engine",
            )
        return reply

    async def _ask_once(self, prompt: Prompt) -> tuple[Reply, float]:
        """The answer, and how many seconds a busy server asks to be left alone."""
        import aiohttp

        url, body = self._url(prompt.chat), self._body(prompt)
        known: dict[str, Any] = {"id": prompt.id, "sent_at": datetime.now(UTC)}
        status, wanted, start = 0, 0.0, time.perf_counter()
        try:
            async with (
                asyncio.timeout(self._config.timeout_seconds),
                # A redirect is not followed: the key is for this address alone.
                self._session.post(url, json=body, headers=self._headers, allow_redirects=False) as response,
            ):
                status = response.status
                if status == 200:
                    return _replied(known, start, await read_answer(response.content)), 0.0
                wanted = _seconds(response.headers.get("Retry-After"))
                said = (await gathered(response.content.iter_any())).decode(errors="replace")
                error = refusal(status, response.reason, said, self._headers)
        except TimeoutError:
            error = f"no end of the answer within {self._config.timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
        return Reply(**known, status=status, error=error, seconds=time.perf_counter() - start), wanted

    async def score(self, prompt_ids: list[int], answer_ids: list[int]) -> ForcedScore | None:
        """How likely the model finds an answer; None where the server does not tell, as for what fills its context."""
        body = {
            "model": self.endpoint.served_model_name,
            "prompt": [*prompt_ids, *answer_ids],
            "max_tokens": 1,
            "prompt_logprobs": 1,
            **self._engine.greedy,
        }
        told = await self._choice(body)
        try:
            places = list(told["prompt_logprobs"])[len(prompt_ids) :] if told else []
            found = [float(place[str(token)]["logprob"]) for place, token in zip(places, answer_ids, strict=True)]
            # Beside the token there is the likeliest one; 16-bit logits tie now and then.
            most = [max(float(cell["logprob"]) for cell in place.values()) for place in places]
            likeliest = [logprob >= other for logprob, other in zip(found, most, strict=True)]
            mean = sum(found) / len(found)
            return ForcedScore(sum(likeliest) / len(found), mean) if math.isfinite(mean) else None
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            return None

    async def _choice(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The choice of a completion that is not streamed; None where there is none."""
        import aiohttp

        try:
            async with (
                asyncio.timeout(self._config.timeout_seconds),
                self._session.post(
                    self._url(chat=False), json=body, headers=self._headers, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    return None
                answer = parse_json(await gathered(response.content.iter_any()), of_model=True)
                choice: dict[str, Any] = answer["choices"][0]
                return choice
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError):
            return None

    async def _is_alive(self) -> bool:
        """Whether anything answers there: a server that refuses one connection may only be busy."""
        import aiohttp

        for attempt in range(_ALIVE_ATTEMPTS):
            try:
                patience = aiohttp.ClientTimeout(total=_ALIVE_SECONDS)
                url = f"{self.endpoint.base_url}/v1/models"
                async with self._session.get(url, headers=self._headers, allow_redirects=False, timeout=patience):
                    return True
            except (aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.sleep(attempt)
        return False

    def _url(self, chat: bool) -> str:
        return f"{self.endpoint.base_url}/v1/{'chat/completions' if chat else 'completions'}"

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        """What is sent for a prompt: its own fields, and beside them what makes two answers comparable."""
        config = self._config
        limits = {name: prompt.body[name] for name in ("max_tokens", "max_completion_tokens") if prompt.body.get(name)}
        sampling: Mapping[str, Any] = {"seed": config.seed}
        if config.sampling == "greedy":
            asked = {name: value for name, value in self._engine.greedy.items() if name not in prompt.body}
            sampling = asked | {"temperature": 0.0}
        return {
            **prompt.body,
            **({} if limits else {"max_tokens": config.max_output_tokens}),
            **sampling,
            **self._engine.token_fields(chat=prompt.chat, logprobs=config.logprobs or config.score_answers),
            "model": self.endpoint.served_model_name,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def _replied(known: dict[str, Any], start: float, answer: StreamedReply) -> Reply:
    first = None if answer.first_piece_at is None else answer.first_piece_at - start
    told = {name: getattr(answer, name) for name in StreamedReply._fields if name in Reply.model_fields}
    return Reply(**known, **told, status=200, first_token_seconds=first, seconds=answer.ended_at - start)


def _seconds(header: str | None) -> float:
    """Of a Retry-After; dates are not read."""
    return float(header) if header and header.isdecimal() else 0.0
