"""What an artifact kept of its baseline, per category, from per-item pairs."""

from typing import Literal

from registry.contracts.base import Record


class CategoryRetention(Record):
    category: str
    unit: Literal["share", "perplexity"]
    items: int
    """Paired items."""
    chance: float | None
    baseline: float
    artifact: float
    retention: float
    """artifact / baseline; baseline / artifact for perplexity, so that 1 is `nothing lost` and less is loss."""
    retention_stderr: float | None
    """By the delta method on the pairs; None where it is not defined (a baseline of 0)."""
    chance_corrected_retention: float | None
    """(artifact - chance) / (baseline - chance); None without chance or where the baseline is at chance."""
    difference: float
    """artifact - baseline; for perplexity the difference of mean log-likelihood a token (or word), higher is better."""
    difference_stderr: float | None
    flips_to_wrong: int | None = None
    """Items that only the baseline got right; None for perplexity."""
    flips_to_right: int | None = None


class RetentionRecord(Record):
    baseline_digest: str
    artifact_digest: str
    suite: str
    suite_version: str
    categories: list[CategoryRetention]
