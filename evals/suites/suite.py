"""A suite: categories of lm-eval tasks, as data. `configs/suites/<name>.yaml` says which; `evals/tasks/` holds ours."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.names import CategoryName
from configs.quantities import Count, Label, Ratio, Seed, Share


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
    """Examples in the prompt; each task's own number when null."""
    chat_template: bool = False
    """Ask through the model's chat template, examples as turns of their own: lm-eval's `--apply_chat_template`."""
    limit: Count | None = Field(default=None, ge=1)
    """Items of each task, a sample by `seed`; all when null."""
    margin: Ratio = Field(default=0.02, gt=0)
    """The largest loss that is accepted: a share (0.02 is two points), for perplexity a ratio (0.02 is 2 % more)."""
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
    categories: list[Category] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_stand_once(self) -> Suite:
        for names in ([category.name.casefold() for category in self.categories], self.task_names):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{', '.join(sorted(twice))} stands twice")
        return self

    @property
    def task_names(self) -> list[str]:
        """As written: groups and tags are not taken apart."""
        return [task for category in self.categories for task in category.tasks]
