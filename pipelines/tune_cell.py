"""The tune stage: one server with one cell's parameters, and on it a smoke test, the load test and the memory."""

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.measure import ServeJob, check_bytes, serve_model, serving_record
from pipelines.stages import STAGE_LIBRARIES, installed_versions
from registry.contracts import ObjectRef, StageJob, StageResult
from registry.hashing import manifest_of
from registry.stage_process import StageClock, main
from serving_checks.checks.smoke import smoke_answer
from serving_checks.conditions import load_average
from serving_checks.engines.table import engine_of
from serving_checks.load import LoadClient
from serving_checks.memory import memory_record


def measure_cell(job: StageJob, clock: StageClock) -> StageResult:
    """Serve `job.model_dir` as `job.serving` says and load it; the record is a ServingRecord."""
    assert isinstance(job, ServeJob)  # noqa: S101 - the table below says so
    output_dir = job.output_dir
    assert output_dir is not None  # noqa: S101 - the runner gives one to every stage
    with clock.part("verify"):
        check_bytes(job)
    with TemporaryDirectory() as scratch, ExitStack() as serving:
        # Imports for half a minute where it is not forked, while the server does the same.
        load_client = serving.enter_context(
            LoadClient(job.load, job.serving, job.model_dir, Path(scratch), job.fork_server)
        )
        with clock.part("serve_start"):
            server = serving.enter_context(serve_model(job))
        with clock.part("smoke"):
            answer = smoke_answer(server.endpoint, with_logprobs=server.engine.gives_logprobs)
        with clock.part("load_test"):
            load_before = load_average()
            load = load_client.run(server.endpoint, output_dir, job.server_log_file)
            memory = memory_record(server, job.model_dir, job.device)
        record = serving_record(job, server, answer, load_before, load, memory)
        with clock.part("serve_stop"):
            serving.close()
    manifest = manifest_of(output_dir)
    return StageResult(
        stage=job.stage,
        record=record.model_dump(mode="json"),
        object=ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes),
        versions=engine_of(job.serving).versions() | installed_versions(STAGE_LIBRARIES[job.stage]),
    )


if __name__ == "__main__":
    sys.exit(main({"tune": (ServeJob, measure_cell)}))
