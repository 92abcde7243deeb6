"""Notes on how the items were asked: prompts that were cut, texts in pieces, scores that hung on a tie. Pure."""

from collections import Counter
from collections.abc import Sequence

from pipelines.records.rows import Row
from registry.contracts import CategoryScore, EvaluationRecord


def asking_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the scores has to know of the prompts; nothing where all fitted and nothing was tied.

    Args:
        rows: The baseline first. All models are asked the same, or they do not compare, so the first that was measured
            speaks for all but in ties.
    """
    measured = [(row.name, row.measurement.evaluation) for row in rows if row.measurement]
    if not measured:
        return []
    _, first = measured[0]
    notes = [note for score in first.categories for note in (_cut(score, first), _in_pieces(score, first)) if note]
    return [*notes, *_ties(measured), *_alone(measured)]


def _cut(score: CategoryScore, evaluation: EvaluationRecord) -> str | None:
    if not score.truncated:
        return None
    return (
        f"{score.category}: the prompts of {score.truncated} of {score.items} items did not fit into the context of"
        f" {evaluation.conditions.max_model_len} tokens, and their beginning was left out."
    )


def _in_pieces(score: CategoryScore, evaluation: EvaluationRecord) -> str | None:
    if score.windows <= score.items:
        return None
    return (
        f"{score.category}: {score.items} texts were read in {score.windows} pieces, of which a model sees one at a"
        f" time: the context holds {evaluation.conditions.max_model_len} tokens."
    )


def _alone(measured: Sequence[tuple[str, EvaluationRecord]]) -> list[str]:
    """What of a score is chance: neighbours on the server that another run would not have."""
    told = []
    for name, evaluation in measured:
        again = evaluation.asked_alone
        if again is None:
            continue
        moved = "" if again.mean_shift_nats is None else f", log-likelihoods moved by {again.mean_shift_nats:.2g} nats"
        told.append(
            f"{name}: its answers depend on what is computed beside them. Asked alone, {again.changed} of"
            f" {again.items} items scored otherwise ({100 * again.changed_low:.0f} to {100 * again.changed_high:.0f} %)"
            f"{moved}; flips of another run differ by as much."
        )
    return told


def _ties(measured: Sequence[tuple[str, EvaluationRecord]]) -> list[str]:
    tied = Counter[str]()
    told = []
    for name, evaluation in measured:
        here = {score.category: score.tied for score in evaluation.categories if score.tied}
        tied.update(here)
        if here:
            items = sum(score.items for score in evaluation.categories)
            told.append(f"{name} {sum(here.values())} of {items:,} items")
    if not told:
        return []
    (most, _), *others = tied.most_common()
    where = f"most in {most}" if others else f"all in {most}"
    return [
        f"Decided by a tie: {', '.join(told)}, {where}. Tokens or choices were exactly as likely, and the first was"
        " taken, as argmax takes it; in 16-bit types that is common."
    ]
