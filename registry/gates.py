"""Non-inferiority gates: a category passes if it surely lost less than its margin. Pure: numbers in, verdicts out.

Two one-sided tests a category, at the margin: `loss >= margin` refuted is a pass, `loss <= margin` refuted is a fail,
neither is inconclusive. Each family (passes, fails) keeps its level over all categories by Holm's procedure, so the
risk that any category passes wrongly is at most alpha however many there are; the same holds for fails.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

from pydantic import Field, model_validator

from configs.base import StrictModel
from registry.contracts.comparison import Undecided, Verdict
from registry.numerals import with_minus

_MOST_ITEMS = 100
"""Beyond this many times the items there are, more of them are not a way to decide."""
_WHY: Mapping[Undecided, str] = {
    "too few items": "too few items",
    "nothing to keep": "the baseline has next to no score, so no loss can show",
    "truncated prompts": "prompts did not fit into the context",
    "no numbers": "cannot be judged",
}


class GatePolicy(StrictModel):
    """What losses are acceptable, and how sure a verdict is."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Risk over all categories together that one passes wrongly; the same for fails."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """Of the detectable loss and of the number of items that would decide."""
    default_margin: float = Field(default=0.02, gt=0)
    margins: Mapping[str, float] = {}
    """Largest acceptable loss of a category: share points, or for perplexity a ratio."""

    truncation_allowed: tuple[str, ...] = ()
    """Categories that are judged although prompts of theirs were cut to the context."""

    def margin(self, category: str) -> float:
        return self.margins.get(category, self.default_margin)


class Evidence(StrictModel):
    """What is known of one category; losses are positive and in the unit of `margin`."""

    category: str
    unit: Literal["share", "perplexity"]
    items: int
    margin: float
    loss: float = 0.0
    loss_low: float = 0.0
    """95 % interval of the loss."""
    loss_high: float = 0.0
    p_pass: float = 1.0
    """Of `the true loss is the margin or more`, one-sided: small means that the category passes."""
    p_fail: float = 1.0
    """Of `the true loss is the margin or less`."""
    chance: float = 0.0
    """What guessing scores."""
    headroom: float | None = None
    """What the baseline could lose before it scores like a guess; None where guessing has no score (perplexity)."""
    headroom_low: float | None = None
    """95 % interval of `headroom`; beside it."""
    headroom_high: float | None = None
    truncated: int = 0
    """Items whose prompt lost its beginning, where the policy does not allow it: they ask for something else."""
    drawn: str = ""
    """How the items hang together, where they are not what was drawn: `in 30 kinds that are a sample`."""
    problem: str | None = None
    """Why the category cannot be judged; its other numbers mean nothing then."""

    @property
    def nothing_to_keep(self) -> bool:
        """Whether the baseline is not surely further above guessing than the margin: it could not show such a loss."""
        return self.headroom_low is not None and self.headroom_low <= self.margin

    @property
    def may_have_something(self) -> bool:
        """Whether the baseline, by its estimate, is further above guessing than the margin."""
        return self.headroom is not None and self.headroom > self.margin


class CategoryVerdict(StrictModel):
    category: str
    verdict: Verdict
    reason: str
    items_to_decide: int | None = None
    undecided: Undecided | None = None
    """Why it is inconclusive."""
    settled: bool = False
    """More items change nothing: it passes, fails, has nothing to keep and cannot pass, or had prompts cut."""

    @model_validator(mode="after")
    def _undecided_for_a_reason(self) -> "CategoryVerdict":
        if (self.verdict == "inconclusive") != (self.undecided is not None):
            raise ValueError("an inconclusive verdict, and no other, says why it is undecided")
        return self


def judge(evidence: Sequence[Evidence], policy: GatePolicy) -> list[CategoryVerdict]:
    """A verdict for each category, in the order given."""
    # A category that cannot be judged keeps its place among the hypotheses (p 1): leaving it out would loosen the rest.
    p_pass, p_fail = holm([one.p_pass for one in evidence]), holm([one.p_fail for one in evidence])
    return [
        _verdict(one, surely_less, surely_more, len(evidence), policy)
        for one, surely_less, surely_more in zip(evidence, p_pass, p_fail, strict=True)
    ]


