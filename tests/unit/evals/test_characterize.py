"""What is said about a drop against data whose drop is known, and items of every odd kind."""

import numpy as np
import pytest

from evals.judging.characterize import (
    FLIPS_PER_CATEGORY,
    Pair,
    answer_type,
    characterize,
    length_trend,
    part_drops,
    shift_nats,
    worst_flips,
)
from evals.judging.retention import category_retention, retention_record
from evals.samples import Sample
from registry.contracts import CategoryScore, CharacterizationRecord, EvaluationRecord, RetentionRecord
from registry.gates import GatePolicy
from tests.records import CONDITIONS


def sample(item: int, score: float, category: str = "knowledge", **changes: object) -> Sample:
    fields: dict[str, object] = {
        "task": f"{category}_task",
        "category": category,
        "filter": "none",
        "metric": "acc",
        "doc_id": item,
        "doc_hash": f"{category}{item}",
        "prompt_hash": "p",
        "sent_hash": "s",
        "target_hash": "t",
        "score": score,
        "prompt": f"Question {item}?",
        "target": "yes",
        "prompt_tokens": 20,
        "log_likelihoods": [-1.0, -2.0],
        "answer": "yes" if score else "no",
    }
    return Sample.model_validate(fields | changes)


def pairs(category: str, items: int, to_wrong: int, **changes: object) -> list[Pair]:
    """The first `to_wrong` items turn wrong; a fifth of the items is wrong for both."""
    return [
        (
            sample(i, float(i < items * 0.8), category, **changes),
            sample(i, float(to_wrong <= i < items * 0.8), category, **changes),
        )
        for i in range(items)
    ]


def retention(rows: list[Pair], *, perplexity: str | None = None) -> RetentionRecord:
    """What the pairs say, category by category."""
    categories = list(dict.fromkeys(one.category for one, _ in rows)) or ["empty"]
    evaluation = EvaluationRecord(
        model_digest="sha256:m",
        conditions=CONDITIONS,
        suite="s",
        suite_version="1",
        suite_digest="sha256:s",
        tasks=[],
        categories=[],
        samples_file="",
        requests=0,
        truncated_prompts=0,
    )
    judged = []
    for name in categories:
        score = CategoryScore(
            category=name,
            metric="acc",
            value=1.0,
            stderr=None,
            items=1,
            higher_is_better=name != perplexity,
            chance=None,
            unit="perplexity" if name == perplexity else "share",
        )
        judged.append(category_retention(score, [pair for pair in rows if pair[0].category == name]))
    return retention_record(evaluation, evaluation, judged, GatePolicy())


def characterized(rows: list[Pair], *, perplexity: str | None = None) -> CharacterizationRecord:
    return characterize(retention(rows, perplexity=perplexity), rows)


@pytest.mark.slow
def test_a_loss_in_one_category_is_seen_and_sorted_first() -> None:
    found = characterized(pairs("knowledge", 200, 4) + pairs("math", 200, 60) + pairs("grammar", 200, 2)).by("category")
    assert [drop.name for drop in found.drops] == ["math", "knowledge", "grammar"]
    assert found.drops[0].difference == pytest.approx(-0.3)
    assert found.heterogeneity is not None
    assert found.heterogeneity.p_value < 1e-6
    assert found.finding.startswith("The loss is not uniform (Cochran's Q ")
    assert "from math (−30.0 points) to grammar (−1.0 points)" in found.finding


def test_a_uniform_loss_is_not_called_anything_else() -> None:
    found = characterized(pairs("a", 300, 20) + pairs("b", 300, 21)).by("category")
    assert found.heterogeneity is not None
    assert found.heterogeneity.p_value > 0.5
    assert found.finding.startswith("No sign that the categories lost differently")


def test_no_change_at_all_has_an_interval_and_no_finding() -> None:
    found = characterized(pairs("a", 50, 0) + pairs("b", 50, 0))
    drop = found.by("category").drops[0]
    assert drop.difference == 0
    assert drop.difference_low is not None and drop.difference_high is not None
    assert drop.difference_low < 0 < drop.difference_high
    assert "No sign" in found.by("category").finding
    assert found.flips == []


