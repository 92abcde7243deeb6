"""Many prompts: in their order, some at once, each kept once, and an end where nothing but failures comes."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from configs.errors import StageError
from serving_checks.replay.prompts import Prompt
from serving_checks.replay.schedule import ask_all
from tests.unit.serving_checks.test_replay_asking import prompt

FAILED = "no end within 1 s"


def prompts(number: int) -> list[Prompt]:
    return [prompt(number=place) for place in range(number)]


def kept_of(
    number: int, answers: Callable[[int], Awaitable[str]], concurrency: int = 4
) -> tuple[list[tuple[int, str]], str]:
    """What was kept of so many prompts, and why it ended."""
    kept: list[tuple[int, str]] = []

    async def ask(one: Prompt) -> str:
        return await answers(one.number)

    try:
        asyncio.run(
            ask_all(
                prompts(number),
                ask,
                lambda answer: answer or None,
                lambda one, answer: kept.append((one.number, answer)),
                concurrency,
            )
        )
    except StageError as error:
        return kept, error.what
    return kept, ""


def test_all_are_asked_in_their_order_and_no_more_at_once_than_allowed() -> None:
    begun: list[int] = []
    in_flight = most = 0

    async def answers(number: int) -> str:
        nonlocal in_flight, most
        begun.append(number)
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.001 * (number % 3))
        in_flight -= 1
        return ""

    kept, why = kept_of(40, answers)
    assert why == "" and most == 4
    assert begun == list(range(40))
    assert sorted(kept) == [(number, "") for number in range(40)]


def test_nothing_to_ask_is_no_error() -> None:
    async def answers(number: int) -> str:
        raise AssertionError

    assert kept_of(0, answers) == ([], "")


def test_failures_among_answers_are_kept() -> None:
    async def answers(number: int) -> str:
        return FAILED if number % 5 == 3 else ""

    kept, why = kept_of(50, answers)
    assert why == "" and len(kept) == 50 and sum(answer == FAILED for _, answer in kept) == 10


def test_failures_at_the_end_are_kept() -> None:
    async def answers(number: int) -> str:
        return FAILED if number >= 10 else ""

    kept, why = kept_of(20, answers)
    assert why == "" and len(kept) == 20


@pytest.mark.parametrize(("concurrency", "row"), [(1, 20), (16, 32)])
def test_nothing_but_failures_ends_it_and_they_are_not_kept(concurrency: int, row: int) -> None:
    async def answers(number: int) -> str:
        await asyncio.sleep(0)
        return FAILED if number >= 30 else ""

    kept, why = kept_of(200, answers, concurrency)
    assert why == f"the last {row} prompts were not answered: {FAILED}"
    assert sorted(kept) == [(number, "") for number in range(30)]


def test_what_stops_one_stops_all() -> None:
    async def answers(number: int) -> str:
        await asyncio.sleep(0)
        if number == 7:
            raise StageError("the server is gone", remedy="x")
        return ""

    kept, why = kept_of(1000, answers)
    assert why == "the server is gone"
    assert len(kept) <= 10
