"""How long generated answers are: in tokens, over pairs, with an interval that covers."""

import numpy as np
import pytest

from evals.judging.verbosity import verbosity
from evals.samples import Sample
from tests.unit.evals.test_retention import sample


def pairs_of(baseline: list[int], artifact: list[int], **changes: object) -> list[tuple[Sample, Sample]]:
    return [
        (sample(item, 1.0, answer_tokens=one, **changes), sample(item, 1.0, answer_tokens=other, **changes))
        for item, (one, other) in enumerate(zip(baseline, artifact, strict=True))
    ]


def test_the_ratio_is_of_all_tokens() -> None:
    found = verbosity(pairs_of([10, 30, 20], [10, 36, 20]))
    assert found is not None
    assert (found.items, found.baseline_tokens, found.artifact_tokens) == (3, 20.0, 22.0)
    assert found.ratio == pytest.approx(1.1)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.1 < found.high


def test_the_same_answers_leave_no_doubt() -> None:
    found = verbosity(pairs_of([10, 30, 20], [10, 30, 20]))
    assert found is not None
    assert (found.ratio, found.low, found.high) == (1.0, 1.0, 1.0)


def test_what_is_not_known_is_not_told() -> None:
    assert verbosity([]) is None
    assert verbosity(pairs_of([0, 0], [0, 0])) is None
    # Samples from before tokens were counted: neither 0 nor infinitely many.
    assert verbosity(pairs_of([0, 0], [7, 7])) is None
    assert verbosity(pairs_of([7, 7], [0, 0])) is None
    one = verbosity(pairs_of([10], [12]))
    assert one is not None
    assert (one.ratio, one.low, one.high) == (1.2, None, None)


def test_what_is_not_independent_is_one_item() -> None:
    several = verbosity(pairs_of([10, 30, 20, 40], [12, 30, 25, 40], cluster="one question"))
    assert several is not None
    assert several.low is None
    assert several.ratio == pytest.approx(1.07)


@pytest.mark.slow
def test_the_interval_covers() -> None:
    draw, covered = np.random.default_rng(7), 0
    for _ in range(600):
        ours = draw.geometric(1 / 60, 150)
        theirs = np.maximum(1, np.round(ours * draw.lognormal(np.log(1.05), 0.5, 150))).astype(int)
        found = verbosity(pairs_of(ours.tolist(), theirs.tolist()))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.05 * np.exp(0.5**2 / 2) <= found.high
    assert covered / 600 > 0.91
