"""Reads each answer once, in the observer's process: its tokens are counted and it gets a line in the log."""

from registry.contracts import Pair, Reply
from serving_checks.gateway.asked import CHAT, Asked
from serving_checks.gateway.event_log import AnswerEvent, EventLog, now
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.replies import pairs, reply_of
from serving_checks.gateway.served_metrics import Served, Traffic
from serving_checks.gateway.tally import Tally
from serving_checks.gateway.upstream import Answered


class AnswerReader:
    """What becomes of an answer besides its pair.

    Args:
        tally: Counts it.
        log: Gets a line; none where it is None.
    """

    def __init__(self, tally: Tally, log: EventLog | None = None) -> None:
        self._tally, self._log = tally, log

    async def client_answered(self, observed: Observed) -> Observed:
        """A client has this answer; it comes back read."""
        reply = await _read(observed.asked, observed.answered)
        served = Served(observed.by, observed.version, observed.asked.path)
        self._tally.client_answered(served, observed.answered, reply)
        if observed.answered.status == 200:  # of others the gateway tells
            self._tell(served, observed.asked, observed.answered, reply, "client")
        return observed._replace(reply=reply)

    async def attempt_answered(self, observed: Observed) -> None:
        """A cascade asked for this answer, and no client has it."""
        reply = await _read(observed.asked, observed.answered)
        served = Served(observed.by, observed.version, observed.asked.path)
        self._tally.attempt_answered(served, observed.answered, reply)
        self._tell(served, observed.asked, observed.answered, reply, "attempt")

    async def copy_answered(self, asked: Asked, answered: Answered, arm: Arm, version: str) -> Reply:
        """The other side gave this answer; it comes back read."""
        reply = await _read(asked, answered)
        served = Served(arm, version, asked.path)
        self._tally.copy_answered(served, answered, reply)
        self._tell(served, asked, answered, reply, "mirror")
        return reply

    def copy_failed(self, asked: Asked, arm: Arm, version: str, status: int) -> None:
        """The other side gave none; `status` is what a client would have been told."""
        self._tally.copy_failed(Served(arm, version, asked.path), status)

    def compared(self, pair: Pair) -> None:
        """Both sides' answers became a pair."""
        self._tally.compared(pair)

    def _tell(self, served: Served, asked: Asked, answered: Answered, reply: Reply, traffic: Traffic) -> None:
        if self._log is None:
            return
        self._log.tell(
            AnswerEvent(
                at=now(),
                id=asked.id,
                arm=served.arm,
                version=served.version,
                traffic=traffic,
                operation="chat" if asked.path == CHAT else "text_completion",
                streamed=asked.streams,
                status=answered.status,
                seconds=round(answered.ended_at - answered.sent_at, 6),
                first_token_seconds=None if reply.first_token_seconds is None else round(reply.first_token_seconds, 6),
                input_tokens=reply.prompt_tokens,
                output_tokens=reply.completion_tokens,
            )
        )


async def _read(asked: Asked, answered: Answered) -> Reply:
    reply = await reply_of(asked, answered)
    # Several answers are written side by side: their tokens say nothing of the time that one takes.
    return reply if pairs(asked) else reply.model_copy(update={"first_token_seconds": None})
