"""What four made-up artifacts lost: a suite, scores of realistic size, and all records that follow from them."""

import functools
import math
from statistics import NormalDist

from evals.suites.suite import Category, Suite
from registry.contracts import (
    Breakdown,
    CategoryRetention,
    CharacterizationRecord,
    Flip,
    Heterogeneity,
    LengthTrend,
    PartDrops,
    PromptAgreement,
    RetentionRecord,
    StratumDrop,
    TokenAgreementRecord,
)
from registry.gates import Evidence, GatePolicy, judge, overall

SUITE = Suite(
    name="demo",
    version="1",
    description="Short categories.",
    categories=[
        Category(name="knowledge", description="One word facts.", tasks=["k"], metric="acc", chance=0.0),
        Category(name="grammar", description="Which sentence.", tasks=["g"], metric="acc", chance=0.5),
        Category(name="arithmetic", description="Small sums.", tasks=["a"], metric="acc", chance=0.0),
        Category(name="commonsense", description="Which ending.", tasks=["c"], metric="acc", chance=0.5),
        Category(name="instruction", description="Short orders.", tasks=["i"], metric="acc", chance=0.0),
        Category(
            name="language",
            description="Short paragraphs.",
            tasks=["l"],
            metric="word_perplexity",
            unit="perplexity",
            higher_is_better=False,
            margin=0.03,
        ),
    ],
)
BASELINE = {
    "knowledge": 0.54,
    "grammar": 0.81,
    "arithmetic": 0.31,
    "commonsense": 0.72,
    "instruction": 0.44,
    "language": 23.4,
}
KEPT = {
    "int8": {"knowledge": 0.99, "grammar": 1.0, "arithmetic": 0.97, "commonsense": 1.01, "language": 0.995},
    "nf4": {"knowledge": 0.91, "grammar": 0.98, "arithmetic": 0.6, "commonsense": 0.97, "language": 0.9},
    "gptq": {"knowledge": 0.93, "grammar": 0.99, "arithmetic": 0.83, "commonsense": 1.3, "language": 0.93},
}
STDERR = {"int8": 0.01, "nf4": 0.04, "gptq": 0.04}
"""Of each retention: int8 agrees with its baseline on nearly all items, so its differences scatter less."""


@functools.cache
def retention(name: str) -> RetentionRecord:
    """Judged by the gates, from differences that are taken for normal."""
    numbers = [numbers_of(name, category) for category in SUITE.categories]
    verdicts = judge([evidence_of(one) for one in numbers], GatePolicy())
    verdict, reason = overall(verdicts)
    return RetentionRecord(
        baseline_digest="sha256:c",
        artifact_digest=f"sha256:{name}",
        suite="demo",
        suite_version="1",
        alpha=0.05,
        verdict=verdict,
        verdict_reason=reason,
        categories=[
            one.model_copy(
                update={
                    "verdict": said.verdict,
                    "verdict_reason": said.reason,
                    "undecided": said.undecided,
                    "items_to_decide": said.items_to_decide,
                }
            )
            for one, said in zip(numbers, verdicts, strict=True)
        ],
    )


def numbers_of(name: str, category: Category) -> CategoryRetention:
    kept, stderr, base = KEPT[name].get(category.name, 1.0), STDERR[name], BASELINE[category.name]
    share = category.unit == "share"
    difference = base * (kept - 1) if share else math.log(kept)
    error = stderr * base if share else stderr
    tail = NormalDist().cdf(-abs(difference) / error)
    return CategoryRetention(
        category=category.name,
        unit=category.unit,
        items=120,
        chance=category.chance,
        baseline=base,
        artifact=base * kept if share else base / kept,
        retention=kept,
        retention_stderr=stderr,
        chance_corrected_retention=kept - 0.02 if share else None,
        chance_corrected_retention_low=kept - 0.1 if share else None,
        chance_corrected_retention_high=kept + 0.06 if share else None,
        difference=difference,
        difference_stderr=error,
        difference_low=difference - 1.96 * error,
        difference_high=difference + 1.96 * error,
        flips_to_wrong=9 if share else None,
        flips_to_right=4 if share else None,
        p_value=2 * tail,
        p_holm=min(1.0, 12 * tail),
        detectable_difference=3.1 * error,
        margin=category.margin,
    )


def evidence_of(kept: CategoryRetention) -> Evidence:
    share = kept.unit == "share"
    z = (kept.difference + (kept.margin if share else math.log1p(kept.margin))) / kept.difference_stderr
    ends = (kept.difference, kept.difference_high, kept.difference_low)
    loss, low, high = (-end if share else math.expm1(-end) for end in ends)
    return Evidence(
        category=kept.category,
        unit=kept.unit,
        items=kept.items,
        margin=kept.margin,
        loss=loss,
        loss_low=low,
        loss_high=high,
        p_pass=NormalDist().cdf(-z),
        p_fail=NormalDist().cdf(z),
    )


def stratum(name: str, items: int, difference: float, stderr: float, unit: str = "share") -> StratumDrop:
    return StratumDrop(
        name=name,
        unit=unit,
        items=items,
        baseline=0.6 if unit == "share" else -3.15,
        artifact=0.6 + difference if unit == "share" else -3.15 + difference,
        difference=difference,
        difference_low=difference - 1.96 * stderr,
        difference_high=difference + 1.96 * stderr,
    )


