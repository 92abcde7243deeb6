"""One prompt, two models: what replay and shadow traffic record, and what verdicts are judged from."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from registry.contracts.base import Record

PairSource = Literal["replay", "mirror", "split", "route"]


class Answer(Record):
    """One side's answer to a prompt."""

    version: str = ""
    """Of the registered model, that answered live traffic; empty in a replay, whose record names the models."""
    status: int = 0
    """Of HTTP; 0 where no answer came."""
    error: str = ""
    """What went wrong, in a line; empty for an answer."""
    finish_reason: str = ""
    """As the engine says it: stop, length, tool_calls."""
    refused: bool = False
    """It declines to answer, by the words it begins with."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    characters: int = 0
    text_hash: str = ""
    """sha256 of the text."""
    text: str = ""
    """Kept only where the config allows it."""
    first_token_seconds: float | None = None
    """From sending to the first token; None where it was not streamed."""
    seconds: float | None = None
    """From sending to the end."""
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Against the known answer; None where there is none."""
    mean_logprob: float | None = None
    """Of a token of this answer under the model that gave it, in nats; None where it was not asked for, as below."""
    least_logprob: float | None = None
    """Of its least likely token."""

    @property
    def failed(self) -> bool:
        """Whether there is no answer to compare."""
        return bool(self.error)


class Pair(Record):
    """A prompt and the answers of champion and candidate. What is not known is None, never 0."""

    id: str
    """The same for the same prompt of the same source, so that nothing is asked or counted twice."""
    number: int
    """Place in the order in which pairs are judged, from 0."""
    source: PairSource
    at: datetime
    """When the prompt was sent first, UTC."""
    prompt_class: str = ""
    """What it is judged under besides all; empty for none."""
    route: str = ""
    """Why that side answered the client, in a word of `serving_checks.gateway.routing`; empty where nothing routed."""
    prompt_hash: str
    """sha256 of the request's body without its model's name."""
    prompt_characters: int
    prompt: str = ""
    """The body as JSON, kept only where the config allows it."""
    champion: Answer
    candidate: Answer
    same: bool | None = None
    """Both answers are the same text and tool calls; None where one failed."""
    first_difference: int | None = None
    """Token at which the candidate first says something else, from 0; None where it never does or nothing is known."""
    same_tool_calls: bool | None = None
    """The tool calls are equal as parsed JSON; None where the champion made none."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the champion's tokens that are the candidate's likeliest."""
    champion_logprob: float | None = None
    """Mean log-probability of a token of the champion's answer under the champion, in nats."""
    candidate_logprob: float | None = None
    """The same answer's under the candidate."""
    preference: Annotated[float, Field(ge=-1, le=1)] | None = None
    """A judge model's, asked in both orders: 1 for the candidate, -1 for the champion, 0 for a tie or two opinions."""
