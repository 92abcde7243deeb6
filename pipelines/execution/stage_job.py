"""One stage's process, from its job to its result."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from configs.errors import StageError
from pipelines.environments.definition import Environment
from pipelines.environments.making import OUR_CODE, in_use
from pipelines.planning.interpreters import Interpreter
from registry.contracts import StageJob, StageResult
from registry.contracts.record_types import RECORD_TYPES
from registry.files import write_text_atomically
from registry.stage_process import progress_file_of, progress_text
from serving_checks.processes import supervisor
from serving_checks.processes.endings import death_of
from serving_checks.processes.pulse import Patience

_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def run_job(
    job: StageJob,
    module: str,
    name: str,
    log_file: Path,
    *,
    env: Mapping[str, str],
    patience: Patience,
    on_progress: Callable[[str], None],
    interpreter: Interpreter | None = None,
    fork_server: Path | None = None,
) -> StageResult:
    """Run `module` on `job` and read what it gave; a failure that the stage explains is in the result.

    Args:
        name: What the stage is called in errors.
        log_file: Gets its output.
        env: Variables on top of this process's.
        patience: When to give up.
        on_progress: Called a few times a second with what the stage is doing.
        interpreter: What runs it; this process's own Python when None. A named environment is made first.
        fork_server: Address of a fork server to start it from.

    Raises:
        StageError: The process ended without a result, or did not get on and was ended, or its environment could not be
            made.
    """
    result_file = job.result_file
    job_file = result_file.with_name(result_file.name.removesuffix(".result.json") + ".job.json")
    write_text_atomically(job_file, job.model_dump_json(indent=2))
    with _python(interpreter, on_progress) as (python, variables):
        argv = [str(python), "-P", "-m", module, str(job_file)]
        finished = supervisor.run(
            argv,
            log_file=log_file,
            env={**_ENVIRONMENT, **variables, **env},
            patience=patience,
            progress_file=progress_file_of(result_file),
            on_tick=lambda suspended: on_progress(progress_text(result_file) + (", suspended" if suspended else "")),
            fork_server=fork_server,
        )
    try:
        result = StageResult.model_validate_json(result_file.read_text(encoding="utf-8"))
        if result.failure is None:
            RECORD_TYPES[job.stage].model_validate(result.record)
    except (OSError, ValueError):
        raise _died(name, finished, progress_text(result_file), log_file, argv) from None
    timings = result.timings_seconds
    timings = timings | {"import": timings.get("import", 0.0) + finished.launch_seconds}
    peak = finished.ending.peak_memory_bytes
    return result.model_copy(update={"peak_memory_bytes": peak, "timings_seconds": timings})


@contextmanager
def _python(
    interpreter: Interpreter | None, on_progress: Callable[[str], None]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """The Python to start, and the variables that it needs."""
    if isinstance(interpreter, Environment):
        with in_use(interpreter, on_progress) as python:
            yield python, OUR_CODE
    else:
        yield interpreter or Path(sys.executable), {}


def _died(name: str, finished: supervisor.Finished, doing: str, log_file: Path, argv: list[str]) -> StageError:
    death = death_of(finished.ending)
    return StageError(
        f"{name} {finished.ending.how} after {finished.duration_seconds:.0f} s without a result, at {doing}:"
        f" {death.reason}; the end of {log_file}:\n" + supervisor.quoted(finished.ending.log_tail),
        remedy=f"{death.remedy}; to watch this stage alone: {shlex.join(argv)}",
        blame=death.blame,
    )
