"""The tune stage: one server with one cell's parameters, and on it a smoke test, the load test and the memory."""

import sys

from pipelines.serving_stage import ServeJob, check_bytes, serve_and_measure
from pipelines.stages import STAGE_LIBRARIES, installed_versions
from registry.contracts import ObjectRef, StageJob, StageResult
from registry.hashing import manifest_of
from registry.stage_process import StageClock, main
from serving_checks.engines.table import engine_of


def measure_cell(job: StageJob, clock: StageClock) -> StageResult:
    """Serve `job.model_dir` as `job.serving` says and load it; the record is a ServingRecord."""
    assert isinstance(job, ServeJob)  # noqa: S101 - the table below says so
    output_dir = job.output_dir
    assert output_dir is not None  # noqa: S101 - the runner gives one to every stage
    with clock.part("verify"):
        check_bytes(job)
    record = serve_and_measure(job, clock, output_dir)
    manifest = manifest_of(output_dir)
    return StageResult(
        stage=job.stage,
        record=record.model_dump(mode="json"),
        object=ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes),
        versions=engine_of(job.serving).versions() | installed_versions(STAGE_LIBRARIES[job.stage]),
    )


if __name__ == "__main__":
    sys.exit(main({"tune": (ServeJob, measure_cell)}))
