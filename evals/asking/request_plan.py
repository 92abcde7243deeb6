"""Which requests answer which questions. A log-likelihood costs as little as is exact:

- The last token of a continuation is not sent. The server is asked for one token after the rest, and for the
  log-probabilities that the wanted tokens would have had there (`logprob_token_ids` of vLLM, taken before sampling).
- Continuations that differ in their last token only share a request; so do all one-token choices of a question.
- Prompt log-probabilities keep vLLM from reading its prefix cache and cost the output layer for every token of the
  prompt. They are asked for only where a continuation has more than one token and its context is short.
- After a long context (few-shot examples) longer choices are scored step by step: a request for each beginning of a
  choice, whose context comes out of the prefix cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_TOKENS_A_REQUEST = 128
"""vLLM's bound on `logprob_token_ids`."""
_SEED = 1234
_LIKELIEST_TOLD = 4
"""Tokens that are told with each of a prompt, the likeliest ones: so many may be equally likely, and all are seen."""
_PLAIN_SAMPLING = {"temperature": 0, "repetition_penalty": 1.0}
"""A model's generation_config.json may ask for a penalty, and the token after the prompt would not be the likeliest."""
_TEXT_AS_WRITTEN = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
"""As lm-eval's `vllm`: a stop sequence that is a special token stops only where such tokens are told as text."""
ECHO_COST = 1.3
"""Of a prompt token whose log-probability is wanted, in prompt tokens: the output layer and the answer's size."""
REQUEST_COST = 6.0
"""Of a request by itself, in prompt tokens. `benchmarks/request_plan.py` measures both; see docs/findings.md."""


@dataclass(frozen=True)
class Score:
    """How likely is `continuation` after `context`; both are token ids and not empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def key(self) -> str:
        return _key("score", self.context, self.continuation)


@dataclass(frozen=True)
class Generate:
    """Which text follows `prompt`."""

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = _SEED
    options: str = "{}"
    """Further sampling parameters of the completions API, as JSON."""

    @property
    def key(self) -> str:
        return _key("generate", self.prompt, self.max_tokens, self.stop, self.temperature, self.seed, self.options)


Question = Score | Generate


class LogLikelihood(NamedTuple):
    """Of a continuation, or of a part of it; parts are put together by `+`."""

    nats: float
    """Sum of its log-probabilities."""
    greedy: bool
    """Each of its tokens was the likeliest one; of several that are equally likely, the one with the lowest id, as
    argmax takes it."""
    tied: bool = False
    """Each was among the likeliest, and at some place another one was seen that was exactly as likely."""

    def __add__(self, other: LogLikelihood) -> LogLikelihood:  # type: ignore[override] # not tuple's
        among_the_likeliest = (self.greedy or self.tied) and (other.greedy or other.tied)
        return LogLikelihood(
            self.nats + other.nats,
            self.greedy and other.greedy,
            among_the_likeliest and (self.tied or other.tied),
        )


NOTHING = LogLikelihood(0.0, greedy=True)
Answer = LogLikelihood | str


@dataclass
class Scoring:
    """One request: the log-probabilities of some tokens after `prompt`, and of `prompt` itself from `start` on."""

    prompt: tuple[int, ...]
    start: int
    wanted: list[tuple[Score, int]] = field(default_factory=list)
    """Questions, each with the token that it wants after the prompt."""

    def body(self) -> dict[str, Any]:
        echo = self.start < len(self.prompt)
        return {
            "prompt": self.prompt,
            "max_tokens": 1,
            **_PLAIN_SAMPLING,
            "logprobs": _LIKELIEST_TOLD if echo else 1,
            "logprob_token_ids": list(dict.fromkeys(token for _, token in self.wanted)),
            # Two tokens can have one spelling.
            "return_tokens_as_token_ids": True,
        } | ({"echo": True} if echo else {})

    def parts(self, choice: dict[str, Any]) -> Iterator[tuple[Score, LogLikelihood]]:
        """Each question's share of the answer."""
        told = choice["logprobs"]["top_logprobs"]
        inside = range(self.start, len(self.prompt))
        whole = sum((_place(told[place], self.prompt[place]) for place in inside), NOTHING)
        for question, token in self.wanted:
            # The last place tells the likeliest token, the lowest of several, and those that were asked for.
            yield question, whole + _place(told[-1], token)


