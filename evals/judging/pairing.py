"""Pairs two models' items, and says how far an adaptive evaluation got in each category before the pairs were made."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from configs.errors import StageError
from evals.samples import Sample, read_samples
from registry.contracts import AskingConditions, CategoryLook, EvaluationRecord

Pair = tuple[Sample, Sample]


def paired(
    baseline: EvaluationRecord, baseline_samples: Path, artifact: EvaluationRecord, artifact_samples: Path
) -> list[Pair]:
    """The items that both evaluations asked.

    Raises:
        StageError: The two were not asked alike, or items are missing that had been asked.
    """
    check_conditions(baseline.conditions, artifact.conditions)
    if baseline.suite_digest != artifact.suite_digest:
        raise StageError(
            f"suite {baseline.suite} changed between baseline and artifact", remedy="measure both again with one suite"
        )
    pairs = pair(read_samples(baseline_samples), read_samples(artifact_samples), _stopped(baseline), _stopped(artifact))
    found = Counter(one.category for one, _ in pairs)
    for look in joint_looks(baseline, artifact).values():
        if found[look.category] != look.items:
            raise StageError(
                f"category {look.category} was asked {look.items} items up to look {look.number}, "
                f"and {found[look.category]} pair",
                remedy="run `quantbench artifacts verify`; measure both again with one suite and one limit",
            )
    return pairs


def check_conditions(baseline: AskingConditions, artifact: AskingConditions) -> None:
    """Raise StageError where answers of the two do not compare, with the names and both values."""
    found = differing_conditions(baseline, artifact)
    if found:
        raise StageError(
            "baseline and artifact were not asked alike: " + "; ".join(found),
            remedy="measure both with one recipe on one environment; where the tokenizers differ, give the artifact the"
            " source's files",
        )


def differing_conditions(one: AskingConditions, other: AskingConditions) -> list[str]:
    """`context length 16 and 512`: what shaped the answers of one otherwise than those of the other."""
    facts, others = _named(one), _named(other)
    names = [*facts, *(name for name in others if name not in facts)]
    return [
        f"{name} {facts.get(name, 'none')} and {others.get(name, 'none')}"
        for name in names
        if facts.get(name) != others.get(name)
    ]


def _named(known: AskingConditions) -> dict[str, str]:
    return {
        "context length": str(known.max_model_len),
        "tokenizer": _short(known.tokenizer),
        "chat template": _short(known.chat_template or "none"),
    } | known.engine


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def pair(
    baseline: Sequence[Sample],
    artifact: Sequence[Sample],
    baseline_stopped: Collection[str] = (),
    artifact_stopped: Collection[str] = (),
) -> list[Pair]:
    """Join on task, filter and document, in the baseline's order.

    Args:
        baseline: All its items.
        artifact: All its items.
        baseline_stopped: Categories in which the baseline was not asked all items, since an adaptive evaluation had
            decided: items that only the artifact has are left out there.
        artifact_stopped: The same of the artifact.

    Raises:
        StageError: Prompts or targets differ, or an item is missing or stands twice; the first one is named.
    """
    others = _by_key("the artifact", artifact)
    mine = _by_key("the baseline", baseline)
    missing = [key for key, sample in mine.items() if key not in others and sample.category not in artifact_stopped]
    missing += [key for key, sample in others.items() if key not in mine and sample.category not in baseline_stopped]
    if missing:
        task, _, _, item = min(missing)
        raise StageError(
            f"the items differ: {len(baseline)} of the baseline, {len(artifact)} of the artifact; "
            f"only one has {task}, item {item}",
            remedy="measure both again with one suite and one limit",
        )
    pairs = [(sample, others[key]) for key, sample in mine.items() if key in others]
    for one, other in pairs:
        if (one.prompt_hash, one.target_hash) != (other.prompt_hash, other.target_hash):
            raise StageError(
                f"{one.task}, item {one.doc_id}: baseline and artifact were asked different prompts",
                remedy="the chat templates or the task's examples differ; see the artifact's inspection, then measure"
                " again",
            )
        if one.sent_hash != other.sent_hash:
            raise StageError(
                f"{one.task}, item {one.doc_id}: baseline and artifact were asked the same prompt in different tokens",
                remedy="their tokenizers or context lengths differ: measure both again with one recipe",
            )
    return pairs


def joint_looks(baseline: EvaluationRecord, artifact: EvaluationRecord) -> dict[str, CategoryLook]:
    """Category -> the look at which the items that both answered end; empty where both answered all at once.

    The items of every look are the first of one order, so what both answered is what the one with fewer answered.
    Where both stopped, either one's looks may be the last: the looks of both count.
    """
    ones, others = ({look.category: look for look in record.looks} for record in (baseline, artifact))
    return {name: _joint(ones, others, name) for name in [*ones, *(name for name in others if name not in ones)]}


def _joint(ones: Mapping[str, CategoryLook], others: Mapping[str, CategoryLook], name: str) -> CategoryLook:
    if name not in ones or name not in others:
        return ones.get(name) or others[name]
    one, other = ones[name], others[name]
    fewer = min(one, other, key=lambda look: look.items)
    fractions = tuple(sorted({*one.fractions, *other.fractions}))
    number = fractions.index(fewer.fractions[fewer.number - 1]) + 1
    # Not the spending of the one with fewer items: that would be a choice by the data.
    return fewer.model_copy(update={"fractions": fractions, "number": number, "spending": one.spending})


def _stopped(evaluation: EvaluationRecord) -> set[str]:
    return {look.category for look in evaluation.looks if look.stopped_early}


def _by_key(who: str, samples: Sequence[Sample]) -> dict[tuple[str, str, str, int], Sample]:
    keyed = {sample.key: sample for sample in samples}
    if len(keyed) < len(samples):
        task, _, _, item = next(key for key, count in Counter(sample.key for sample in samples).items() if count > 1)
        raise StageError(
            f"{task}, item {item} stands twice in the samples of {who}", remedy="run `quantbench artifacts verify`"
        )
    return keyed
