"""Where an artifact lost what it lost, and how far its token distributions moved away from the baseline's."""

from typing import Literal

from registry.contracts.base import Record

AnswerType = Literal["choice", "number", "free text", "log-likelihood"]


class StratumDrop(Record):
    """The paired difference over a part of the items; positive where the artifact is better."""

    name: str
    unit: Literal["share", "nats"]
    """`share`: of the items that are right. `nats`: mean log-likelihood a word (or byte, or token) of running text."""
    items: int
    baseline: float
    artifact: float
    difference: float
    difference_low: float | None
    """95 % interval; None for running text without spread, such as a single document."""
    difference_high: float | None


class Heterogeneity(Record):
    """Cochran's Q: do the differences of the strata differ by more than chance does?"""

    statistic: float
    degrees_of_freedom: int
    p_value: float
    inconsistency: float
    """I squared (Higgins and Thompson 2002): the share of the differences' scatter that chance does not explain."""


class Breakdown(Record):
    """The differences of all strata, the largest loss first in each unit (prompt lengths ascend instead)."""

    by: Literal["category", "prompt length", "answer type"]
    drops: list[StratumDrop]
    heterogeneity: Heterogeneity | None
    """Over the strata in shares; None with fewer than two of them."""
    finding: str
    """What this says, in a sentence or two."""


class PartDrops(Record):
    """The differences of one category's tasks, or of its kinds of items: what one number for all of them hides."""

    category: str
    by: Literal["task", "kind"]
    drops: list[StratumDrop]
    """The largest loss first; parts of a few items are one, named `others`."""
    heterogeneity: Heterogeneity
    """Over the parts; it allows for their number."""
    p_holm: float
    """Its p-value, adjusted for all such tests of the artifact (Holm)."""
    differ: bool
    """The parts lost differently, surely."""
    finding: str
    """What this says, in a sentence."""


class LengthTrend(Record):
    """How the difference changes with each doubling of the prompt, within categories."""

    points_per_doubling: float
    """Share points; below 0 where longer prompts lose more."""
    low: float
    """95 % interval."""
    high: float


class Flip(Record):
    """One item on which the artifact did worse, for reading. Texts are cut; they come from data and models."""

    task: str
    category: str
    doc_id: int
    answer_type: AnswerType
    baseline_score: float
    artifact_score: float
    shift_nats: float | None
    """Choices: by how much the margin between two of them moved at most. Given continuations and running text: the
    change of the log-likelihood. None for generated answers."""
    prompt: str
    expected: str
    baseline_answer: str
    artifact_answer: str


class CharacterizationRecord(Record):
    """Where one artifact differs from its baseline, from the same paired items as its retention."""

    baseline_digest: str
    artifact_digest: str
    breakdowns: list[Breakdown]
    """By category, by prompt length, by answer type."""
    parts: list[PartDrops] = []
    """Of each category scored in shares that has several tasks, or kinds, of enough items."""
    length_trend: LengthTrend | None
    """None where no category holds prompts of different lengths."""
    flips: list[Flip]
    """The worst of each category, categories with the largest loss first."""

    def by(self, what: str) -> Breakdown:
        """The breakdown by `category`, `prompt length` or `answer type`."""
        return next(one for one in self.breakdowns if one.by == what)


class PromptAgreement(Record):
    """Token-level agreement on one of the fixed prompts."""

    text: str
    positions: int
    top1_agreement: float
    kl_nats: float


class TokenAgreementRecord(Record):
    """How alike two models predict each next token of fixed texts."""

    prompts_digest: str
    """Of the fixed texts."""
    positions: int
    """Tokens predicted, over all prompts."""
    top_logprobs: int
    """So many of the most likely tokens the servers told at each position."""
    top1_agreement: float
    """Share of positions at which both models hold the same token for the most likely one."""
    top1_stderr: float | None
    """Over prompts, since the tokens of one text hang together."""
    kl_nats: float
    """Mean over positions of the lower bound of KL(baseline || artifact); see `evals.asking.token_agreement`."""
    kl_stderr: float | None
    kl_p99_nats: float
    """One position in a hundred is worse."""
    unseen_share: float
    """Mean probability that the baseline gives to tokens that are not compared one by one: the bound is tight where
    this is small."""
    prompts: list[PromptAgreement]
    """The least alike first."""
