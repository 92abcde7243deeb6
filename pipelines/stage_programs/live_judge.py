"""Judges a gateway's pairs beside it, so that no client waits for it. Started by a gateway as

    python -m pipelines.stage_programs.live_judge

with lines of JSON on both sides: a JudgeJob, then the name of a trial whenever it changes; back comes a JudgeSaid for
each look that found something new. It ends when its standard input does.
"""

import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

from pydantic import Field

from configs.base import StrictModel
from configs.errors import QuantbenchError
from configs.quantities import Seconds
from evals.judging.trial_judge import TrialJudge
from evals.judging.verdict_config import VerdictConfig
from registry.contracts import JudgeSaid

_NICENESS = 15
"""Behind the observer: a verdict can wait, pairs that find no room are lost."""


class JudgeJob(StrictModel):
    """What a judge is started with."""

    database: Path
    """Of the pairs."""
    config: VerdictConfig
    """As it was frozen before the first of them."""
    look_seconds: Annotated[Seconds, Field(gt=0)]
    """Between two looks."""


def main() -> None:
    """Look until the gateway is gone."""
    # Ctrl-C reaches the whole group: the gateway ends this when it has ended itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    job = JudgeJob.model_validate_json(sys.stdin.readline())
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    judge: TrialJudge | None = None
    while True:
        try:
            line = lines.get(timeout=job.look_seconds)
        except queue.Empty:
            said = _look(judge) if judge else None
            if said is not None:
                print(said.model_dump_json(), flush=True)
            continue
        if not line:
            return
        judge = TrialJudge(job.database, name, job.config) if (name := line.strip()) else None


def _read(lines: queue.Queue[str]) -> None:
    """Every line, and an empty text at the end."""
    for line in sys.stdin:
        lines.put(line)
    lines.put("")


def _look(judge: TrialJudge) -> JudgeSaid | None:
    try:
        verdict = judge.look()
    except QuantbenchError as error:
        return JudgeSaid(trial=judge.trial, fault=error.what)
    return None if verdict is None else JudgeSaid(trial=judge.trial, verdict=verdict)


if __name__ == "__main__":
    main()
