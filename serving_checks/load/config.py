"""What load is put on a server, and what a request has to keep to count as good."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Count, LocalPath, PerSecond, Seconds, Seed, Share, Tokens
from registry.contracts.serving import SLO

MixName = Literal["short", "medium", "long", "mixed"]
KEEPING_SHARE = 0.95
"""Share of requests that have to keep the SLO where nothing else is said."""
_AtLeastOne = Annotated[Count, Field(ge=1)]
_Rate = Annotated[PerSecond, Field(gt=0)]


class Synchronous(StrictModel):
    """One request at a time: the latency of a server that has nothing else to do."""

    kind: Literal["synchronous"]


class Concurrent(StrictModel):
    """Closed loop: a number of requests is kept in flight, one load test for each level."""

    kind: Literal["concurrent"]
    levels: list[_AtLeastOne] = Field(default=[1, 4, 10, 32], min_length=1)
    """Requests in flight."""


class Poisson(StrictModel):
    """Open loop: requests come at random times and wait for nobody, as users do; one load test for each rate."""

    kind: Literal["poisson"]
    requests_per_second: list[_Rate] = Field(min_length=1)
    """Mean arrivals per second."""


class Sweep(StrictModel):
    """Search for the highest Poisson rate that keeps the SLO, on the first of the prompt mixes.

    A closed loop of one request gives the floor, one of `ceiling_concurrency` the ceiling. Half the floor and the
    ceiling are tried, then the middle between the highest rate that kept the SLO and the lowest that did not.
    """

    kind: Literal["sweep"]
    share: Share = Field(default=KEEPING_SHARE, gt=0)
    """Share of requests that have to keep the SLO."""
    steps: Count = Field(default=6, ge=2, le=1000)
    """Most rates that are tried."""
    ceiling_concurrency: Count = Field(default=32, ge=1)
    """Requests in flight in the closed loop that gives the highest throughput."""


Profile = Annotated[Synchronous | Concurrent | Poisson | Sweep, Field(discriminator="kind")]


class Prompts(StrictModel):
    """Prompts of exact lengths, as the server counts tokens, cut from real text; no two of a run begin alike."""

    mixes: list[MixName] = Field(default=["short"], min_length=1)
    """Each profile is run on each of these; `mixed` takes the three lengths in turns, in random order."""
    short: Tokens = Field(default=64, ge=2)
    """Tokens of a short prompt, special tokens included."""
    medium: Tokens = Field(default=256, ge=2)
    """Tokens of a medium prompt."""
    long: Tokens = Field(default=1024, ge=2)
    """Tokens of a long prompt."""
    file: LocalPath | None = None
    """A text, or JSON lines with a `text` each, to cut prompts from; the package's own prose when left out."""

    @model_validator(mode="after")
    def _each_mix_once(self) -> Self:
        if len(set(self.mixes)) < len(self.mixes):
            raise ValueError("a mix stands twice in `mixes`")
        return self

    def lengths(self, mix: MixName) -> list[int]:
        """Prompt lengths of a mix, in tokens."""
        return [self.short, self.medium, self.long] if mix == "mixed" else [getattr(self, mix)]


class LoadConfig(StrictModel):
    """Load tests of one model: every profile on every prompt mix, with answers of a fixed length."""

    profiles: list[Profile] = Field(default=[Concurrent(kind="concurrent")], min_length=1)
    """What arrives when: `synchronous`, `concurrent`, `poisson`, and at most one `sweep`."""
    prompts: Prompts = Prompts()
    """What is asked."""
    slo: SLO | None = None
    """What a request has to keep to count as good; without, goodput is not told and there is no sweep."""
    requests: Count = Field(default=32, ge=1)
    """Requests of each load test; at least the highest concurrency, or it would never be reached."""
    output_tokens: Tokens = Field(default=32, ge=2)
    """Length of each answer; the model's own end is ignored. Two at least: one token has no time per output token."""
    seed: Seed = 0
    """Of prompts and arrivals; the same for every model, so all are asked the same."""
    warmup_output_tokens: Tokens = 4
    """Before each load test its prompt lengths are sent once, as many at a time as it has in flight (at most 8 in an
    open loop), with answers of this length. 0 leaves the warm-up out."""
    request_timeout_seconds: Seconds = Field(default=600.0, gt=0)
    """When the client gives up on a request; it counts as failed."""
    deadline_seconds: Seconds = Field(default=1800.0, gt=0)
    """For all load tests of one model together."""

    @property
    def concurrencies(self) -> list[int]:
        """Levels of the closed loop."""
        return [level for one in self.profiles if isinstance(one, Concurrent) for level in one.levels]

    @property
    def keeping_share(self) -> float:
        """Share of a load test's requests that have to keep the SLO: the sweep's, where there is one."""
        return next((one.share for one in self.profiles if isinstance(one, Sweep)), KEEPING_SHARE)

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if self.highest_concurrency > self.requests:
            raise ValueError(
                f"{self.highest_concurrency} requests in flight need as many `requests`, which is {self.requests}"
            )
        limits = [] if self.slo is None else [self.slo.ttft_seconds, self.slo.tpot_seconds, self.slo.e2e_seconds]
        asked = [limit for limit in limits if limit is not None]
        if self.slo is not None and (not asked or min(asked) <= 0):
            raise ValueError("`slo` needs at least one of ttft_seconds, tpot_seconds, e2e_seconds, each above 0")
        sweeps = [profile for profile in self.profiles if isinstance(profile, Sweep)]
        if len(sweeps) > 1:
            raise ValueError("more than one `sweep` in `profiles`; one search is kept for each model")
        if sweeps and self.slo is None:
            raise ValueError("a `sweep` searches for the highest rate that keeps the SLO: write an `slo` beside it")
        return self

    @property
    def highest_concurrency(self) -> int:
        """Most requests that a closed loop keeps in flight."""
        levels = [1]
        for profile in self.profiles:
            if isinstance(profile, Concurrent):
                levels += profile.levels
            elif isinstance(profile, Sweep):
                levels.append(profile.ceiling_concurrency)
        return max(levels)

    @property
    def most_in_flight(self) -> int:
        """Most requests that can be open at once: in an open loop all of a load test."""
        is_open = any(isinstance(profile, Poisson | Sweep) for profile in self.profiles)
        return self.requests if is_open else self.highest_concurrency

    @property
    def longest_request_tokens(self) -> int:
        """Prompt and answer of the longest request."""
        return max(length for mix in self.prompts.mixes for length in self.prompts.lengths(mix)) + self.output_tokens

    def check_fits(self, max_model_len: int) -> None:
        """Refuse a load that the server's context does not hold.

        Raises:
            RequestError: The longest prompt and its answer are longer than `max_model_len` tokens.
        """
        if self.longest_request_tokens > max_model_len:
            raise RequestError(
                f"a load test of {self.longest_request_tokens} tokens does not fit the server's {max_model_len}",
                remedy="lower the lengths under `prompts` or `output_tokens`, or raise `max_model_len`",
            )