def test_perplexity_stands_apart() -> None:
    texts = [
        (
            sample(i, -2.0, "language", weight=10.0 + i, log_likelihoods=[-20.0 - 2 * i], answer=""),
            sample(i, -2.5, "language", weight=10.0 + i, log_likelihoods=[-25.0 - 2.5 * i], answer=""),
        )
        for i in range(9)
    ]
    found = characterized(pairs("a", 40, 4) + texts, perplexity="language")
    drops = found.by("category").drops
    assert [(drop.name, drop.unit) for drop in drops] == [("a", "share"), ("language", "nats")]
    assert drops[1].difference == pytest.approx(-0.5)
    assert found.by("category").heterogeneity is None
    assert [drop.unit for drop in found.by("answer type").drops] == ["share", "nats"]
    assert found.flips[0].category == "a"
    # The text whose log-likelihood fell most.
    flip = next(flip for flip in found.flips if flip.category == "language")
    assert (flip.doc_id, flip.shift_nats) == (8, pytest.approx(-9.0))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"log_likelihoods": [-1.0, -2.0]}, "choice"),
        ({"log_likelihoods": [-1.0]}, "log-likelihood"),
        ({"log_likelihoods": [], "target": "42"}, "number"),
        ({"log_likelihoods": [], "target": " -1,234.50 "}, "number"),
        ({"log_likelihoods": [], "target": "He has 3 and buys 4.\n#### 7"}, "number"),
        ({"log_likelihoods": [], "target": "Paris"}, "free text"),
        ({"log_likelihoods": [], "target": "4 apples"}, "free text"),
        ({"log_likelihoods": [], "target": ""}, "free text"),
    ],
)
def test_types_of_answers(changes: dict[str, object], expected: str) -> None:
    assert answer_type(sample(0, 1.0, **changes)) == expected


def test_the_answer_type_that_lost_is_named() -> None:
    rows = pairs("a", 100, 1) + pairs("b", 100, 40, log_likelihoods=[], target="12")
    found = characterized(rows).by("answer type")
    assert [drop.name for drop in found.drops] == ["number", "choice"]
    assert "depends on the answer's type" in found.finding
    assert "number (−40.0 points)" in found.finding


def with_lengths(category: str, lengths: list[int], wrong_from: int) -> list[Pair]:
    return [
        (
            sample(i, 1.0, category, prompt_tokens=length),
            sample(i, float(length < wrong_from), category, prompt_tokens=length),
        )
        for i, length in enumerate(lengths)
    ]


def test_lengths_are_cut_into_bins_that_hold_every_item_once() -> None:
    rows = with_lengths("a", list(range(1, 101)), wrong_from=76)
    found = characterized(rows).by("prompt length")
    assert [(drop.name, drop.items) for drop in found.drops] == [
        ("1 to 25 tokens", 25),
        ("26 to 50 tokens", 25),
        ("51 to 75 tokens", 25),
        ("76 to 100 tokens", 25),
    ]
    assert found.drops[3].difference == -1.0
    assert found.finding.startswith("Longer prompts lose more")


def test_bins_of_equal_lengths_are_one() -> None:
    rows = with_lengths("a", [10] * 80 + [50] * 20, wrong_from=60)
    drops = characterized(rows).by("prompt length").drops
    assert [(drop.name, drop.items) for drop in drops] == [("10 tokens", 80), ("50 tokens", 20)]


def test_lengths_are_compared_within_categories() -> None:
    """The category of long prompts loses everything, but within each category length does not matter."""
    draw = np.random.default_rng(5)
    short, long = list(range(10, 30)) * 5, list(range(1000, 1020)) * 5
    rows = with_lengths("short", short, wrong_from=10**6) + [
        (one, other.model_copy(update={"score": float(draw.random() < 0.3)}))
        for one, other in with_lengths("long", long, wrong_from=10**6)
    ]
    trend = length_trend(rows)
    assert trend is not None
    assert trend.low < 0 < trend.high


