"""When to give up on a stage, a server or an evaluation that does not get on."""

from typing import Annotated

from pydantic import Field

from configs.base import StrictModel
from configs.quantities import Minutes, Seconds
from serving_checks.processes.pulse import Patience

_Long = Annotated[Minutes, Field(gt=0)]


class Deadlines(StrictModel):
    """No stage waits for ever. The defaults are far above what a large model takes; what ends at one has stood still.

    Servers' starts, load tests and checks have deadlines of their own, each in its section.
    """

    prepare_minutes: _Long = 24 * 60
    """A download included."""
    soundness_minutes: _Long = 12 * 60
    calibrate_minutes: _Long = 24 * 60
    sensitivity_minutes: _Long = 24 * 60
    """A run that is started again goes on from the last trial."""
    quantize_minutes: _Long = 72 * 60
    """Of one method."""
    inspect_minutes: _Long = 12 * 60
    measure_minutes: _Long = 72 * 60
    """Of one model: server, evaluation, load tests and proofs. Also of a bench."""
    tune_minutes: _Long = 12 * 60
    """Of one cell."""
    replay_minutes: _Long = 72 * 60
    """Of one sitting; the next one goes on where it stopped."""
    record_minutes: _Long = 15
    """Of the record in MLflow."""
    silent_minutes: _Long = 30
    """Without progress, a line in the log, or computation."""
    answer_minutes: _Long = 5
    """Without a single answer to an evaluation's questions, while the server's metrics stand still."""
    suspended_seconds: Annotated[Seconds, Field(gt=0)] = 60
    """While a process of a stage or a server is stopped from outside (SIGSTOP)."""

    def of_stage(self, kind: str) -> Patience:
        """With a stage's process."""
        minutes = self.measure_minutes if kind == "bench" else float(getattr(self, f"{kind}_minutes"))
        return Patience(60 * minutes, 60 * self.silent_minutes, self.suspended_seconds)

    @property
    def of_server(self) -> Patience:
        """With a server, whose start and tests have deadlines of their own."""
        return Patience(suspended_seconds=self.suspended_seconds)
