"""What an artifact has to be besides good enough, and what is looked for among those that are."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.quantities import Count, LocalPath, Mebibytes, PerSecond, Ratio, Seconds

Goal = Literal["most accurate", "fastest", "smallest", "most users", "cheapest"]


class LoadLimit(StrictModel):
    """What one level of the closed loop has to give, under the first mix of prompts."""

    concurrency: Annotated[Count, Field(ge=1)]
    """Requests at a time; one of `load`'s levels."""
    output_tokens_per_second: PerSecond | None = None
    """At least."""
    of_baseline: Ratio | None = None
    """At least so many times the baseline's output tokens per second."""
    ttft_p50_seconds: Seconds | None = None
    """At most, and so below."""
    ttft_p99_seconds: Seconds | None = None
    tpot_p50_seconds: Seconds | None = None
    tpot_p99_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.model_fields_set <= {"concurrency"}:
            raise ValueError("a load without a limit says nothing: add `output_tokens_per_second`, or another")
        return self


class Policy(StrictModel):
    """Hard limits of an artifact that is to be deployed; its suite's margins always hold."""

    size_mib: Mebibytes | None = None
    """Most bytes of its safetensors, in MiB."""
    memory_mib: Mebibytes | None = None
    """Highest peak of all of its server's processes, in MiB."""
    loads: list[LoadLimit] = []
    fallback_modules: Count = 0
    """Most Linears that the engine could not quantize as asked."""
    verbosity: Ratio | None = None
    """Most times the baseline's tokens that its generated answers may take, such as 1.1; needs a suite that generates.
    """
    signature: LocalPath | None = None
    """Public key (PEM) by which an artifact has to be signed before an alias moves to it: `quantbench artifacts sign`.
    """
    shadow_verdict: Literal["pass"] | None = None
    """Before `champion` moves to an artifact, the ledger has to hold that it passed beside what is champion then: by a
    ramp that ended, or by `quantbench shadow verdict --record`.
    """
    checks: bool = True
    """No proof about its server may have failed; one that was not run counts neither way."""


class RecommendConfig(StrictModel):
    """What is looked for among the artifacts that pass."""

    goal: Goal = "most accurate"
    """`most users` is the most requests of full context on the device's memory, computed from weights and KV cache.
    `cheapest` is the lowest price of a million tokens, blended, at `concurrency`; it needs the recipe's `price`."""
    concurrency: Annotated[Count, Field(ge=1)] | None = None
    """Load at which speeds are compared; the highest level when null."""

    @model_validator(mode="before")
    @classmethod
    def _price_is_told_once(cls, said: object) -> object:
        if isinstance(said, dict) and "price_per_hour" in said:
            raise ValueError(
                "`price_per_hour` is no key any more; the price stands beside `recommend`, for all costs:"
                " `include: ../prices/cpu.yaml`, or `price: {device: ..., currency: USD, per_hour: ..., source: ...,"
                ' read_on: "2026-11-26"}`'
            )
        return said
