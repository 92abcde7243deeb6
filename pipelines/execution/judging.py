"""The gateway's side of the judge: a process beside it that is told what to judge, and started again when it ends."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.stage_programs.live_judge import JudgeJob
from registry.contracts import JudgeSaid, ShadowVerdict

JUDGE = (sys.executable, "-P", "-m", "pipelines.stage_programs.live_judge")
_LEAST_REST_SECONDS, _MOST_REST_SECONDS = 1.0, 60.0
"""Before a judge that ended is started again: twice as long each time."""
_MOST_LINE_BYTES = 64 << 20


class Judging:
    """Verdicts over one trial after the other; use as an async context manager.

    Args:
        job: What the process is told first.
        log_file: Gets what it says beside its verdicts.
        tell: Is told when it ended, and what it cannot read.
    """

    def __init__(self, job: JudgeJob, log_file: Path, tell: Callable[[str], None]) -> None:
        self._job, self._log_file, self._tell = job, log_file, tell
        self._trial, self._said = "", ""
        self._verdict: ShadowVerdict | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_running())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def watch(self, trial: str) -> None:
        """Judge this trial from now on; none for an empty name."""
        if trial != self._trial:
            self._trial, self._verdict = trial, None
            self._write(trial)

    @property
    def latest(self) -> tuple[str, ShadowVerdict | None]:
        """The trial that is judged, and the last verdict over it; None while there is none."""
        return self._trial, self._verdict

    def _write(self, line: str) -> None:
        pipe = self._process.stdin if self._process else None
        if pipe is not None and not pipe.is_closing():
            pipe.write(line.encode() + b"\n")

    async def _keep_running(self) -> None:
        rest = _LEAST_REST_SECONDS
        while True:
            before = self._verdict
            await self._run_once()
            rest = _LEAST_REST_SECONDS if self._verdict is not before else min(2 * rest, _MOST_REST_SECONDS)
            self._tell(f"the judge of the pairs ended, and is started again in {rest:g} s; {self._log_file} says why")
            await asyncio.sleep(rest)

    async def _run_once(self) -> None:
        with self._log_file.open("ab") as log:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *JUDGE, stdin=pipe, stdout=pipe, stderr=log, limit=_MOST_LINE_BYTES
            )
        try:
            self._process = process
            self._write(self._job.model_dump_json())
            self._write(self._trial)
            while process.stdout and (line := await process.stdout.readline()):
                self._take(JudgeSaid.model_validate_json(line))
        except ValueError as error:
            self._tell(f"the judge of the pairs said what cannot be read: {str(error).splitlines()[0]}")
        finally:
            self._process = None
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _take(self, said: JudgeSaid) -> None:
        if said.fault and said.fault != self._said:
            self._tell(f"pairs are not judged: {said.fault}")
        self._said = said.fault
        if said.verdict is not None and said.trial == self._trial:
            self._verdict = said.verdict
