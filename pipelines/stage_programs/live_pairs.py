"""Pairs of live traffic: what one side has answered a client the other is asked too, and both answers are kept."""

import asyncio
from collections.abc import Callable
from time import perf_counter

import aiohttp

from pipelines.stage_programs.pair_making import Answered, pair_of
from registry.contracts import Pair, Reply
from registry.pair_database import NO_TRIAL, Trial
from serving_checks.gateway.answer_reader import AnswerReader
from serving_checks.gateway.asked import Asked
from serving_checks.gateway.cascade import with_logprobs
from serving_checks.gateway.config import MirrorConfig
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.replies import SHADOW_HEADERS, no_reply, pairs, prompt_of, reply_of
from serving_checks.gateway.upstream import Upstream

_MOVED_SECONDS = 1.0
"""Within which it is known here that a server was stopped, or that the gateway ended."""


class LivePairs:
    """What a mirror's requests become.

    Args:
        keep: Gets each pair, and what it is evidence of.
        reader: Counts answers of copies.
        mirror: How patient, and whether log-probabilities are asked for.
        keep_prompts: Keep words too, and not only hashes and lengths.
    """

    def __init__(
        self,
        keep: Callable[[Pair, Trial], None],
        reader: AnswerReader,
        mirror: MirrorConfig,
        *,
        keep_prompts: bool,
    ) -> None:
        self.champion: Upstream | None = None
        self.candidate: Upstream | None = None
        """Who are asked; None while there is none. Others may take their places at any time."""
        self.trial = NO_TRIAL
        """What their pairs are evidence of."""
        self._keep, self._reader = keep, reader
        self._mirror, self._keep_prompts = mirror, keep_prompts

    def wants(self, observed: Observed) -> bool:
        """Whether there is another side to ask, and something to compare."""
        return self._other(observed) is not None and pairs(observed.asked)

    def _other(self, observed: Observed) -> Upstream | None:
        other = self.candidate if observed.by == "champion" else self.champion
        # Between answer and question an alias may have moved, or a ramp: then it is another comparison.
        moved = observed.trial != self.trial.name
        return other if other is not None and other.version != observed.version and not moved else None

    async def ask_other(self, observed: Observed) -> None:
        """Ask the side that has not answered, and keep the pair.

        Raises:
            ValueError: It is not there any more, or the request holds no text.
        """
        asked, of_champion = observed.asked, observed.by == "champion"
        other = self._other(observed)
        if other is None:
            raise ValueError("the other side is gone")
        prompt, trial = prompt_of(asked)._replace(prompt_class=observed.prompt_class), self.trial
        answered = observed.reply or await reply_of(asked, observed.answered)
        copied = await self._copied(other, "candidate" if of_champion else "champion", asked)
        if copied.status == 0:
            # That a server was stopped when an alias moved is no fault of the model's.
            await asyncio.sleep(_MOVED_SECONDS)
            if self._other(observed) is not other:
                raise ValueError("the other side is gone")
        both = Answered(answered, copied) if of_champion else Answered(copied, answered)
        made = pair_of(prompt, both, _unknown, keep_prompts=self._keep_prompts)
        versions = (observed.version, other.version) if of_champion else (other.version, observed.version)
        pair = made.model_copy(
            update={
                "source": "route" if observed.route else "mirror" if of_champion else "split",
                "route": observed.route,
                "champion": made.champion.model_copy(update={"version": versions[0]}),
                "candidate": made.candidate.model_copy(update={"version": versions[1]}),
            }
        )
        self._reader.compared(pair)
        self._keep(pair, trial)

    async def _copied(self, other: Upstream, arm: Arm, asked: Asked) -> Reply:
        """What the other side says; that it says nothing is its failure, and part of the pair."""
        sent_at = perf_counter()
        try:
            async with asyncio.timeout(self._mirror.timeout_seconds):
                wanted = with_logprobs(asked) if self._mirror.logprobs else asked
                fetched = await other.fetch(wanted, SHADOW_HEADERS)
        except TimeoutError:
            self._reader.copy_failed(asked, arm, other.version, 504)
            return no_reply(asked, sent_at, f"no answer within {self._mirror.timeout_seconds:g} s")
        except (OSError, aiohttp.ClientError, ValueError) as error:
            self._reader.copy_failed(asked, arm, other.version, 502)
            return no_reply(asked, sent_at, f"no answer: {type(error).__name__}")
        return await self._reader.copy_answered(asked, fetched, arm, other.version)


def _unknown(*_: object) -> None:
    """Nobody knows the right answers of live traffic."""