@functools.cache
def characterization(name: str) -> CharacterizationRecord:
    flips = [
        flip("arithmetic", "number", "3 + 4 = 7\n9 + 6 =", "15", " 15", " 16", None),
        flip("commonsense", "choice", "The glass fell off the table, so", "it broke", "it broke", "it sang", 3.41),
        flip("language", "log-likelihood", "", "The harbour was quiet in the early morning. " * 6, "", "", -11.8),
    ]
    return CharacterizationRecord(
        baseline_digest="sha256:c",
        artifact_digest=f"sha256:{name}",
        breakdowns=breakdowns_of(name),
        parts=parts_of(name),
        length_trend=LengthTrend(points_per_doubling=-0.014, low=-0.025, high=-0.003),
        flips=flips,
    )


def breakdowns_of(name: str) -> list[Breakdown]:
    kept = retention(name)
    categories = [
        stratum(one.category, 120, one.difference, one.difference_stderr, "share" if one.unit == "share" else "nats")
        for one in kept.categories
    ]
    uneven = name != "int8"
    return [
        Breakdown(
            by="category",
            drops=sorted(categories, key=lambda drop: (drop.unit == "nats", drop.difference)),
            heterogeneity=Heterogeneity(statistic=31.2, degrees_of_freedom=4, p_value=2.8e-6, inconsistency=0.87),
            finding="The loss is not uniform (Cochran's Q 31.2 with 4 degrees of freedom, p < 0.001): from arithmetic "
            "(−12.4 points) to grammar (−1.6 points). Perplexity has another unit and is listed after the shares."
            if uneven
            else "No sign that the categories lost differently (Cochran's Q 3.1 with 4 degrees of freedom, p = 0.541).",
        ),
        Breakdown(
            by="prompt length",
            drops=[
                stratum("4 to 11 tokens", 151, -0.012, 0.011),
                stratum("12 to 19 tokens", 148, -0.021, 0.012),
                stratum("20 to 34 tokens", 152, -0.038, 0.013),
                stratum("35 to 212 tokens", 149, -0.061, 0.014),
            ],
            heterogeneity=None,
            finding="Longer prompts lose more: each doubling within a category changes the difference by "
            "−1.4 points [−2.5, −0.3].",
        ),
        Breakdown(
            by="answer type",
            drops=[
                stratum("number", 120, -0.124, 0.013),
                stratum("free text", 120, -0.044, 0.012),
                stratum("choice", 360, -0.015, 0.009),
                stratum("log-likelihood", 120, -0.105, 0.04, "nats"),
            ],
            heterogeneity=None,
            finding="The loss depends on the answer's type: number (−12.4 points) is the largest.",
        ),
    ]


def parts_of(name: str) -> list[PartDrops]:
    """What one number for arithmetic hides, and a category whose kinds lost alike."""
    test = Heterogeneity(statistic=21.3, degrees_of_freedom=3, p_value=9e-5, inconsistency=0.86)
    kinds = [
        stratum("difference", 30, -0.3, 0.09),
        stratum("product", 30, -0.3, 0.09),
        stratum("sum", 30, -0.033, 0.05),
        stratum("tens", 30, 0.133, 0.06),
    ]
    even = [stratum("capital", 60, -0.02, 0.03), stratum("fact", 60, -0.03, 0.03)]
    uneven = name != "int8"
    return [
        PartDrops(
            category="arithmetic",
            by="kind",
            drops=kinds,
            heterogeneity=test,
            p_holm=1.8e-4 if uneven else 0.4,
            differ=uneven,
            finding="The kinds of arithmetic lost differently: from difference (−30.0 points) to tens (+13.3 points).",
        ),
        PartDrops(
            category="knowledge",
            by="kind",
            drops=even,
            heterogeneity=test.model_copy(update={"statistic": 0.1, "p_value": 0.8}),
            p_holm=0.8,
            differ=False,
            finding="No sign that the kinds of knowledge lost differently.",
        ),
    ]


def flip(category: str, kind: str, prompt: str, expected: str, one: str, other: str, shift: float | None) -> Flip:
    return Flip(
        task=f"demo_{category}",
        category=category,
        doc_id=17,
        answer_type=kind,
        baseline_score=1.0,
        artifact_score=0.0,
        shift_nats=shift,
        prompt=prompt,
        expected=expected,
        baseline_answer=one,
        artifact_answer=other,
    )


def token_agreement(name: str) -> TokenAgreementRecord:
    same, kl = {"int8": (0.971, 0.0041), "nf4": (0.861, 0.112), "gptq": (0.874, 0.093)}[name]
    text = "Le petit marché de la place ouvre tous les samedis à sept heures."
    return TokenAgreementRecord(
        prompts_digest="sha256:p",
        positions=1612,
        top_logprobs=20,
        top1_agreement=same,
        top1_stderr=0.009,
        kl_nats=kl,
        kl_stderr=kl / 12,
        kl_p99_nats=9 * kl,
        unseen_share=0.142,
        prompts=[PromptAgreement(text=text, positions=58, top1_agreement=same - 0.1, kl_nats=3 * kl)],
    )
