"""A limited task scores a random, growing, repeatable subset."""

import itertools
import math

import pytest

from evals.suites.resolve import sampled_ids


def test_the_sample_is_the_same_everywhere() -> None:
    assert sampled_ids("arc_easy", 2376, 3, 1234) == [83, 1782, 1878]


def test_a_larger_sample_holds_the_smaller() -> None:
    samples = [set(sampled_ids("task", 500, limit, 1)) for limit in (1, 10, 100, 499, 500, 9999)]
    assert [len(sample) for sample in samples] == [1, 10, 100, 499, 500, 500]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(samples))


def test_ids_are_ascending_and_all_without_a_limit() -> None:
    ids = sampled_ids("task", 500, 50, 1)
    assert ids == sorted(set(ids))
    assert sampled_ids("task", 7, None, 1) == list(range(7))
    assert sampled_ids("task", 0, 3, 1) == []


@pytest.mark.parametrize(("task", "seed"), [("other", 1), ("task", 2)])
def test_task_and_seed_change_the_sample(task: str, seed: int) -> None:
    assert sampled_ids(task, 500, 50, seed) != sampled_ids("task", 500, 50, 1)


def test_every_document_is_as_likely_as_another() -> None:
    """200 samples of 50 from 100: each document is in half of them, give or take five standard deviations."""
    counts = [0] * 100
    for seed in range(200):
        for document in sampled_ids("task", 100, 50, seed):
            counts[document] += 1
    assert all(abs(count - 100) < 5 * math.sqrt(200 / 4) for count in counts)
