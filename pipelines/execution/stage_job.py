"""One stage's process, from its job to its result."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.errors import StageError
from registry.contracts import StageJob, StageResult
from registry.files import write_text_atomically
from registry.stage_process import progress_file_of
from serving_checks.processes import supervisor

_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def run_job(
    job: StageJob,
    module: str,
    name: str,
    log_file: Path,
    *,
    env: Mapping[str, str],
    on_progress: Callable[[str], None],
    interpreter: Path | None = None,
    fork_server: Path | None = None,
) -> StageResult:
    """Run `module` on `job` and read what it gave; a failure that the stage explains is in the result.

    Args:
        name: What the stage is called in errors.
        log_file: Gets its output.
        env: Variables on top of this process's.
        on_progress: Called a few times a second with what the stage is doing.
        interpreter: The Python that runs it; this process's own when None.
        fork_server: Address of a fork server to start it from.

    Raises:
        StageError: The process ended without a result.
    """
    result_file = job.result_file
    job_file = result_file.with_name(result_file.name.removesuffix(".result.json") + ".job.json")
    write_text_atomically(job_file, job.model_dump_json(indent=2))
    argv = [str(interpreter or sys.executable), "-P", "-m", module, str(job_file)]
    finished = supervisor.run(
        argv,
        log_file=log_file,
        env={**_ENVIRONMENT, **env},
        on_tick=lambda: on_progress(_progress_text(result_file)),
        fork_server=fork_server,
    )
    try:
        result = StageResult.model_validate_json(result_file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        raise _died(name, finished, log_file, argv) from None
    timings = result.timings_seconds
    timings = timings | {"import": timings.get("import", 0.0) + finished.launch_seconds}
    return result.model_copy(update={"peak_memory_bytes": finished.peak_memory_bytes, "timings_seconds": timings})


def _died(name: str, finished: supervisor.Finished, log_file: Path, argv: list[str]) -> StageError:
    code = finished.exit_code
    how = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
    hint = "the kernel kills a process that runs out of memory; see dmesg. " if code == 137 else ""
    return StageError(
        f"{name} {how} after {finished.duration_seconds:.0f} s without a result; the end of {log_file}:\n"
        + _tail(log_file),
        remedy=f"{hint}run the same command again; to repeat this stage alone: {' '.join(argv)}",
    )


def _progress_text(result_file: Path) -> str:
    try:
        said: dict[str, Any] = json.loads(progress_file_of(result_file).read_text())
    except (OSError, ValueError):
        return "starting"
    part = str(said["part"]).replace("_", " ")
    return f"{part} {said['done']}/{said['total']}" if said.get("total") else part


def _tail(log_file: Path, lines: int = 15) -> str:
    try:
        return "\n".join("    " + line for line in log_file.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "    (no log)"
