"""An answer against the one that is known to be right."""

import math
import re
from typing import Literal

import regex

from configs.base import StrictModel
from configs.quantities import Label

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TOLERANCE = 1e-6
"""Of numbers, relative: what is written with six digits or more is the same number."""
_SEARCH_SECONDS = 0.5


class TaskScorerConfig(StrictModel):
    """One of lm-eval's own tasks, whose document is what is known: a row of the task's data, as a JSON object."""

    task: Label
    metric: Label = "exact_match"
    filter: Label = "none"
    """lm-eval's name of what is cut out of an answer before it is judged, such as `strict-match`."""


class KnownAnswersConfig(StrictModel):
    """Where known answers stand, and how an answer is held against them."""

    field: Label = "expected"
    """In a line of the log, or in its metadata."""
    scorer: Literal["exact", "numeric", "regex"] | TaskScorerConfig = "exact"
    """`exact`: the same text, but for spaces around it. `numeric`: the answer's last number. `regex`: what is known is
    a regular expression, which is found in the answer."""


def score_of(text: str, expected: str, config: KnownAnswersConfig) -> float | None:
    """1 for a right answer, 0 for a wrong one; None where what is expected is nothing that can be looked for.

    Args:
        text: All of the answer.
        expected: What is known.
    """
    if config.scorer == "exact":
        return float(text.strip() == expected.strip())
    if isinstance(config.scorer, TaskScorerConfig):
        raise TypeError("a task scores by its document, see `evals.asking.task_scorer`")
    if config.scorer == "numeric":
        wanted, found = _last_number(expected), _last_number(text)
        if wanted is None:
            return None
        return float(found is not None and math.isclose(found, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE))
    try:
        return float(regex.search(expected, text, timeout=_SEARCH_SECONDS) is not None)
    except (regex.error, TimeoutError):
        return None


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