def overall(verdicts: Sequence[CategoryVerdict]) -> tuple[Verdict, str]:
    """An artifact's verdict: its worst category's. No weight and no mean hides one."""
    if not verdicts:
        return "inconclusive", "there is no category to judge"
    failed = [one.category for one in verdicts if one.verdict == "fail"]
    if failed:
        return "fail", f"fails in {', '.join(failed)} ({len(failed)} of {len(verdicts)} categories)"
    told: list[str] = []
    for cause, why in _WHY.items():
        names = [one.category for one in verdicts if one.undecided == cause]
        if names:
            of_all = "" if told else f" of {len(verdicts)} categories"
            told.append(f"in {', '.join(names)} ({len(names)}{of_all}: {why})")
    if told:
        return "inconclusive", f"undecided {'; '.join(told)}"
    return "pass", f"all {len(verdicts)} categories lose less than their margins"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, Scandinavian Journal of Statistics 6:65, in the order given.

    As statsmodels' `multipletests`, which takes two seconds to import and collects garbage at each call.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _verdict(one: Evidence, p_pass: float, p_fail: float, categories: int, policy: GatePolicy) -> CategoryVerdict:
    if one.problem:
        reason = f"Cannot be judged: {one.problem}."
        return CategoryVerdict(category=one.category, verdict="inconclusive", reason=reason, undecided="no numbers")
    found, allowed = _found(one), _amount(one.margin, one)
    if one.truncated:
        reason = (
            f"{found}; {one.truncated:,} of them lost the beginning of the prompt, which did not fit into the"
            " context, so there is no verdict: raise `max_model_len`, or set `truncation: allow` for the category in"
            " the suite's file."
        )
        return CategoryVerdict(
            category=one.category, verdict="inconclusive", reason=reason, undecided="truncated prompts", settled=True
        )
    if p_fail <= policy.alpha:
        reason = f"{found}; that is surely more than the {allowed} allowed ({_p(p_fail, categories)})."
        return CategoryVerdict(category=one.category, verdict="fail", reason=reason, settled=True)
    if one.nothing_to_keep:
        reason = f"{_next_to_nothing(one)}, so a loss of {allowed} cannot show: {_lower_first(found)}."
        return CategoryVerdict(
            category=one.category,
            verdict="inconclusive",
            reason=reason,
            undecided="nothing to keep",
            # Where the estimate itself lies above the margin, more items may show that there is something.
            settled=p_pass <= policy.alpha and not one.may_have_something,
        )
    if p_pass <= policy.alpha:
        reason = f"{found}; that is surely less than the {allowed} allowed ({_p(p_pass, categories)})."
        return CategoryVerdict(category=one.category, verdict="pass", reason=reason, settled=True)
    needed = items_to_decide(one, policy, categories)
    more = f"about {needed:,} would decide" if needed else "the loss is too near the margin for more items to decide"
    reason = f"{found}; whether that is within the {allowed} allowed, {_items(one)} cannot tell: {more}."
    return CategoryVerdict(
        category=one.category,
        verdict="inconclusive",
        reason=reason,
        items_to_decide=needed,
        undecided="too few items",
    )


def items_to_decide(one: Evidence, policy: GatePolicy, categories: int) -> int | None:
    """Items in all with which the observed loss would be decided with the policy's power at alpha / categories.

    The statistic at the margin grows with the root of the items, so n ((z_alpha + z_power) / z)^2 are needed. None
    where that is more than 100 times the items there are.
    """
    normal = NormalDist()
    smaller = min(one.p_pass, one.p_fail)
    if not 0 < smaller < 0.5:
        return None
    reach = -normal.inv_cdf(policy.alpha / categories) + normal.inv_cdf(policy.power)
    needed = one.items * (reach / -normal.inv_cdf(smaller)) ** 2
    return max(one.items + 1, math.ceil(needed)) if needed <= _MOST_ITEMS * one.items else None


def _found(one: Evidence) -> str:
    """What was observed: `Scores 1.2 points lower (95 % interval of the loss 0.3 to 2.1) over 500 items`."""
    low, high = (_number(end, one) for end in (one.loss_low, one.loss_high))
    interval = f"95 % interval of the loss {low} to {high}"
    size = _amount(abs(one.loss), one)
    same = size == _amount(0.0, one)
    if one.unit == "share":
        how = "the same" if same else f"{size} {'lower' if one.loss >= 0 else 'higher'}"
        return f"Scores {how} ({interval}) over {_items(one)}"
    how = "the same" if same else f"{size} {'higher' if one.loss >= 0 else 'lower'}"
    return f"Perplexity is {how} ({interval}) over {_items(one)}"


def _next_to_nothing(one: Evidence) -> str:
    """`The baseline scores only 1.0 points above guessing (95 % interval -1.6 to 3.8)`"""
    headroom, low, high = one.headroom or 0.0, one.headroom_low or 0.0, one.headroom_high or 0.0
    interval = f"95 % interval {_number(low, one)} to {_number(high, one)}"
    room = _amount(max(0.0, headroom), one)
    if not one.chance:
        return f"The baseline has next to no score here, {room} ({interval})"
    above = "at or below" if room == _amount(0.0, one) else f"{'only ' if headroom <= one.margin else ''}{room} above"
    return f"The baseline scores {above} guessing ({interval})"


def _items(one: Evidence) -> str:
    name = "item" if one.unit == "share" else "document"
    return f"{one.items:,} {name}{'' if one.items == 1 else 's'}{' ' if one.drawn else ''}{one.drawn}"


def _number(amount: float, one: Evidence) -> str:
    """In hundredths, with a digit more where the margin is below one of them."""
    digits = 1 if one.margin >= 0.01 else 2
    # Adding 0 turns -0.0 into 0.0.
    number = with_minus(f"{round(100 * amount, digits) + 0.0:.{digits}f}")
    return number + ("" if one.unit == "share" else " %")


def _amount(amount: float, one: Evidence) -> str:
    return f"{_number(amount, one)}{' points' if one.unit == 'share' else ''}"


def _p(p: float, categories: int) -> str:
    value = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return value if categories == 1 else f"{value}, Holm over {categories} categories"


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]
