"""Prompts one after the other, some of them in flight at once, and when to stop because no answers come any more."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from configs.errors import StageError
from serving_checks.replay.prompts import Prompt
from serving_checks.transport.streaming import first_of

_HOPELESS = 20
"""Failures in a row, whatever the number in flight."""
_T = TypeVar("_T")


async def ask_all(
    prompts: Sequence[Prompt],
    ask: Callable[[Prompt], Awaitable[_T]],
    failure_of: Callable[[_T], str | None],
    keep: Callable[[Prompt, _T], None],
    concurrency: int,
) -> None:
    """Ask all prompts in their order, `concurrency` at once, and keep each answer as it comes.

    A failure is kept once the server has answered something after it. Where nothing but failures comes, it is the
    server's and no prompt's: those since the last answer are not kept, so that they are asked again another time.

    Args:
        failure_of: The words of a failure that may be the server's; None for an answer, and for a refusal of one
            prompt.

    Raises:
        StageError: Failures only, one after the other.
    """
    doubtful: list[tuple[Prompt, _T]] = []
    waiting = iter(prompts)

    async def work() -> None:
        for prompt in waiting:
            answer = await ask(prompt)
            failure = failure_of(answer)
            doubtful.append((prompt, answer))
            if failure is None:
                _flush(doubtful, keep)
            elif len(doubtful) >= max(_HOPELESS, 2 * concurrency):
                raise StageError(
                    f"the last {len(doubtful)} prompts were not answered: {failure}",
                    remedy="see the server's log for what it hangs at, or raise `asking.timeout_seconds` where it is"
                    " only slow",
                    blame="engine",
                )

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(prompts))):
                group.create_task(work())
    except BaseExceptionGroup as found:
        raise first_of(found) from found
    _flush(doubtful, keep)


def _flush(doubtful: list[tuple[Prompt, _T]], keep: Callable[[Prompt, _T], None]) -> None:
    for prompt, answer in doubtful:
        keep(prompt, answer)
    doubtful.clear()
