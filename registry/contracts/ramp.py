"""How far a candidate has come: which share of the clients it answers, and what its verdict was so far."""

from typing import Literal

from registry.contracts.base import Record
from registry.contracts.shadow_verdict import ShadowVerdict

RampState = Literal["wanted", "running", "held", "paused", "failed", "stopped", "passed"]
"""wanted: somebody asked for the step, and a gateway is to begin it; held: by somebody, and only a fail moves it;
paused: its verdict is inconclusive; failed, stopped: by a verdict, by somebody, and no client is answered by it."""


class RampRecord(Record):
    """Where a ramp stands after a row of the ledger, which names this record by its digest."""

    champion: str
    """Digest of the artifact that the candidate is compared with."""
    champion_row: int
    """Of the champion's alias in the ledger, when the ramp began: moved since, it is another comparison."""
    candidate: str
    candidate_row: int
    """Of the shadow's alias."""
    steps: list[float]
    """Shares of the clients, ascending."""
    step: int
    """Place in `steps`, from 0."""
    state: RampState
    trial: str = ""
    """What the pairs of this step are known by, a new one each time that a step begins; empty while it is wanted."""
    judge: str = ""
    """The gateway whose pairs decide whether it passes: several that each judged their own would each spend alpha."""
    verdict: ShadowVerdict | None = None
    """That brought it here; None where somebody did."""

    @property
    def share(self) -> float:
        """Of the clients, that the candidate answers."""
        return 0.0 if self.state in ("failed", "stopped") else self.steps[self.step]

    @property
    def step_text(self) -> str:
        """`5 %, step 2 of 4`"""
        return f"{100 * self.steps[self.step]:g} %, step {self.step + 1} of {len(self.steps)}"
