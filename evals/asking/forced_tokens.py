"""Log-probabilities from llama.cpp's server, which tells none of a prompt, nor of tokens by their ids.

It tells that of the token it has chosen, as it was before anything changed the choice, and `logit_bias` makes it choose
any. So a token's log-probability is asked for by a request of its own, after all that stands before it; the server goes
on from the beginning that it has in its cache, so each costs one token's work. Requests and answers are those of vLLM
outside: whoever asks knows nothing of this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Post = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""A path and a body -> what the server answers."""

_BIAS = 1e4
"""Beyond any difference of logits."""
_VOCABULARY = 10_000_000
"""More tokens than any model has; the server tells as many as there are, the likeliest first."""
_LETTER = "a"
_COMPLETIONS, _TOKENIZE = "/v1/completions", "/tokenize"


def is_scoring(body: Mapping[str, Any]) -> bool:
    """Whether a request wants log-probabilities."""
    return "logprob_token_ids" in body or "prompt_logprobs" in body


async def scored(post: Post, body: Mapping[str, Any]) -> dict[str, Any]:
    """The choice that vLLM would answer `body` with, as far as it is read; of a prompt's tokens it is asked for none.

    Raises:
        ValueError: The server chose another token than it was made to.
    """
    if "prompt_logprobs" in body:
        return await _whole_text(post, body["prompt"], body["prompt_logprobs"])
    place: dict[int, float] = {}
    for token in body["logprob_token_ids"]:
        place |= await _forced(post, body["prompt"], token, body["logprobs"])
    return {"logprobs": {"top_logprobs": [{f"token_id:{token}": logprob for token, logprob in place.items()}]}}


async def _whole_text(post: Post, text: str, most: int) -> dict[str, Any]:
    """Each token of a text as the server cuts it, after those before it."""
    tokens: list[int] = (await post(_TOKENIZE, {"content": text, "add_special": True}))["tokens"]
    told: list[dict[str, dict[str, float]] | None] = [None]
    for place in range(1, len(tokens)):
        found = await _forced(post, tokens[:place], tokens[place], most)
        told.append({str(token): {"logprob": logprob} for token, logprob in found.items()})
    return {"prompt_token_ids": tokens, "prompt_logprobs": told}


async def _forced(post: Post, before: Sequence[int], token: int, most: int) -> dict[int, float]:
    """Log-probabilities of the likeliest tokens after `before`, and of `token`."""
    place = await _place(post, before, token, most)
    if place is not None:
        return {one["id"]: one["logprob"] for one in place["top_logprobs"]} | {token: place["logprob"]}
    # Nothing is told of a token that is a part of a character. It is read among all others, where a letter is forced.
    letter = (await post(_TOKENIZE, {"content": _LETTER}))["tokens"][-1]
    place = await _place(post, before, letter, _VOCABULARY)
    if place is None:
        raise ValueError(f"nothing was told where token {letter} was forced")
    every = {one["id"]: one["logprob"] for one in place["top_logprobs"]}
    return dict(list(every.items())[:most]) | {token: every[token]}


async def _place(post: Post, before: Sequence[int], token: int, most: int) -> dict[str, Any] | None:
    """What the server tells of the first token after `before`, which is `token`; None where it tells nothing of it."""
    body = {"prompt": before, "max_tokens": 1, "temperature": 0, "logprobs": most, "logit_bias": [[token, _BIAS]]}
    told = (await post(_COMPLETIONS, body))["choices"][0]["logprobs"]
    place: dict[str, Any] | None = told["content"][0] if told else None
    return place if place and place["id"] == token else None
