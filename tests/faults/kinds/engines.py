"""The real thing: `quantbench` untouched, its own fork servers, vLLM, GPTQ; killed in the middle.

What they are compared with is a run of their own, made before the first of them. INT8 is no part of it: what it answers
depends on what is computed beside it (docs/findings.md).
"""

import json
import shutil
import signal
from functools import partial

from tests.faults.judge import result_of
from tests.faults.processes import Role, send
from tests.faults.trial import Kind, Missed, Trial, gist

_SECONDS = 600.0
_RUN_SECONDS = 90.0


def _golden(trial: Trial) -> None:
    """The undisturbed run of the real engines, made once a campaign."""
    lab = trial.lab
    kept = lab.root / "real-golden"
    record, recipe = lab.root / "real-golden.json", lab.root / "real.yaml"
    if not record.is_file():
        recipe.write_text(
            lab.recipe.read_text().replace("int8: {method: bnb_int8}", "gptq: {method: gptq, group_size: 32}")
        )
        lab.restore(empty=True)
        finished = lab.run("run", str(recipe), "--json", seconds=_SECONDS, cold=True)
        if finished.exit_code != 0 or finished.record is None:
            trial.find("lost", f"the undisturbed run fails: {gist(finished.text)}")
            return
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(lab.workspace, kept)
        record.write_text(finished.stdout)
    trial.golden = result_of(json.loads(record.read_text()))
    trial.seen[:] = [trial.golden]


def _disturbed(trial: Trial, role: Role, numbers: tuple[signal.Signals, ...]) -> None:
    rng, lab = trial.rng, trial.lab
    _golden(trial)
    if trial.findings:
        return
    lab.restore(lab.root / "real-golden")
    stages = rng.choice((("measure",), ("quantize",), ("measure", "quantize"), ("prepare", "inspect", "measure")))
    for stage in stages:
        shutil.rmtree(lab.workspace / "cache" / stage)
    trial.tell(f"forgotten: {', '.join(stages)}")
    command = ("run", str(lab.root / "real.yaml"), "--json")
    number, after = rng.choice(numbers), rng.uniform(0.1, _RUN_SECONDS if role == "run" else 8.0)
    met: float | None = None
    sent = False

    def tick(passed: float) -> None:
        nonlocal met, sent
        alive = [] if sent else lab.roles().get(role, [])
        if not alive:
            return
        met = passed if met is None else met
        if passed >= met + after:
            sent = send(rng.choice(alive), number)

    finished = lab.finish(lab.start(*command, cold=True), _SECONDS, tick)
    if not sent:
        raise Missed(f"no {role} lived long enough")
    trial.tell(f"{number.name} to {role}")
    trial.ended(finished, interrupted=role == "run")
    before = trial.finished_stages()
    again = trial.ended(lab.run(*command, seconds=_SECONDS, cold=True), finished_before=before)
    if again.exit_code != 0:
        trial.find("lost", f"the repeated command does not get there: {gist(again.text)}")
    trial.no_leftovers()


_HARD = (signal.SIGKILL, signal.SIGTERM)

KINDS = (
    Kind(
        "engines: run", 0.3, partial(_disturbed, role="run", numbers=(*_HARD, signal.SIGHUP, signal.SIGINT)), real=True
    ),
    Kind("engines: fork server", 0.3, partial(_disturbed, role="fork server", numbers=_HARD), real=True),
    Kind("engines: vLLM", 0.3, partial(_disturbed, role="server", numbers=_HARD), real=True),
    Kind("engines: guard of vLLM", 0.2, partial(_disturbed, role="server guard", numbers=(signal.SIGKILL,)), real=True),
)
