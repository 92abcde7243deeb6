"""The frame of a stage process: job file in, result file out, time and progress kept on the way."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from configs.errors import RequestError, StageError
from registry.contracts.job import StageJob
from registry.contracts.stage import Failure, StageResult
from registry.explain import explanation_of
from registry.files import write_text_atomically

_NOTE_BYTES = 256
"""Of a note about progress, filled up with spaces; parts have short names."""


class StageClock:
    """Adds up where a stage's time goes and tells the runner how far it is."""

    def __init__(self, progress_file: Path) -> None:
        self.timings_seconds: dict[str, float] = {}
        self.doing = "start"
        """The part that is being done, or was done last."""
        self._progress_file = progress_file

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`; blocks of one name add up."""
        self.progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_seconds[name] = self.timings_seconds.get(name, 0.0) + time.perf_counter() - start

    def progress(self, part: str, done: int | None = None, total: int | None = None) -> None:
        """Say what is being done now; `done` of `total` where that is known."""
        self.doing = part
        note = json.dumps({"part": part, "done": done, "total": total}).ljust(_NOTE_BYTES).encode()
        # In place, and all of one length: written many times a second, a new file each time would now and then be left
        # by a kill. No work of hours is given up for want of room for it; what needs the room will say so.
        with suppress(OSError):
            file = os.open(self._progress_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.pwrite(file, note, 0)
            finally:
                os.close(file)


StageWork = Callable[[StageJob, StageClock], StageResult]


def progress_file_of(result_file: Path) -> Path:
    """Where a stage that writes `result_file` says how far it is."""
    return result_file.with_suffix(".progress")


def progress_text(result_file: Path) -> str:
    """What the process of a job is doing, in words."""
    try:
        said = json.loads(progress_file_of(result_file).read_text())
    except (OSError, ValueError):
        return "starting"
    part = str(said["part"]).replace("_", " ")
    return f"{part} {said['done']}/{said['total']}" if said.get("total") else part


def main(table: dict[str, tuple[type[StageJob], StageWork]]) -> int:
    """Run the job whose file is the only argument; `table` maps a stage to its job type and its work.

    Returns:
        The process's exit code. A failure is written into the result as well, so that the runner can explain it;
        the traceback goes to stderr, which is the stage's log.
    """
    raw = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    job_type, work = table[raw["stage"]]
    try:
        job = job_type.model_validate(raw)
    except ValidationError as error:
        print(error, file=sys.stderr)
        return RequestError.exit_code
    clock = StageClock(progress_file_of(job.result_file))
    try:
        result = work(job, clock)
    except Exception as error:
        traceback.print_exc()
        told = explanation_of(error, clock.doing.replace("_", " "), job.output_dir or job.result_file.parent)
        result = StageResult(stage=job.stage, failure=Failure.of(told))
    result = result.model_copy(update={"timings_seconds": clock.timings_seconds})
    try:
        write_text_atomically(job.result_file, result.model_dump_json(indent=2))
    except OSError:
        # In the log, from which the runner reads it.
        traceback.print_exc()
        return StageError.exit_code
    return 0 if result.failure is None else result.failure.exit_code
