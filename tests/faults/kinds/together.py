"""Two runs of one workspace at once."""

import signal
import time

from tests.faults.inject import forget
from tests.faults.judge import result_of
from tests.faults.lab import Command
from tests.faults.processes import send
from tests.faults.trial import Kind, Missed, Trial, gist

_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
_ALONE_SECONDS = 240.0


def _both(trial: Trial, first: Command, second: Command) -> None:
    lab = trial.lab
    ends = []

    def tick(_: float) -> None:
        for command in (first, second):
            command.process.poll()

    for command in (first, second):
        ends.append(lab.finish(command, _ALONE_SECONDS, tick))
    # Each may reuse what the other has made.
    trial.seen += [result_of(finished.record).made for finished in ends if finished.record]
    for finished in ends:
        trial.ended(finished)
        if finished.exit_code != 0:
            trial.find("lost", f"one of two runs failed beside the other: {gist(finished.text)}")


def _two(trial: Trial) -> None:
    rng, lab = trial.rng, trial.lab
    if rng.random() < 0.3:
        lab.restore(empty=True)
    else:
        trial.tell(forget(lab.workspace, rng))
    offset = rng.choice((0.0, 0.0, rng.uniform(0.0, 3.0)))
    first = lab.start("run", str(lab.recipe), "--json")
    time.sleep(offset)
    second = lab.start("run", str(lab.recipe), "--json")
    trial.tell(f"two runs, {offset:.1f} s apart")
    _both(trial, first, second)
    trial.settle(trial.finished_stages())


def _one_killed(trial: Trial) -> None:
    rng, lab = trial.rng, trial.lab
    trial.tell(forget(lab.workspace, rng))
    when = rng.uniform(0.2, 6.0)
    first = lab.start("run", str(lab.recipe), "--json")
    second = lab.start("run", str(lab.recipe), "--json")
    killed = False

    def tick(passed: float) -> None:
        nonlocal killed
        if not killed and passed > when:
            killed = send(first.process.pid, signal.SIGKILL)

    finished = lab.finish(first, on_tick=tick)
    if finished.exit_code is None or finished.exit_code >= 0:
        lab.finish(second, _ALONE_SECONDS)
        raise Missed("the run ended before")
    trial.tell(f"two runs, one killed after {when:.1f} s")
    trial.cut_off = True
    other = trial.ended(lab.finish(second, _ALONE_SECONDS))
    if other.exit_code != 0:
        trial.find("lost", f"the other run failed: {gist(other.text)}")
    trial.settle(trial.finished_stages())


def _namespaces(trial: Trial) -> None:
    """Process ids of one namespace mean nothing in another, as with two containers on one volume."""
    rng, lab = trial.rng, trial.lab
    trial.tell(forget(lab.workspace, rng))
    first = lab.start("run", str(lab.recipe), "--json", prefix=_NAMESPACE)
    offset = rng.uniform(0.0, 4.0)
    time.sleep(offset)
    second = lab.start("run", str(lab.recipe), "--json", prefix=_NAMESPACE)
    trial.tell(f"two namespaces, {offset:.1f} s apart")
    _both(trial, first, second)
    trial.settle(trial.finished_stages())


KINDS = (
    Kind("two runs: at once", 4.0, _two),
    Kind("two runs: one is killed", 2.0, _one_killed),
    Kind("two runs: two namespaces", 2.0, _namespaces, mounts=True),
)
