"""Asks servers of one model for log-likelihoods and texts: each question once, always `num_concurrent` at each."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.errors import StageError
from configs.reading.json_text import parse_json
from configs.reading.text import gathered
from evals.asking.forced_tokens import is_scoring, scored
from evals.asking.request_cache import RequestCache
from evals.asking.request_plan import (
    NOTHING,
    Answer,
    Generating,
    LogLikelihood,
    Question,
    Request,
    Score,
    Scoring,
    plan,
)
from registry.contracts import Endpoint

if TYPE_CHECKING:
    import aiohttp

OnProgress = Callable[[int, int], None]

_ATTEMPTS = 2
_PAUSE_SECONDS = 1.0
_METRICS_SECONDS = 10.0
SILENCE_SECONDS = 300.0
"""Without an answer or any work for so long, the server hangs. A request by itself may wait longer: many queue."""


@dataclass
class Counts:
    """What an evaluation took."""

    requests: int = 0
    """Sent to the server."""
    from_cache: int = 0
    """Questions that were answered before."""


@dataclass
class _Open:
    """A question whose continuation is not yet scored to its end."""

    missing: int
    so_far: LogLikelihood = NOTHING

    def add(self, part: LogLikelihood) -> bool:
        """Take one request's share of the answer; whether it was the last."""
        self.missing -= 1
        self.so_far += part
        return self.missing == 0


