"""Do long prompts starve short ones, or short ones the long?

Short requests are sent by a few clients, each its next one when it has the last token of the one before: first alone,
then beside long prompts, until the last long one is answered. A server that reads a long prompt in one go lets every
short one wait for it, and one that always takes the shortest lets the long ones wait.

The clients wait for their answers, so a server that stalls is asked less often while it does: the highest percentiles
show a stall, the median may not. Sources: vLLM, "Optimization and Tuning", on chunked prefill; Schroeder, Wierman and
Harchol-Balter, "Open Versus Closed: A Cautionary Tale" (NSDI 2006), on such clients.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.errors import RequestError, UnreadableError
from configs.quantities import Count, Ratio, Seconds, Seed, Tokens
from configs.reading.json_text import read_json_object
from registry.contracts.serving import CheckRecord, Endpoint
from serving_checks.transport.streaming import Prompt, StreamedAnswer, StreamingClient, not_done, run_check

PromptOf = Callable[[int], Prompt]
"""Makes a new prompt of about so many tokens, unlike all before from its start, or the prefix cache would answer it."""


class StarvationConfig(StrictModel):
    """The load of the starvation check and its limits; a limit that is null is not looked at."""

    short_requests: Count = Field(default=32, ge=2)
    """Alone, and at least as many beside the long ones."""
    short_prompt_tokens: Tokens = Field(default=32, ge=1)
    short_clients: Count = Field(default=2, ge=1)
    """Short requests in flight at once."""
    long_requests: Count = Field(default=4, ge=1)
    long_prompt_tokens: Tokens | None = Field(default=None, ge=1)
    """Half of the context, 1024 at most, when null."""
    long_clients: Count = Field(default=2, ge=1)
    """Long requests in flight at once."""
    output_tokens: Tokens = Field(default=4, ge=1)
    """Of every answer."""
    seed: Seed = 0
    """Of the prompts, where the check makes them itself."""
    max_ttft_ratio: Ratio | None = Field(default=10.0, gt=0)
    """Short requests' time to first token, 99th percentile: beside long ones over alone."""
    max_short_ttft_p99_seconds: Seconds | None = Field(default=None, gt=0)
    """The same percentile beside long requests."""
    max_long_ttft_seconds: Seconds | None = Field(default=None, gt=0)
    """The longest wait of a long request for its first token."""
    deadline_seconds: Seconds = Field(default=600.0, gt=0)
    """For the whole check."""

    @model_validator(mode="after")
    def _long_is_longer(self) -> Self:
        if self.long_prompt_tokens is not None and self.long_prompt_tokens <= self.short_prompt_tokens:
            raise ValueError("`long_prompt_tokens` must be more than `short_prompt_tokens`")
        return self

    def long_tokens(self, max_model_len: int) -> int:
        """Of a long prompt for a server with this context.

        Raises:
            RequestError: Prompt and answer do not fit it, or a long prompt would be no longer than a short one.
        """
        tokens = self.long_prompt_tokens or min(1024, max_model_len // 2)
        if tokens + self.output_tokens > max_model_len or tokens <= self.short_prompt_tokens:
            raise RequestError(
                f"the starvation check's long requests have {tokens} + {self.output_tokens} tokens, its short prompts"
                f" {self.short_prompt_tokens}, and the server's context {max_model_len}",
                remedy="change `long_prompt_tokens` or `short_prompt_tokens`, raise `max_model_len`, or set"
                " `starvation: null`",
            )
        return tokens


class Waits(NamedTuple):
    """Seconds from sending a request to its first token."""

    long_prompt_tokens: Tokens
    short_alone: list[float]
    short_mixed: list[float]
    long_mixed: list[float]


def check_starvation(
    endpoint: Endpoint,
    config: StarvationConfig,
    prompt_of: PromptOf | None = None,
    *,
    fixed_length: Mapping[str, Any] = {},
) -> CheckRecord:
    """Measure short requests alone and beside long ones, and hold what they waited against the limits.

    Args:
        prompt_of: Makes the prompts; random token ids of the served model's vocabulary when None.
        fixed_length: See StreamingClient.

    Raises:
        RequestError: A long request does not fit the server's context, or the vocabulary's size is not known.
        StageError: The server died, refused a request, or answered without a token.
    """
    long_tokens = config.long_tokens(endpoint.max_model_len)
    prompt_of = prompt_of or random_prompts(Path(endpoint.model_path), config.seed)
    waits = run_check(
        _waits(StreamingClient(endpoint, fixed_length), config, long_tokens, prompt_of), config.deadline_seconds
    )
    return not_done("starvation", config.deadline_seconds) if waits is None else judge(waits, config)


def random_prompts(model_dir: Path, seed: int) -> PromptOf:
    """Makes prompts of exactly as many token ids as asked for, drawn from the model's vocabulary.

    Raises:
        RequestError: The model's config does not say how large its vocabulary is.
    """
    config_file = model_dir / "config.json"
    try:
        config = read_json_object(config_file)
        vocabulary = int(config["vocab_size"] if "vocab_size" in config else config["text_config"]["vocab_size"])
    except (UnreadableError, ValueError, LookupError, TypeError) as error:
        raise RequestError(
            f"{config_file} does not tell the vocabulary's size: {error!r}",
            remedy="serve a model directory, or hand the check prompts of your own",
        ) from error
    draw = random.Random(seed)  # noqa: S311 - prompts are no secrets
    return lambda tokens: [draw.randrange(vocabulary) for _ in range(tokens)]


def judge(waits: Waits, config: StarvationConfig) -> CheckRecord:
    """Hold the waits against the limits; without limits there is nothing to pass."""
    import numpy as np

    alone, mixed = (float(np.percentile(values, 99)) for values in (waits.short_alone, waits.short_mixed))
    numbers = {
        "short_ttft_p50_alone_seconds": float(np.median(waits.short_alone)),
        "short_ttft_p50_mixed_seconds": float(np.median(waits.short_mixed)),
        "short_ttft_p99_alone_seconds": alone,
        "short_ttft_p99_mixed_seconds": mixed,
        "short_ttft_p99_ratio": mixed / alone,
        "long_ttft_max_seconds": max(waits.long_mixed),
        "short_requests_alone": float(len(waits.short_alone)),
        "short_requests_mixed": float(len(waits.short_mixed)),
        "long_requests": float(len(waits.long_mixed)),
        "long_prompt_tokens": float(waits.long_prompt_tokens),
    }
    limits = [
        (
            mixed / alone,
            config.max_ttft_ratio,
            f"short requests' p99 time to first token beside prompts of {waits.long_prompt_tokens} tokens is "
            f"{mixed / alone:.1f} times that alone ({mixed:.3f} s and {alone:.3f} s)",
            "times",
        ),
        (
            mixed,
            config.max_short_ttft_p99_seconds,
            f"short requests' p99 time to first token beside long ones is {mixed:.3f} s",
            "s",
        ),
        (
            max(waits.long_mixed),
            config.max_long_ttft_seconds,
            f"the longest wait of a long request for its first token is {max(waits.long_mixed):.3f} s",
            "s",
        ),
    ]
    judged = [
        (value <= limit, f"{said}; limit {limit:g} {unit}") for value, limit, said, unit in limits if limit is not None
    ]
    if not judged:
        said = "; ".join(said for _, _, said, _ in limits)
        return CheckRecord(
            check="starvation",
            outcome="not_run",
            reason=f"no limit is set, so nothing was judged: {said}",
            numbers=numbers,
        )
    failed = [said for good, said in judged if not good]
    return CheckRecord(
        check="starvation",
        outcome="fail" if failed else "pass",
        reason="; ".join(failed or [said for _, said in judged]),
        numbers=numbers,
    )


async def _waits(client: StreamingClient, config: StarvationConfig, long_tokens: int, prompt_of: PromptOf) -> Waits:
    async def ask(prompt_tokens: int) -> StreamedAnswer:
        return await client.complete(prompt_of(prompt_tokens), config.output_tokens)

    async def shorts(more: Callable[[int], bool]) -> list[StreamedAnswer]:
        """Keep short requests in flight as long as `more`, told how many were sent, says so."""
        sent, answers = 0, list[StreamedAnswer]()

        async def work() -> None:
            nonlocal sent
            while more(sent):
                sent += 1
                answers.append(await ask(config.short_prompt_tokens))

        async with asyncio.TaskGroup() as group:
            for _ in range(config.short_clients):
                group.create_task(work())
        return answers

    async with client:
        await ask(config.short_prompt_tokens)  # what a server does at its first request is not measured
        alone = await shorts(lambda sent: sent < config.short_requests)
        places, finished = asyncio.Semaphore(config.long_clients), 0

        async def long_one() -> StreamedAnswer:
            nonlocal finished
            async with places:
                answer = await ask(long_tokens)
            finished += 1
            return answer

        async with asyncio.TaskGroup() as group:
            beside = group.create_task(
                shorts(lambda sent: sent < config.short_requests or finished < config.long_requests)
            )
            longs = [group.create_task(long_one()) for _ in range(config.long_requests)]
    return Waits(long_tokens, _ttfts(alone), _ttfts(beside.result()), _ttfts([task.result() for task in longs]))


def _ttfts(answers: Sequence[StreamedAnswer]) -> list[float]:
    return [answer.ttft_seconds for answer in answers]