def _place(told: Mapping[str, float], token: int) -> LogLikelihood:
    """One token's share, out of what is told of its place: `token_id:<id>` -> log-probability."""
    value, most = told[f"token_id:{token}"], max(told.values())
    likeliest = [int(name.removeprefix("token_id:")) for name, one in told.items() if one == most]
    among_them = value >= most
    return LogLikelihood(value, among_them and token == min(likeliest), among_them and len(likeliest) > 1)


@dataclass
class Generating:
    question: Generate

    def body(self) -> dict[str, Any]:
        question = self.question
        return {
            "prompt": question.prompt,
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "stop": question.stop,
            "seed": question.seed,
            **_TEXT_AS_WRITTEN,
            **json.loads(question.options),
        }


Request = Scoring | Generating


def plan(
    questions: Sequence[Question], block_tokens: int | None = None, *, forced: bool = False
) -> list[list[Request]]:
    """Chains of requests that answer `questions`; a chain's first request has to be answered before its others.

    Texts come first, since they take longest, then scores in the order they came: questions of one task stand together
    and begin alike, which is the order that the server's prefix cache likes.

    Args:
        block_tokens: Granularity of the server's prefix cache; None when it has none.
        forced: The server tells nothing of a prompt's tokens: all is scored step by step.
    """
    generating = [question for question in questions if isinstance(question, Generate)]
    generating.sort(key=lambda question: (question.max_tokens, len(question.prompt)), reverse=True)
    by_context: dict[tuple[int, ...], list[Score]] = {}
    for question in questions:
        if isinstance(question, Score):
            by_context.setdefault(question.context, []).append(question)
    chains: list[list[Request]] = [[Generating(question)] for question in generating]
    for context, choices in by_context.items():
        if forced:
            chains.append([*_step_by_step(choices)])
            continue
        whole = _at_once(choices)
        # A context shorter than a block is never in the cache.
        steps = _step_by_step(choices) if block_tokens and len(context) >= block_tokens else []
        if block_tokens and steps and _cost_of_steps(steps, block_tokens) < _cost_at_once(whole):
            chains.append([*steps])
        else:
            chains += [[request] for request in whole]
    return [[part for request in chain for part in _split(request)] for chain in chains]


def _at_once(choices: Sequence[Score]) -> list[Scoring]:
    """A request for each choice, shared by those that differ in their last token only."""
    found: dict[tuple[int, ...], Scoring] = {}
    for question in choices:
        prompt = question.context + question.continuation[:-1]
        request = found.setdefault(prompt, Scoring(prompt, len(question.context)))
        request.wanted.append((question, question.continuation[-1]))
    return list(found.values())


def _step_by_step(choices: Sequence[Score]) -> list[Scoring]:
    """A request for each beginning of a choice; the first is for the context alone, which all others continue."""
    found: dict[tuple[int, ...], Scoring] = {}
    for question in choices:
        for place, token in enumerate(question.continuation):
            prompt = question.context + question.continuation[:place]
            found.setdefault(prompt, Scoring(prompt, len(prompt))).wanted.append((question, token))
    return list(found.values())


def _cost_at_once(requests: Sequence[Scoring]) -> float:
    """In tokens computed: the prompt's, with the output layer for each where its log-probabilities are wanted."""
    return sum(
        REQUEST_COST + len(request.prompt) * (ECHO_COST if request.start < len(request.prompt) else 1)
        for request in requests
    )


def _cost_of_steps(requests: Sequence[Scoring], block_tokens: int) -> float:
    """In tokens computed: the context once, then what of each prompt is in no whole block of the context."""
    context = len(requests[0].prompt)
    cached = context // block_tokens * block_tokens
    # The last token of a prompt is computed always, so a prompt that ends with a block computes that block again.
    return REQUEST_COST * len(requests) + context + sum(len(request.prompt) - cached for request in requests[1:])


def _split(request: Request) -> list[Request]:
    if isinstance(request, Generating):
        return [request]
    # By tokens, not by questions: two questions can want one token.
    tokens = list(dict.fromkeys(token for _, token in request.wanted))
    parts = []
    for first in range(0, len(tokens), _TOKENS_A_REQUEST):
        some = set(tokens[first : first + _TOKENS_A_REQUEST])
        parts.append(Scoring(request.prompt, request.start, [one for one in request.wanted if one[1] in some]))
    return [*parts]


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