def test_the_slope_by_hand_and_its_coverage() -> None:
    draw = np.random.default_rng(6)
    covered = 0
    for _ in range(120):
        lengths = draw.integers(8, 512, 200)
        lost = draw.random(200) < 0.02 + 0.05 * (np.log2(lengths) - 3)
        rows = [
            (sample(i, 1.0, prompt_tokens=int(n)), sample(i, float(not gone), prompt_tokens=int(n)))
            for i, (n, gone) in enumerate(zip(lengths, lost, strict=True))
        ]
        trend = length_trend(rows)
        assert trend is not None
        covered += trend.low <= -0.05 <= trend.high
    assert abs(covered / 120 - 0.95) < 3 * (0.95 * 0.05 / 120) ** 0.5


def test_translations_do_not_sharpen_the_slope() -> None:
    """The same items eleven times over: the interval of one language but for the correction for few clusters."""
    draw = np.random.default_rng(3)
    one = [
        (
            sample(item, 1.0, cluster=f"q{item}", prompt_tokens=int(length)),
            sample(item, float(draw.random() < 0.7), prompt_tokens=int(length)),
        )
        for item, length in enumerate(draw.integers(20, 400, 80))
    ]
    alone, eleven = length_trend(one), length_trend(one * 11)
    assert alone is not None and eleven is not None
    assert eleven.points_per_doubling == pytest.approx(alone.points_per_doubling)
    assert eleven.high - eleven.low == pytest.approx(alone.high - alone.low, rel=0.02)
    assert length_trend([(mine.model_copy(update={"cluster": "q"}), other) for mine, other in one]) is None


@pytest.mark.parametrize(
    "rows", [[], with_lengths("a", [5], 9), with_lengths("a", [5, 5, 5], 9), with_lengths("a", [5, 9], 9)]
)
def test_no_trend_without_lengths_to_compare(rows: list[Pair]) -> None:
    assert length_trend(rows) is None


def test_shifts() -> None:
    one, other = sample(0, 1.0, log_likelihoods=[-1.0, -2.0, -4.0]), sample(0, 0.0, log_likelihoods=[-3.0, -1.5, -4.0])
    assert shift_nats(one, other) == pytest.approx(2.5)
    single = sample(0, 1.0, log_likelihoods=[-1.0]), sample(0, 0.0, log_likelihoods=[-3.0])
    assert shift_nats(*single) == pytest.approx(-2.0)
    assert shift_nats(sample(0, 1.0, log_likelihoods=[]), sample(0, 0.0, log_likelihoods=[])) is None


def test_the_worst_flips_are_few_clear_and_cut() -> None:
    rows = [
        (
            sample(i, 1.0, prompt="x" * 2000 + "the question", log_likelihoods=[-1.0, -2.0]),
            sample(i, 0.0, answer="y" * 900, log_likelihoods=[-1.0 - i, -2.0]),
        )
        for i in range(10)
    ]
    rows += [(sample(i, 0.0, "math"), sample(i, 1.0, "math")) for i in range(5)]
    found = worst_flips(rows, ["math", "knowledge"])
    assert [flip.doc_id for flip in found] == [9, 8][:FLIPS_PER_CATEGORY]
    assert found[0].prompt.startswith("…")
    assert found[0].prompt.endswith("the question")
    assert len(found[0].prompt) == 700
    assert len(found[0].artifact_answer) == 300
    assert found[0].artifact_answer.endswith("…")


@pytest.mark.parametrize("rows", [[], pairs("a", 1, 1)], ids=["no items", "one item"])
def test_next_to_nothing(rows: list[Pair]) -> None:
    found = characterized(rows)
    assert found.by("category").heterogeneity is None
    assert found.length_trend is None
    # One item says next to nothing.
    assert all(drop.difference_high - drop.difference_low > 1 for drop in found.by("category").drops)  # type: ignore[operator]


