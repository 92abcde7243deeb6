"""The tune stage: one server with one cell's parameters, and on it a smoke test, the load test and the memory."""

import sys

from pipelines.stage_programs.serving_stage import ServeJob, serve_and_measure, stored_result
from registry.contracts import StageJob, StageResult
from registry.stage_process import StageClock, main


def measure_cell(job: StageJob, clock: StageClock) -> StageResult:
    """Serve `job.model_dir` as `job.serving` says and load it; the record is a ServingRecord."""
    assert isinstance(job, ServeJob)  # noqa: S101 - the table below says so
    output_dir = job.output_dir
    assert output_dir is not None  # noqa: S101 - the runner gives one to every stage
    return stored_result(job, output_dir, serve_and_measure(job, clock, output_dir))


if __name__ == "__main__":
    sys.exit(main({"tune": (ServeJob, measure_cell)}))
