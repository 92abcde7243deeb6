"""The bench stage: one server, loaded and checked; its record is a ServingRecord."""

import sys

from pipelines.planning.interpreters import versions_of_engine
from pipelines.stage_programs.serving_stage import ServeJob, serve_and_measure
from registry.contracts import StageJob, StageResult
from registry.hashing import manifest_of
from registry.stage_process import StageClock, main
from serving_checks.engines.table import engine_type


class BenchJob(ServeJob):
    """Serve one model's folder, or attach to its server, and measure it."""

    model_digest: str = ""
    """Found by the stage: hashing takes minutes for a large model."""


def bench(job: StageJob, clock: StageClock) -> StageResult:
    """Serve `job.model_dir` as `job.serving` says, load it and check it."""
    assert isinstance(job, BenchJob)  # noqa: S101 - the table below says so
    output_dir = job.output_dir
    assert output_dir is not None  # noqa: S101 - the command gives one
    with clock.part("hash"):
        job = job.model_copy(update={"model_digest": manifest_of(job.model_dir).digest})
    record = serve_and_measure(job, clock, output_dir)
    return StageResult(
        stage=job.stage,
        record=record.model_dump(mode="json"),
        versions=versions_of_engine(engine_type(job.serving.engine), job.device),
    )


if __name__ == "__main__":
    sys.exit(main({"bench": (BenchJob, bench)}))