class Client:
    """Answers questions about one served model.

    Args:
        endpoints: Servers whose completions take `logprob_token_ids`, all alike: they share the questions.
        num_concurrent: Requests kept open at each; more than a server works on at once only wait there.
        cache: Where answers are looked up and kept.
        silence_seconds: When to give up on a server that answers nothing at all, and whose metrics stand still.
        further: Waits for servers that still start, alike too; nobody waits for them with a question.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        num_concurrent: int,
        cache: RequestCache | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        further: Callable[[], Sequence[Endpoint]] | None = None,
    ) -> None:
        self.counts = Counts()
        self.endpoints = list(endpoints)
        """Those that have shared questions, or will share the next ones."""
        self._silence_seconds, self._cache, self._further = silence_seconds, cache, further
        # More would take the places of those whose beginnings the server has in its cache.
        self._num_concurrent = min([num_concurrent, *(one.forced_tokens or num_concurrent for one in endpoints)])

    def ask(self, questions: Sequence[Question], on_progress: OnProgress) -> dict[Question, Answer]:
        """The answer to every question; equal questions are asked once.

        Args:
            on_progress: Told (questions answered, questions in all), those from the cache first.

        Raises:
            StageError: The server cannot be reached, refuses a request, or answers with what is no number. What had
                been answered is in the cache.
        """
        asked = list(dict.fromkeys(questions))
        answers = self._known(asked)
        self.counts.from_cache += len(answers)
        on_progress(len(answers), len(asked))
        missing = [question for question in asked if question not in answers]
        if missing:
            asyncio.run(self._ask_server(missing, answers, lambda: on_progress(len(answers), len(asked))))
        return answers

    def one_at_a_time(self) -> Client:
        """Of the same servers, with nothing beside a request at either, and nothing looked up."""
        return Client(self.endpoints, 1, None, self._silence_seconds)

    def complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first server's choice for each body of the completions API, in their order; nothing is looked up or kept.

        Raises:
            StageError: The server cannot be reached, refuses a request, or is silent for long.
        """
        return asyncio.run(self._complete(bodies))

    async def _complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        async with self._session(self._silence_seconds, self._num_concurrent) as session:
            return await asyncio.gather(*(self._send(session, self.endpoints[0], body) for body in bodies))

    def _session(self, silence_seconds: float | None = None, at_once: int = 0) -> aiohttp.ClientSession:
        """`at_once`: requests; 0 for as many as are sent."""
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=at_once, force_close=not all(one.keeps_connections for one in self.endpoints)
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=silence_seconds),
        )

    def _known(self, questions: Sequence[Question]) -> dict[Question, Answer]:
        if self._cache is None:
            return {}
        keys = {question.key: question for question in questions}
        found = self._cache.get(list(keys))
        return {keys[key]: value if isinstance(value, str) else LogLikelihood(*value) for key, value in found.items()}

    async def _ask_server(
        self, questions: Sequence[Question], answers: dict[Question, Answer], on_progress: Callable[[], None]
    ) -> None:
        async with self._session() as session:
            first = self.endpoints[0]
            chains = plan(questions, first.prefix_block_tokens, forced=first.forced_tokens is not None)
            open_questions = _open_questions(request for chain in chains for request in chain)
            # Last in, first out: what continues a context follows at once, while its server remembers it.
            waiting: asyncio.LifoQueue[tuple[Endpoint | None, list[Request]]] = asyncio.LifoQueue()
            for chain in reversed(chains):
                waiting.put_nowait((None, chain))

            async def work(own: Endpoint) -> None:
                while True:
                    remembers, (first, *rest) = await waiting.get()
                    endpoint = remembers or own
                    choice = await self._send(session, endpoint, first.body())
                    self._take(first, choice, open_questions, answers)
                    on_progress()
                    for request in reversed(rest):
                        waiting.put_nowait((endpoint, [request]))
                    waiting.task_done()

            async def work_at_late_ones(further: Callable[[], Sequence[Endpoint]]) -> None:
                late = await asyncio.to_thread(further)
                self._further = None
                self.endpoints += late
                workers = [work(endpoint) for _ in range(self._num_concurrent) for endpoint in late]
                await asyncio.gather(waiting.join(), *workers)

            workers = [work(endpoint) for _ in range(self._num_concurrent) for endpoint in self.endpoints]
            joining = [work_at_late_ones(self._further)] if self._further else []
            tasks = [asyncio.create_task(one) for one in (*workers, *joining, waiting.join(), self._watch(answers))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, answers: Mapping[Question, Answer]) -> None:
        """Raise when nothing is answered for long, and nothing computed: a long text from a slow server is no hang."""
        then: object = None
        # Of its own: the other session's connections are all in use.
        async with self._session() as session:
            while (now := (self.counts.requests, len(answers), await self._all_working(session))) != then:
                then = now
                await asyncio.sleep(self._silence_seconds)
        asked = " and ".join(one.base_url for one in self.endpoints)
        raise StageError(
            f"{asked} answered nothing for {self._silence_seconds:.0f} s, nor computed anything",
            remedy="see the end of the server's log for what it hangs at; where it is only slow, raise `answer_minutes`"
            " under `deadlines`: the same command goes on where this stopped",
            blame="engine",
        )

    async def _all_working(self, session: aiohttp.ClientSession) -> list[list[str] | None]:
        return [await self._working(session, endpoint) for endpoint in self.endpoints]

    async def _working(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> list[str] | None:
        """What the server's metrics say of its work; None where they say nothing, or it does not answer."""
        import aiohttp

        if endpoint.working_metrics is None:
            return None
        patience = aiohttp.ClientTimeout(total=_METRICS_SECONDS)
        try:
            async with session.get(f"{endpoint.base_url}/metrics", timeout=patience) as response:
                page = (await gathered(response.content.iter_any())).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        return [line for line in page.splitlines() if line.startswith(endpoint.working_metrics)]

    def _take(
        self,
        request: Request,
        choice: dict[str, Any],
        open_questions: Mapping[Score, _Open],
        answers: dict[Question, Answer],
    ) -> None:
        """Keep what `choice` answers."""
        new: dict[Question, Answer] = {}
        if isinstance(request, Generating):
            new[request.question] = choice["text"] or ""
        else:
            for question, part in _parts(request, choice):
                if open_questions[question].add(part):
                    new[question] = open_questions[question].so_far
        if self._cache is not None and new:
            self._cache.put([(question.key, answer) for question, answer in new.items()])
        answers.update(new)

    async def _send(self, session: aiohttp.ClientSession, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        named = {"model": endpoint.served_model_name, **body}
        if endpoint.forced_tokens is None or not is_scoring(body):
            choice: dict[str, Any] = await self._post(session, f"{endpoint.base_url}/v1/completions", named, _choice)
            return choice

        async def post(path: str, fields: Mapping[str, Any]) -> Any:
            return await self._post(session, f"{endpoint.base_url}{path}", fields)

        try:
            return await scored(post, body)
        except (LookupError, TypeError, ValueError) as error:
            raise StageError(
                f"{endpoint.base_url} told no log-probability of a forced token: {type(error).__name__}: {error}",
                remedy="see the end of the server's log beside this stage's; serve with the version that is locked",
                blame="engine",
            ) from error

    async def _post(
        self,
        session: aiohttp.ClientSession,
        url: str,
        body: Mapping[str, Any],
        read: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        """What `read` makes of the server's answer; where it cannot, the server is asked once more."""
        import aiohttp

        for attempt in range(1, _ATTEMPTS + 1):
            self.counts.requests += 1
            try:
                async with session.post(url, json=body) as response:
                    if response.status == 200:
                        return read(parse_json(await gathered(response.content.iter_any()), of_model=True))
                    told = (await gathered(response.content.iter_any())).decode(errors="replace")
                    failure = f"{url} answered {response.status}: {told[:300]}"
                    again = response.status >= 500
            except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
                failure, again = f"{url}: {type(error).__name__} {error}", True
            if not again or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        raise StageError(
            f"the server stopped answering: {failure}",
            remedy="see the end of the server's log beside this stage's for why; the same command goes on where this"
            " stopped"
            if again
            else "see the server's log for what it refuses: it would refuse the same request again",
            blame="engine",
        )


def _choice(answer: Any) -> Any:
    return answer["choices"][0]


def _open_questions(requests: Iterable[Request]) -> dict[Score, _Open]:
    found: dict[Score, _Open] = {}
    for request in requests:
        if isinstance(request, Scoring):
            for question, _ in request.wanted:
                found.setdefault(question, _Open(0)).missing += 1
    return found


def _parts(request: Scoring, choice: dict[str, Any]) -> list[tuple[Score, LogLikelihood]]:
    try:
        parts = list(request.parts(choice))
    except (LookupError, TypeError, AttributeError) as error:
        raise StageError(
            f"the server's answer lacks the log-probabilities that were asked for: {type(error).__name__} {error}",
            remedy="serve the model with vLLM 0.32 or later, whose completions take `logprob_token_ids`",
            blame="engine",
        ) from error
    for _, part in parts:
        if not math.isfinite(part.nats):
            raise StageError(
                f"the server gave a log-likelihood of {part.nats}",
                remedy="weights or a kernel overflow: for the baseline the source or its dtype is to blame, for an"
                " artifact see its inspection",
            )
    return parts
