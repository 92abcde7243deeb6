"""Published scores that a baseline has to reproduce: a model, prompt or metric that is not the published one's shows.

A published number is of all items. Where a suite asks a sample of them, or rows lie in local files whose completeness
nobody knows, the score's own 95 % interval is allowed on top of the tolerance, and that is said.
"""

from collections.abc import Sequence

from pydantic import Field

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Label, Ratio
from evals.statistics.score import Z95
from evals.suites.leaf_tasks import near
from evals.suites.local_data import DataConfig
from evals.suites.resolve import ResolvedSuite
from evals.suites.suite import Category
from registry.contracts import CategoryScore, EvaluationRecord, SoundnessCheck, TaskScore

MISMATCH = "BASELINE MISMATCH"


class Expectation(StrictModel):
    """What the baseline is known to score."""

    task: Label
    """A task of the suite by lm-eval's name, or one of its categories for all its items together."""
    score: Ratio
    """In the metric's unit: 0.515 for 51.5 % right."""
    tolerance: Ratio = Field(gt=0)
    """How far the measured score may be off, in the same unit."""
    source: Label
    """Where the number was published, for whoever reads of a mismatch."""
    metric: Label | None = None
    """The published number's metric; refused where the suite scores by another one."""
    filter: Label | None = None
    """The same of what is cut out of a generated answer."""


def check_expectations(expectations: Sequence[Expectation], suite: ResolvedSuite) -> None:
    """Refuse what the suite does not measure.

    Raises:
        RequestError: A task or category is unknown, or scored by another metric or filter.
    """
    for expected in expectations:
        category = _category(expected, suite)
        for what, wanted, given in (
            ("metric", expected.metric, category.metric),
            ("filter", expected.filter, category.filter),
        ):
            if wanted is not None and wanted != given:
                raise RequestError(
                    f"`expect` has {expected.task} by {what} {wanted}; suite {suite.suite.name} scores it by {given}",
                    remedy=f"name the {what} in a copy of the suite's file, or a number that was published for {given}",
                )


def compare_expected(
    expected: Expectation, evaluation: EvaluationRecord, suite: ResolvedSuite, data: DataConfig | None
) -> SoundnessCheck:
    """Whether the baseline scores what was published.

    Args:
        expected: The published score; `check_expectations` has seen it.
        evaluation: The baseline's.
        suite: What it was asked.
        data: Where rows were read from, as in the recipe.
    """
    category = _category(expected, suite)
    score = _score(expected, evaluation)
    partial = _partial(expected, category, evaluation, suite, data)
    stderr = score.stderr or 0.0
    allowed = expected.tolerance + (Z95 * stderr if partial else 0.0)
    measured = f"{score.value:.4g}" if score.stderr is None else f"{score.value:.4g} ± {score.stderr:.2g}"
    detail = (
        f"{expected.task} {score.metric} is {measured} over {score.items} items,"
        f" expected {expected.score:.4g} ± {expected.tolerance:.4g} ({expected.source})"
    )
    if partial:
        detail += f"; {partial}, so its own 95 % interval is allowed too: ± {allowed:.4g} in all"
    if abs(score.value - expected.score) <= allowed:
        return SoundnessCheck(name="expected", outcome="pass", detail=detail)
    return SoundnessCheck(
        name="expected",
        outcome="fail",
        detail=f"{MISMATCH}: {detail}",
        remedy="see that model, tokenizer (does it begin texts with BOS?), chat template, examples in the prompt and"
        " metric are those of the published number; mend the one that is not, or the recipe's `expect`",
    )


def _category(expected: Expectation, suite: ResolvedSuite) -> Category:
    owners = {task.name: task.category for task in suite.tasks}
    categories = {category.name: category for category in suite.suite.categories}
    name = owners.get(expected.task, expected.task)
    if name not in categories:
        raise RequestError(
            f"`expect` names {expected.task}, which is neither a task nor a category of suite {suite.suite.name}",
            remedy=near(expected.task, [*owners, *categories]),
        )
    return categories[name]


def _score(expected: Expectation, evaluation: EvaluationRecord) -> TaskScore | CategoryScore:
    named: dict[str, TaskScore | CategoryScore] = {score.category: score for score in evaluation.categories}
    return (named | {score.task: score for score in evaluation.tasks})[expected.task]


def _partial(
    expected: Expectation,
    category: Category,
    evaluation: EvaluationRecord,
    suite: ResolvedSuite,
    data: DataConfig | None,
) -> str:
    """Why the score may be of fewer items than the published one; empty where it is not."""
    tasks = [task for task in suite.of(category.name) if expected.task in (task.name, category.name)]
    asked = {score.task: score.items for score in evaluation.tasks}
    # A task with fewer items than the limit was asked all of them.
    if category.limit is not None and any(asked[task.name] >= category.limit for task in tasks):
        return f"the suite asks at most {category.limit} items a task"
    if data and any(path.is_relative_to(data.root) for task in tasks for path in task.files.values()):
        return "its rows come from local files, which may hold a part of them"
    return ""
