"""What a model said about each token of the fixed texts: written by whoever runs it, compared by `evals`."""

import math

from pydantic import model_validator

from registry.contracts.base import Record

TOKEN_LOGPROBS_FILE = "token_logprobs.jsonl"  # noqa: S105 - no password
TOP_LOGPROBS = 20
"""So many of the most likely tokens are told at each position; vLLM's own limit (`--max-logprobs`)."""


class PromptLogprobs(Record):
    """What one model said about one text; a line of the file."""

    text: str
    tokens: list[int]
    """The text's token ids."""
    ids: list[list[int]]
    """For each token but the first: the most likely tokens there and the text's own, the likeliest first."""
    logprobs: list[list[float]]
    """Their log-probabilities in nats, in the same order."""

    @model_validator(mode="after")
    def _one_place_a_token(self) -> "PromptLogprobs":
        lengths = [len(place) for place in self.ids]
        if not lengths or not all(lengths) or len(lengths) != len(self.tokens) - 1:
            raise ValueError(f"{len(self.tokens)} tokens, {sum(map(bool, lengths))} places with log-probabilities")
        if [len(place) for place in self.logprobs] != lengths:
            raise ValueError("ids and log-probabilities do not match")
        if not all(math.isfinite(logprob) for place in self.logprobs for logprob in place):
            raise ValueError("a log-probability is not a number: weights, dtype or the engine's kernel make it so")
        return self
