"""Pairs of live traffic: the shadow is asked what the champion has answered, and both answers are kept as a pair."""

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
        self.shadow: Upstream | None = None
        """Who is asked; None while there is none. Another one may take its place at any time."""
        self._keep, self._keep_prompts = keep, keep_prompts

    async def ask_shadow(self, mirrored: Mirrored) -> None:
        """Ask the shadow and keep the pair.

        Raises:
            OSError, aiohttp.ClientError, ValueError: It did not answer, or the request is none that makes a pair.
        """
        shadow, asked = self.shadow, mirrored.asked
        if shadow is None or not pairs(asked):
            return
        prompt = prompt_of(asked)
        champion = await reply_of(asked, mirrored.champion)
        candidate = await reply_of(asked, await shadow.fetch(asked, SHADOW_HEADERS))
        made = pair_of(prompt, Answered(champion, candidate), _unknown, keep_prompts=self._keep_prompts)
        self._keep(made.model_copy(update={"source": "mirror"}))


def _unknown(*_: object) -> None:
    """Nobody knows the right answers of live traffic."""
