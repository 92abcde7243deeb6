"""A suite: categories of lm-eval tasks, as data. `configs/suites/<name>.yaml` says which; `evals/tasks/` holds ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.names import CategoryName
from configs.quantities import Count, Label, Ratio, Seed, Share
from evals.statistics.sizes import documents_to_pass, items_to_pass
from registry.contracts.evaluation import Sampling


class Category(StrictModel):
    """Tasks that test one skill by one metric; their items are pooled."""

    name: CategoryName
    """Numbers are recorded under it."""
    description: str
    tasks: list[Label] = Field(min_length=1)
    """Names of lm-eval's tasks, groups or tags, or of tasks below `evals/tasks`."""
    metric: Label
    """lm-eval's name of the metric, such as `acc` or `word_perplexity`."""
    filter: Label = "none"
    """lm-eval's name of what is cut out of a generated answer before it is judged, such as `strict-match`."""
    unit: Literal["share", "perplexity"] = "share"
    higher_is_better: bool = True
    chance: Share | None = None
    """What guessing scores; null where guessing has no score."""
    num_fewshot: Count | None = Field(default=None, le=1000)
    """Examples in the prompt; each task's own number when null, and of tasks that fix it at 0, as in lm-eval."""
    chat_template: bool = False
    """Ask through the model's chat template, examples as turns of their own: lm-eval's `--apply_chat_template`."""
    limit: Count | None = Field(default=None, ge=1)
    """Items of each task, a sample by `seed`; all when null."""
    items: Annotated[Count, Field(ge=1)] | Literal["auto"] | None = None
    """Items of the category in all, an equal share of each task, in place of `limit`. `auto`: as many as pass with the
    suite's `power` where nothing is lost, by `margin` and the two assumptions below. The baseline's score is not asked:
    items and cache keys have to stand before it is measured, and how often items flip decides, not the score."""
    assumed_flips: Share = Field(default=0.1, gt=0)
    """Share of the items that change although nothing is lost; 4 to 12 % were seen of 8 bits and 10 to 30 of 4."""
    assumed_spread: Ratio = Field(default=0.1, gt=0)
    """For perplexity: how much a document's mean log-likelihood changes, as a standard deviation in nats a word."""
    margin: Ratio = Field(default=0.02, gt=0)
    """The largest loss that is accepted: a share (0.02 is two points), for perplexity a ratio (0.02 is 2 % more)."""
    truncation: Literal["no verdict", "allow"] = "no verdict"
    """Whether the category is judged although prompts did not fit into the context and lost their beginning."""
    tasks_are: Sampling = "fixed"
    """`fixed`: these tasks are what is asked about, and what differs between them is no chance. `sample`: they stand
    for others like them, and count as one each."""
    kind: Label | None = None
    """The field of a document that names its kind: a template, a passage, a subject."""
    kinds_are: Sampling | None = None
    """The same of the kinds within each task; given with `kind`."""
    parallel: bool = False
    """The tasks ask the same questions in the same order, as translations do: items at one place count as one."""
    weight: Ratio = Field(default=1.0, gt=0)
    """Of the category in an average over categories."""

    @model_validator(mode="after")
    def _perplexity_is_of_a_text(self) -> Category:
        if self.unit == "perplexity" and (self.higher_is_better or self.chance is not None):
            raise ValueError("a perplexity category needs higher_is_better: false and no chance")
        if self.unit == "perplexity" and self.chat_template:
            raise ValueError("a perplexity category has no question to ask through a chat template")
        return self

    @model_validator(mode="after")
    def _strata_are_declared(self) -> Category:
        if (self.kind is None) != (self.kinds_are is None):
            raise ValueError(
                "`kind` names the field that tells an item's kind, and `kinds_are` whether these kinds are `fixed` or a"
                " `sample` of such: give both"
            )
        return self

    @model_validator(mode="after")
    def _items_are_counted_once(self) -> Category:
        if self.items is not None and self.limit is not None:
            raise ValueError("`items` counts the category's items and `limit` those of each task: give one of them")
        return self


class Suite(StrictModel):
    """What models are scored on."""

    name: Label
    version: Label
    """Goes up when an item, a prompt or a metric changes: scores of two versions do not compare."""
    description: str
    seed: Seed = 1234
    """Picks the items where a category has a limit, and the examples in prompts."""
    alpha: Share = Field(default=0.05, gt=0, lt=1)
    """Chance, over all categories together, that a verdict of "no worse than the margin" is wrong."""
    power: Share = Field(default=0.8, gt=0.5, lt=1)
    """Chance that a category passes that loses nothing: of `items: auto`, and of the items that would decide."""
    categories: list[Category] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_stand_once(self) -> Suite:
        for names in ([category.name.casefold() for category in self.categories], self.task_names):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{', '.join(sorted(twice))} stands twice")
        return self

    def with_items(self, items: Mapping[str, int]) -> Suite:
        """The suite with other numbers of items.

        Args:
            items: Category -> its items in all.

        Raises:
            ValueError: There is no such category.
        """
        unknown = sorted(items.keys() - {category.name for category in self.categories})
        if unknown:
            known = ", ".join(category.name for category in self.categories)
            raise ValueError(f"suite {self.name} has no category {', '.join(unknown)}, only {known}")
        changed = [
            category.model_copy(update={"items": items[category.name], "limit": None})
            if category.name in items
            else category
            for category in self.categories
        ]
        return self.model_copy(update={"categories": changed})

    @property
    def level(self) -> float:
        """At which a category passes whatever the others do (Holm's first step)."""
        return self.alpha / len(self.categories)

    def items_of(self, category: Category) -> int | None:
        """How many items of the category are asked; None: no number is given for the category."""
        if category.items != "auto":
            return category.items
        if category.unit == "perplexity":
            return documents_to_pass(category.margin, category.assumed_spread, self.level, self.power)
        return items_to_pass(category.margin, category.assumed_flips, self.level, self.power)

    @property
    def task_names(self) -> list[str]:
        """As written: groups and tags are not taken apart."""
        return [task for category in self.categories for task in category.tasks]
