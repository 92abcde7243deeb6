"""What is replayed, in which order, under which class, and how it is asked."""

from typing import Annotated, Literal, Self

import regex
from pydantic import AfterValidator, Field, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Label, LocalPath, Seconds, Seed, Share
from registry.contracts.replay import LogFormat


def _compiles(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_compiles)]
"""A regular expression of the library `regex`."""


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


class ClassRule(StrictModel):
    name: Label
    """Of the class."""
    pattern: Pattern
    """Looked for anywhere in the prompt's text."""


class ClassesConfig(StrictModel):
    """Where a prompt's class comes from: one of the two."""

    metadata: Label | None = None
    """A key of the request's metadata, whose value is the class."""
    rules: list[ClassRule] = []
    """The first that is found gives the class; none for a prompt without one."""
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = 0.2
    """Of one search: some patterns take hours on some texts."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.metadata is None) == (not self.rules):
            raise ValueError("name either `metadata` or `rules`")
        return self


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
    score_answers: bool = False
    """Ask the candidate also how likely it finds each token of the champion's answer. One more reading of every prompt
    with its answer, and only by engines that give log-probabilities of a prompt."""
