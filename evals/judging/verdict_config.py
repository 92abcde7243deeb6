"""How pairs of answers are to be judged: written down before the first pair, and known by its digest."""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Ratio, Share
from registry.hashing import digest_of


class Limits(StrictModel):
    """What is judged, and the limit of each; a metric without a limit is not judged. docs/verdict.md describes them."""

    errors: Share | None = Field(default=None, gt=0, lt=1)
    """Share of answers that failed: by how much the candidate's may be higher."""
    score: Share | None = Field(default=None, gt=0, lt=1)
    """Score against known answers: by how much the candidate's may be lower."""
    same: Share | None = Field(default=None, gt=0, lt=1)
    """Least share of prompts to which both say the same. Long answers differ soon, so it depends on the prompts."""
    agreement: Share | None = Field(default=None, gt=0, lt=1)
    """Least share of the champion's tokens that are the candidate's likeliest too."""
    logprob: Ratio | None = Field(default=None, gt=0)
    """By how many nats a token the candidate's mean log-probability of the champion's answer may be lower."""
    refusals: Share | None = Field(default=None, gt=0, lt=1)
    """Share of answers that decline: by how much the candidate's may be higher."""
    tool_calls: Share | None = Field(default=None, gt=0, lt=1)
    """Least share of the champion's tool calls that the candidate makes equally."""
    length_stops: Share | None = Field(default=None, gt=0, lt=1)
    """Share of answers that were cut at the token limit: by how much the candidate's may be higher."""
    tokens: Ratio | None = Field(default=None, gt=0)
    """By which share an answer may be longer in tokens (0.1: ten per cent)."""
    latency: Ratio | None = Field(default=None, gt=0)
    """The same of the seconds to the end of the answer."""
    first_token: Ratio | None = Field(default=None, gt=0)
    """The same of the seconds to the first token."""
    time_per_token: Ratio | None = Field(default=None, gt=0)
    """The same of the seconds for each token after the first."""
    preference: Share | None = Field(default=None, gt=0, lt=1)
    """How far a judge model's mean preference may be on the champion's side, where 1 is always; never judged alone."""

    @property
    def given(self) -> dict[str, float]:
        """Limit by metric, of those that have one."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


DEFAULT_LIMITS = Limits(
    errors=0.01,
    score=0.02,
    agreement=0.9,
    logprob=0.05,
    refusals=0.02,
    tool_calls=0.95,
    length_stops=0.02,
    tokens=0.1,
    latency=0.1,
    first_token=0.1,
    time_per_token=0.1,
)
"""Where nothing is asked for: all but `same`, whose share depends on the prompts, and `preference`, an opinion."""


class VerdictConfig(StrictModel):
    """What is judged, how strictly, and on how many pairs at most."""

    alpha: Share = Field(default=0.05, ge=1e-6, lt=0.5)
    """Chance that the verdict is ever a wrong pass, over all metrics, classes and looks; the same for a wrong fail."""
    budget_pairs: Count = Field(default=20_000, ge=1)
    """Pairs after which what is not decided is inconclusive; later ones are not judged."""
    metrics: Limits = DEFAULT_LIMITS
    unrecorded: Literal["inconclusive", "left out"] = "inconclusive"
    """What becomes of a metric that has a limit and of which nothing was recorded. `left out` where `metrics` is not
    given either: then all is judged that was recorded."""
    classes: Literal["all", "each"] = "all"
    """`each`: every class of prompts is judged as well, for itself."""
    least_class_pairs: Count = Field(default=200, ge=10)
    """Classes with fewer pairs are not judged for themselves."""
    ratio_clip: Ratio = Field(default=4.0, gt=1)
    """Ratios beyond this factor, either way, count as this factor."""
    logprob_clip: Ratio = Field(default=1.0, gt=0)
    """Differences of log-probability beyond so many nats a token, either way, count as so many."""

    @model_validator(mode="before")
    @classmethod
    def _all_that_was_recorded_where_nothing_is_asked_for(cls, asked: Any) -> Any:
        if isinstance(asked, dict) and "metrics" not in asked:
            return {"unrecorded": "left out"} | asked
        return asked

    @model_validator(mode="after")
    def _something_is_judged(self) -> "VerdictConfig":
        given = self.metrics.given
        if not given:
            raise ValueError("no metric has a limit, so there is nothing to judge")
        if list(given) == ["preference"]:
            raise ValueError(
                "`preference` alone is a model's opinion and no evidence: give another metric a limit beside it"
            )
        return self

    @model_validator(mode="after")
    def _limits_lie_within_the_clips(self) -> "VerdictConfig":
        given = self.metrics.given
        for name in ("tokens", "latency", "first_token", "time_per_token"):
            if name in given and 1 + given[name] >= self.ratio_clip:
                raise ValueError(f"`{name}` allows a ratio of {1 + given[name]:g}: `ratio_clip` has to be more")
        if given.get("logprob", -math.inf) >= self.logprob_clip:
            raise ValueError(f"`logprob` allows {given['logprob']:g} nats: `logprob_clip` has to be more")
        return self

    @model_validator(mode="after")
    def _classes_fit_into_the_budget(self) -> "VerdictConfig":
        if self.classes == "each" and self.least_class_pairs > self.budget_pairs:
            raise ValueError(
                f"no class can have the {self.least_class_pairs} pairs of `least_class_pairs` within a budget of"
                f" {self.budget_pairs}"
            )
        return self


def verdict_digest(config: VerdictConfig) -> str:
    """What a config is known by. Stored before the first pair, it proves that no limit was chosen by the results."""
    return digest_of(config.model_dump(mode="json"))
