"""Two answers to one prompt, compared. Pure."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from configs.reading.json_text import parse_json
from configs.reading.text import MalformedError
from evals.judging.refusals import is_refusal
from registry.contracts.pair import Answer
from registry.contracts.reply import Reply, ToolCall

_QUOTED_CHARACTERS = 24
"""Of a prompt, in a row: so many are no chance."""
_LEAST_LINE = 6
"""Characters of a line that is a whole one."""


def answer_of(reply: Reply, prompt: str, score: float | None, *, keep_text: bool) -> Answer:
    """What is kept of a reply.

    Args:
        prompt: The text that was asked.
        score: Against the known answer.
        keep_text: Keep the words too, and not only their hash and length.
    """
    shared = {name: getattr(reply, name) for name in Answer.model_fields if name in Reply.model_fields}
    words = said_by(reply)
    logprobs = reply.logprobs or []
    return Answer.model_validate(
        shared
        | {
            "error": reply.error if keep_text else without_quotes(reply.error, prompt),
            "refused": not reply.error and is_refusal(reply.text),
            "characters": len(words),
            "text_hash": "" if reply.error else "sha256:" + hashlib.sha256(words.encode()).hexdigest(),
            "text": words if keep_text else "",
            "score": None if reply.error else score,
            "mean_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
            "least_logprob": min(logprobs, default=None),
        }
    )


def without_quotes(error: str, prompt: str) -> str:
    """A server's refusal without its words where they repeat the prompt, as some do with what they do not take."""
    lines = [line.strip() for line in prompt.splitlines() if len(line.strip()) >= _LEAST_LINE]
    windows = [error[place : place + _QUOTED_CHARACTERS] for place in range(len(error) - _QUOTED_CHARACTERS + 1)]
    if not any(line in error for line in lines) and not any(window in prompt for window in windows):
        return error
    return f"{error.partition(':')[0]}: its words repeat the prompt and are not kept"


def said_by(reply: Reply) -> str:
    """An answer's text, with its tool calls behind it, a line each."""
    return "\n".join([reply.text, *(f"{call.name} {call.arguments}" for call in reply.tool_calls)])


def same_answer(champion: Reply, candidate: Reply) -> bool | None:
    """Whether both say the same words and call the same tools; None where one of them failed."""
    if champion.error or candidate.error:
        return None
    return champion.text == candidate.text and _calls(champion.tool_calls) == _calls(candidate.tool_calls)


def same_tool_calls(champion: Reply, candidate: Reply) -> bool | None:
    """Whether both call the same tools in the same order with equal arguments; None where the champion calls none, or
    one of them failed."""
    if champion.error or candidate.error or not champion.tool_calls:
        return None
    return _calls(champion.tool_calls) == _calls(candidate.tool_calls)


def first_difference(champion: Sequence[int] | None, candidate: Sequence[int] | None) -> int | None:
    """Token, from 0, at which two answers part; where one is the other's beginning, the one after its last.

    Args:
        champion: Token ids; None where they are not known.

    Returns:
        None where they never part, or are not known.
    """
    if champion is None or candidate is None or list(champion) == list(candidate):
        return None
    pairs = zip(champion, candidate, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(champion), len(candidate)))


def _calls(calls: Sequence[ToolCall]) -> list[tuple[str, str]]:
    return [(call.name, _canonical(call.arguments)) for call in calls]


def _canonical(arguments: str) -> str:
    """Equal for equal JSON, whatever the order of keys; what is no JSON as it is."""
    try:
        value: Any = parse_json(arguments, of_model=True)
    except MalformedError:
        return arguments
    return json.dumps(value, sort_keys=True)
