"""A classifier of prompts: at which of them the cheap artifact is worse. A logistic regression, kept as numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evals.statistics.routing import Flags
from evals.statistics.score import Floats
from registry.prompt_features import features_of, probability

LEAST_OF_EACH = 10
"""Items at which the cheap one is worse, and others, without which nothing is trained."""
_STRENGTH = 1.0
"""scikit-learn's C, its default: hundreds of items carry no search for a better one."""


class PromptClassifier(NamedTuple):
    """Weights by the names of `registry.prompt_features`; all others are 0."""

    intercept: float
    weights: dict[str, float]

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """That the cheap artifact is worse at each prompt [texts]."""
        return np.array([probability(features_of(text), self.weights, self.intercept) for text in texts])


def train(texts: Sequence[str], worse: Flags) -> PromptClassifier | None:
    """Train on prompts and whether the cheap artifact was worse; None where either kind is too rare.

    Args:
        texts: Prompts.
        worse: [texts].
    """
    if min(worse.sum(), (~worse).sum()) < LEAST_OF_EACH:
        return None
    from sklearn.feature_extraction import DictVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    columns = DictVectorizer()
    seen = columns.fit_transform([features_of(text) for text in texts])
    fitted = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(seen, worse)
    values = dict(zip(columns.get_feature_names_out(), fitted.coef_[0].tolist(), strict=True))
    return PromptClassifier(float(fitted.intercept_[0]), {name: value for name, value in values.items() if value})
