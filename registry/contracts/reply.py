"""One model's answer to one prompt as it came, before it is compared with another's."""

from datetime import datetime

from registry.contracts.base import Record


class ToolCall(Record):
    name: str
    arguments: str
    """As the model wrote them: JSON, if it did well."""


class Reply(Record):
    """What a server answered. It holds the model's words, so it is kept no longer than a comparison needs it."""

    id: str
    """Of the prompt."""
    sent_at: datetime
    """UTC."""
    status: int = 0
    """Of HTTP; 0 where no answer came."""
    error: str = ""
    """What went wrong, in a line; empty for an answer."""
    finish_reason: str = ""
    text: str = ""
    tool_calls: list[ToolCall] = []
    prompt_tokens: int | None = None
    """As the server counted; None where it told nothing that can be believed."""
    completion_tokens: int | None = None
    first_token_seconds: float | None = None
    """From sending to the first piece of the answer."""
    seconds: float | None = None
    """From sending to the end."""
    prompt_token_ids: list[int] | None = None
    """None where the engine does not tell tokens, as below."""
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    """Of each token of the answer, in nats."""
