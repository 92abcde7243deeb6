"""What is replayed, in which order, and how it is asked."""

from typing import Annotated, Literal

from pydantic import Field

from configs.base import StrictModel
from configs.quantities import Count, LocalPath, Seconds, Seed, Share
from registry.contracts.replay import LogFormat


class PromptsConfig(StrictModel):
    """A log of requests, as JSON lines."""

    file: LocalPath
    format: LogFormat | Literal["auto"] = "auto"
    """`auto` looks at the first lines, and refuses where they might be of two formats."""
    limit: Annotated[Count, Field(ge=1)] | None = None
    """Prompts that are drawn; all of them when null."""
    seed: Seed = 0
    """Of the order: prompts are asked, and judged, in a random one, so that any beginning is a sample of all."""
    most_broken: Share = 0.1
    """Share of lines that may hold no prompt; with more of them the log is refused."""


class AskingConfig(StrictModel):
    """How both models are asked."""

    concurrency: Annotated[Count, Field(ge=1, le=1024)] = 8
    """Prompts in flight at each server."""
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = 300
    """Of one answer, from sending to its end."""
    max_output_tokens: Annotated[Count, Field(ge=1)] = 512
    """Of prompts that name no limit of their own."""
    sampling: Literal["greedy", "as logged"] = "greedy"
    """`greedy` takes the likeliest token always: two answers differ only where the models do. `as logged` keeps each
    prompt's own parameters."""
    seed: Seed = 0
    """Of `as logged`, the same on both sides."""
    logprobs: bool = False
    """Ask for the log-probability of each token of an answer, of which a pair keeps mean and least: what a cascade is
    calibrated on. Only of engines that tell it."""
    score_answers: bool = False
    """Ask the candidate also how likely it finds each token of the champion's answer. One more reading of every prompt
    with its answer, and only by engines that give log-probabilities of a prompt."""