def test_a_category_that_cannot_be_judged_is_left_out() -> None:
    rows = pairs("a", 20, 2)
    rows[5] = (rows[5][0], rows[5][1].model_copy(update={"score": float("nan")}))
    found = characterized(rows + pairs("b", 20, 2))
    assert [drop.name for drop in found.by("category").drops] == ["b"]


def kind_pairs(kind: str, items: int, to_wrong: int, to_right: int = 0, **changes: object) -> list[Pair]:
    """A kind of which so many items turn wrong, and so many right."""
    scores = [(1.0, 0.0)] * to_wrong + [(0.0, 1.0)] * to_right + [(1.0, 1.0)] * (items - to_wrong - to_right)
    return [
        (
            sample(i, before, "knowledge", kind=kind, doc_hash=f"{kind}{i}", **changes),
            sample(i, after, "knowledge", kind=kind, doc_hash=f"{kind}{i}", **changes),
        )
        for i, (before, after) in enumerate(scores)
    ]


def test_a_loss_in_some_kinds_and_a_gain_in_another_are_not_hidden_in_one_number() -> None:
    """Thirty points lost in differences and products, thirteen won in tens: on the whole, twelve are lost."""
    rows = [
        *kind_pairs("difference", 30, to_wrong=9),
        *kind_pairs("product", 30, to_wrong=9),
        *kind_pairs("tens", 30, to_wrong=0, to_right=4),
        *kind_pairs("sum", 30, to_wrong=0),
    ]
    (found,) = part_drops(rows, ["knowledge"])
    assert (found.category, found.by, found.differ) == ("knowledge", "kind", True)
    assert [(drop.name, round(100 * drop.difference)) for drop in found.drops] == [
        ("difference", -30),
        ("product", -30),
        ("sum", 0),
        ("tens", 13),
    ]
    assert found.p_holm == found.heterogeneity.p_value < 0.01
    assert found.heterogeneity.degrees_of_freedom == 3
    assert found.finding.startswith("The kinds of knowledge lost differently (Cochran's Q")
    assert found.finding.endswith("from difference (−30.0 points) to tens (+13.3 points).")


def test_kinds_that_lost_alike_are_said_to_and_holm_counts_all_tests() -> None:
    even = [pair for kind in "abcd" for pair in kind_pairs(kind, 40, to_wrong=3)]
    uneven = [*kind_pairs("a", 40, to_wrong=12), *kind_pairs("b", 40, to_wrong=0)]
    other = [tuple(one.model_copy(update={"category": "other"}) for one in pair) for pair in uneven]
    found = part_drops([*even, *other], ["knowledge", "other"])  # type: ignore[list-item]
    assert [(one.category, one.differ) for one in found] == [("knowledge", False), ("other", True)]
    assert found[0].finding.startswith("No sign that the kinds of knowledge lost differently")
    assert found[1].p_holm == pytest.approx(2 * found[1].heterogeneity.p_value)


def test_tasks_and_kinds_of_tasks_are_told_apart_and_small_ones_put_together() -> None:
    rows = [
        *kind_pairs("a", 20, to_wrong=1, task="one"),
        *kind_pairs("b", 20, to_wrong=1, task="one"),
        *kind_pairs("a", 20, to_wrong=10, task="two"),
        *kind_pairs("tiny", 4, to_wrong=0, task="two"),
        *kind_pairs("small", 5, to_wrong=0, task="two"),
    ]
    by_task, by_kind = part_drops(rows, ["knowledge"])
    assert {(drop.name, drop.items) for drop in by_task.drops} == {("one", 40), ("two", 29)}
    assert {(drop.name, drop.items) for drop in by_kind.drops} == {
        ("one: a", 20),
        ("one: b", 20),
        ("two: a", 20),
        ("others", 9),
    }


def test_a_category_of_one_task_without_kinds_has_no_parts() -> None:
    assert part_drops(pairs("knowledge", 40, 4), ["knowledge"]) == []
