"""Which prompts a cheap artifact may answer in a precise one's place, and what the records say that this costs."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from registry.contracts.base import Record

RouteKind = Literal["cascade", "classes", "classifier"]
RouteQuality = Literal["score", "same"]
"""`score`: against known answers. `same`: the cheap one's answer is the precise one's, where no answers are known."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A rule with what is no number would send everything one way."""


class CascadeRule(Record):
    """The cheap artifact answers first; the precise one is asked where that answer is unsure."""

    threshold: Annotated[Finite, Field(le=0)]
    """Least mean log-probability of a token, in nats, of an answer that the client gets."""


class ClassesRule(Record):
    """The prompt's class decides."""

    class_by: dict[str, Any] | None
    """A ClassesConfig: how a prompt's class is found. None where the records do not say: then it is no route that a
    gateway can take."""
    cheap: list[str]
    """Classes that the cheap artifact answers; the precise one answers all others, and prompts without a class."""


class ClassifierRule(Record):
    """A logistic regression on the prompt's text: `registry.prompt_features`."""

    threshold: Annotated[Finite, Field(ge=0, le=1)]
    """Largest probability that the cheap artifact is worse, of a prompt that it answers."""
    intercept: Finite
    weights: dict[str, Finite]
    """Of the features, by their names; all others have none."""
    trained_on: int
    """Items, of which none is among those that the threshold was calibrated on."""


class RouteCurve(Record):
    """Quality against the share that is served cheaply, from none to all, over the items of one method."""

    share_cheap: list[float]
    quality: list[float]
    """Mean over all items, whoever answers them."""
    average_gap_recovered: float | None
    """Of the gap between cheap and precise, over all shares: 0.5 for a random choice (RouteLLM's APGR). None where the
    items do not show that the precise one is better."""
    precise_share_for: dict[str, float | None]
    """Smallest share of precise calls that recovers 20, 50 and 80 % of the gap; None likewise."""


class RouteLatency(Record):
    """Seconds from a request to its answer's end; of an unsure answer both are counted, one after the other."""

    p50: float
    p95: float
    p50_cheap: float
    """If the cheap one answered all."""
    p95_cheap: float
    p50_precise: float
    p95_precise: float


class RoutedClass(Record):
    """One class of prompts under a rule that was calibrated on all of them together."""

    name: str
    items: int
    share_cheap: float
    loss: float
    loss_low: float
    loss_high: float


class RouteOutcome(Record):
    """What one method comes to at the strictest loss that it can be held to. Losses and qualities are fractions."""

    kind: RouteKind
    supported: bool
    reason: str
    """One sentence with the numbers."""
    items: int
    """That it was calibrated on."""
    alpha: float
    """Its part of the chance to be wrong."""
    quality_precise: float
    """Mean over these items if the precise one answered all."""
    quality_cheap: float
    quality: float
    """By the rule."""
    share_cheap: float
    """0 for a method that is not supported."""
    loss: float
    """Quality of the precise one less the rule's, as seen."""
    loss_low: float
    """Bounds of the true one, each at `alpha` for this rule alone."""
    loss_high: float
    flips: int
    """Items at which the cheap one is worse."""
    flips_recovered: int
    """Of these, those that the precise one answers."""
    flips_per_call: float | None
    """Recovered for each precise call; None where there is no call."""
    flips_per_call_random: float
    """The same of calls that are chosen at random."""
    gain_over_random: float
    """Quality above that of a random choice of as many calls."""
    gain_low: float
    gain_high: float
    latency: RouteLatency | None
    """None where no times were recorded."""
    classes: list[RoutedClass]
    curve: RouteCurve
    oracle: RouteCurve
    """Of a choice that knows both answers: no router is better."""


class RouteRecord(Record):
    """`route.json`: what `quantbench shadow route` found, and the rule that a gateway may follow."""

    source: str
    """The folder of pairs, or the run."""
    cheap: str | None
    """Digest of the artifact; None for a server that ran already, whose artifact is not known."""
    precise: str | None
    quality: RouteQuality
    loss: float
    """What may be lost: a fraction, 0.01 is one point."""
    alpha: float
    """Chance that a rule that loses more is taken for one that does not, over all methods and looks."""
    least_share: float
    """A rule that serves less cheaply is not worth having."""
    items: int
    left_out: dict[str, int]
    """Records that say nothing, by why."""
    items_digest: str
    """Of the items' ids and outcomes in their order."""
    outcomes: list[RouteOutcome]
    chosen: RouteKind | None
    """The supported one that serves the largest share cheaply; None where none is supported."""
    cascade: CascadeRule | None = None
    classes: ClassesRule | None = None
    classifier: ClassifierRule | None = None
    made_at: datetime
    """UTC."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        rules = [kind for kind in ("cascade", "classes", "classifier") if getattr(self, kind) is not None]
        if rules != ([self.chosen] if self.chosen else []):
            raise ValueError("it has to hold the rule that was chosen, and no other")
        return self
