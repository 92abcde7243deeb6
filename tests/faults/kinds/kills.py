"""A signal to somebody who works for a run, at a random moment."""

import signal
from functools import partial

from tests.faults.inject import forget
from tests.faults.lab import Finished
from tests.faults.processes import Role, send
from tests.faults.trial import Kind, Missed, Trial

_RUN_SECONDS = 12.0
_ROLE_SECONDS: dict[Role, float] = {"server": 3.0, "server guard": 3.0, "recorder": 5.0}
_FOR_EVER_SECONDS = 60.0
"""A pause behind every deadline of the recipe."""
_MET_SECONDS = 2.0
"""Roles live about so long; the moment is drawn from that."""


class _Signal:
    """Sends a signal once its moment has come; a stopped process goes on after a while."""

    def __init__(self, trial: Trial, role: Role, number: signal.Signals) -> None:
        rng = trial.rng
        self._trial, self._role, self._number = trial, role, number
        longest = _RUN_SECONDS if role == "run" else _ROLE_SECONDS.get(role, _MET_SECONDS)
        self._after = rng.uniform(0.05, longest)
        self._met: float | None = None
        self._which = rng.random()
        shortly = rng.uniform(0.2, 3.0)
        self._pause = shortly if role == "run" else rng.choice((shortly, shortly, _FOR_EVER_SECONDS))
        self.sent_at: float | None = None
        self.pid = 0
        self._resumed = False

    def tick(self, passed: float) -> None:
        """Called many times a second."""
        if self.sent_at is not None:
            if self._number == signal.SIGSTOP and not self._resumed and passed > self.sent_at + self._pause:
                self._resumed = True
                send(self.pid, signal.SIGCONT)
            return
        alive = self._trial.lab.roles().get(self._role, [])
        if not alive:
            return
        self._met = passed if self._met is None else self._met
        if passed >= self._met + self._after:
            self.pid = alive[int(self._which * len(alive))]
            if send(self.pid, self._number):
                self.sent_at = passed


def _signalled(trial: Trial, role: Role, numbers: tuple[signal.Signals, ...]) -> None:
    rng, lab = trial.rng, trial.lab
    if rng.random() < 0.2:
        lab.restore(empty=True)
        trial.tell("an empty workspace")
    else:
        trial.tell(forget(lab.workspace, rng, "measure" if role.startswith(("server", "load")) else ""))
    number = rng.choice(numbers)
    sender = _Signal(trial, role, number)
    finished = lab.finish(lab.start("run", str(lab.recipe), "--json"), on_tick=sender.tick)
    if sender.sent_at is None:
        raise Missed(f"no {role} lived long enough")
    trial.tell(f"{number.name} to {role} {sender.pid} after {sender.sent_at:.2f} s")
    _judge(trial, role, number, finished)
    trial.settle(trial.finished_stages())


def _judge(trial: Trial, role: Role, number: signal.Signals, finished: Finished) -> None:
    meant = role == "run" and number != signal.SIGSTOP
    trial.ended(finished, interrupted=meant)
    if meant and number != signal.SIGKILL:
        trial.no_leftovers()


_ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HARD = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

KINDS = (
    Kind("kills: run, kill -9", 6.0, partial(_signalled, role="run", numbers=(signal.SIGKILL,))),
    Kind("kills: run, asked to end", 4.0, partial(_signalled, role="run", numbers=_ASKED)),
    Kind("kills: stage", 5.0, partial(_signalled, role="stage", numbers=_HARD)),
    Kind("kills: server", 4.0, partial(_signalled, role="server", numbers=_HARD)),
    Kind("kills: load client", 2.0, partial(_signalled, role="load", numbers=_HARD)),
    Kind("kills: recorder", 3.0, partial(_signalled, role="recorder", numbers=_HARD)),
    Kind("kills: guard of a stage", 2.0, partial(_signalled, role="stage guard", numbers=_HARD)),
    Kind("kills: guard of a server", 2.0, partial(_signalled, role="server guard", numbers=_HARD)),
    Kind("kills: run paused", 1.0, partial(_signalled, role="run", numbers=(signal.SIGSTOP,))),
    Kind("kills: stage paused", 1.0, partial(_signalled, role="stage", numbers=(signal.SIGSTOP,))),
    Kind("kills: server paused", 1.0, partial(_signalled, role="server", numbers=(signal.SIGSTOP,))),
    Kind("kills: recorder paused", 0.5, partial(_signalled, role="recorder", numbers=(signal.SIGSTOP,))),
)
