"""Pairs of live traffic: what one side has answered a client the other is asked too, and both answers are kept."""

from collections.abc import Callable

from pipelines.stage_programs.pair_making import Answered, pair_of
from registry.contracts import Pair
from serving_checks.gateway.observed import Observed
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

    def wants(self, observed: Observed) -> bool:
        """Whether there is another side to ask, and something to compare."""
        return self._other(observed) is not None and pairs(observed.asked)

    def _other(self, observed: Observed) -> Upstream | None:
        other = self.candidate if observed.by == "champion" else self.champion
        # Between answer and question an alias may have moved: a model is not compared with itself.
        return other if other is not None and other.version != observed.version else None

    async def ask_other(self, observed: Observed) -> None:
        """Ask the side that has not answered, and keep the pair.

        Raises:
            OSError, aiohttp.ClientError, ValueError: It did not answer, is not there any more, or the request holds no
                text.
        """
        asked, of_champion = observed.asked, observed.by == "champion"
        other = self._other(observed)
        if other is None:
            raise ValueError("the other side is gone")
        prompt = prompt_of(asked)
        answered = await reply_of(asked, observed.answered)
        copied = await reply_of(asked, await other.fetch(asked, SHADOW_HEADERS))
        both = Answered(answered, copied) if of_champion else Answered(copied, answered)
        made = pair_of(prompt, both, _unknown, keep_prompts=self._keep_prompts)
        versions = (observed.version, other.version) if of_champion else (other.version, observed.version)
        self._keep(
            made.model_copy(
                update={
                    "source": "mirror" if of_champion else "split",
                    "champion": made.champion.model_copy(update={"version": versions[0]}),
                    "candidate": made.candidate.model_copy(update={"version": versions[1]}),
                }
            )
        )


def _unknown(*_: object) -> None:
    """Nobody knows the right answers of live traffic."""
