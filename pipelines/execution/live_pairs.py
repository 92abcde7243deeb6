"""Pairs of live traffic: what one side has answered a client the other is asked too, and both answers are kept."""

from collections.abc import Callable

from pipelines.stage_programs.pair_making import Answered, pair_of
from registry.contracts import Pair
from serving_checks.gateway.mirror import Mirrored
from serving_checks.gateway.replies import SHADOW_HEADERS, pairs, prompt_of, reply_of
from serving_checks.gateway.upstream import Upstream


class LivePairs:
    """What a mirror's requests become.

    Args:
        keep: Gets each pair.
        keep_prompts: Keep words too, and not only hashes and lengths.
    """

    def __init__(self, keep: Callable[[Pair], None], *, keep_prompts: bool) -> None:
        self.champion: Upstream | None = None
        self.candidate: Upstream | None = None
        """Who are asked; None while there is none. Others may take their places at any time."""
        self._keep, self._keep_prompts = keep, keep_prompts

    async def ask_other(self, mirrored: Mirrored) -> None:
        """Ask the side that has not answered, and keep the pair.

        Raises:
            OSError, aiohttp.ClientError, ValueError: It did not answer, or the request is none that makes a pair.
        """
        asked, by = mirrored.asked, mirrored.by
        other = self.candidate if by == "champion" else self.champion
        if other is None or not pairs(asked):
            return
        prompt = prompt_of(asked)
        answered = await reply_of(asked, mirrored.answered)
        copied = await reply_of(asked, await other.fetch(asked, SHADOW_HEADERS))
        both = Answered(answered, copied) if by == "champion" else Answered(copied, answered)
        made = pair_of(prompt, both, _unknown, keep_prompts=self._keep_prompts)
        self._keep(made.model_copy(update={"source": "mirror" if by == "champion" else "split"}))


def _unknown(*_: object) -> None:
    """Nobody knows the right answers of live traffic."""
