"""What an artifact kept of its baseline, per category, from per-item pairs.

docs/statistics.md says what each number means, where its formula comes from and how it was checked.
"""

from typing import Literal

from registry.contracts.base import Record
from registry.contracts.evaluation import CategoryLook

Verdict = Literal["pass", "fail", "inconclusive"]
Undecided = Literal["too few items", "nothing to keep", "truncated prompts", "no numbers"]
"""Why a category is inconclusive: more items would decide it, the baseline has too little score for a loss to show,
prompts did not fit into the context, or the items give no honest number."""


class CategoryRetention(Record):
    category: str
    unit: Literal["share", "perplexity"]
    items: int
    """Paired items; documents for perplexity."""
    truncated: int = 0
    """Of them, those whose prompt's beginning was left out, since it did not fit into the context."""
    chance: float | None
    baseline: float | None
    """The pooled score over the pairs; None where there is none (no items, a score that is not a finite number)."""
    artifact: float | None
    baseline_stderr: float | None = None
    artifact_stderr: float | None = None
    retention: float | None
    """artifact / baseline; baseline / artifact for perplexity, so that 1 is `nothing lost` and less is loss.

    None where there is nothing to keep.
    """
    retention_stderr: float | None
    """By the delta method on the pairs; None where it is not defined."""
    nothing_to_keep: bool = False
    """The baseline is not surely further above guessing (above 0 where guessing scores nothing) than the margin.

    A ratio to such a score is noise, so no retention is told; a loss that is sure all the same is a fail.
    """
    retention_low: float | None = None
    """95 % interval of `retention`; None where the data do not bound it."""
    retention_high: float | None = None
    chance_corrected_retention: float | None
    """(artifact - chance) / (baseline - chance); None without chance or where there is nothing to keep."""
    chance_corrected_retention_low: float | None = None
    chance_corrected_retention_high: float | None = None
    difference: float | None
    """artifact - baseline; for perplexity the difference of mean log-likelihood a token (or word), higher is better."""
    difference_stderr: float | None
    difference_low: float | None = None
    """95 % interval of `difference`."""
    difference_high: float | None = None
    flips_to_wrong: int | None = None
    """Items that only the baseline got right, or that the artifact scored lower; None for perplexity."""
    flips_to_right: int | None = None
    p_value: float | None = None
    """Of `no difference`, two-sided: exact McNemar for 0/1 scores, Student's t for perplexity, paired
    bootstrap for others."""
    p_holm: float | None = None
    """`p_value` adjusted for the number of categories (Holm)."""
    detectable_difference: float | None = None
    """Smallest true loss that so many items show with 80 % power, in the unit of `margin`; None where no loss would."""
    margin: float | None = None
    """Largest acceptable loss: share points, or for perplexity a ratio (0.02 allows 2 % more perplexity)."""
    look: CategoryLook | None = None
    """Where an adaptive evaluation stopped in this category, and so the pairs; None where all items were asked."""
    verdict: Verdict = "inconclusive"
    """pass: surely loses less than `margin`; fail: surely loses more; both at the gate's level over all categories."""
    undecided: Undecided | None = None
    """None where `verdict` is pass or fail."""
    verdict_reason: str = "not judged"
    """One sentence with the numbers."""
    items_to_decide: int | None = None
    """Items in all that would decide an inconclusive verdict with 80 % power if the loss stays as observed."""

    @property
    def kept(self) -> float | None:
        """What is told first: what was kept above guessing where guessing has a score; a ratio of scores flatters."""
        return self.retention if self.chance is None else self.chance_corrected_retention

    @property
    def kept_low(self) -> float | None:
        """95 % interval of `kept`; None where the data do not bound it."""
        return self.retention_low if self.chance is None else self.chance_corrected_retention_low

    @property
    def kept_high(self) -> float | None:
        return self.retention_high if self.chance is None else self.chance_corrected_retention_high


class VerbosityRecord(Record):
    """How long an artifact's generated answers are beside its baseline's, over the same items.

    An artifact that needs a tenth more tokens for its answers is a tenth slower and dearer, whatever its tokens per
    second are.
    """

    items: int
    baseline_tokens: float
    """Mean of an item."""
    artifact_tokens: float
    ratio: float
    """All of the artifact's tokens over all of the baseline's."""
    low: float | None
    """95 % interval of `ratio`; None for a single item."""
    high: float | None


class RetentionRecord(Record):
    baseline_digest: str
    artifact_digest: str
    suite: str
    suite_version: str
    categories: list[CategoryRetention]
    alpha: float | None = None
    """Risk over all categories together that one passes wrongly, and that one fails wrongly."""
    verdict: Verdict = "inconclusive"
    """fail if any category fails, else inconclusive if any is, else pass."""
    verdict_reason: str = "not judged"
