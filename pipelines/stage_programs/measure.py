"""The measure stage: a server, and on it the evaluation between smoke test and load tests (`serving_stage.py`)."""

import sys
from pathlib import Path
from typing import Any

from evals.asking.lm_eval_runner import prepare
from evals.asking.token_agreement import collect
from evals.judging.adaptive import Adaptive
from evals.suites.local_data import DataConfig
from evals.suites.resolve import resolve
from evals.suites.suite import Suite
from pipelines.planning.interpreters import versions_of_engine
from pipelines.stage_programs.serving_stage import Evaluate, Further, ServeJob, serve_and_measure, stored_result
from registry.contracts import EvaluationRecord, MeasurementRecord, StageJob, StageResult
from registry.contracts.token_logprobs import TOKEN_LOGPROBS_FILE
from registry.hashing import digest_of
from registry.stage_process import StageClock, main
from serving_checks.engines.table import engine_type
from serving_checks.server import RunningServer

_SHAPING_SETTINGS = {"tensor_parallel_size", "pipeline_parallel_size", "enforce_eager"}


class MeasureJob(ServeJob):
    """Serve one model and measure it."""

    suite: Suite
    data: DataConfig | None
    num_concurrent: int
    adaptive: Adaptive | None = None
    """Ask only until every category is decided against this baseline; all items without."""
    asked_alone: int = 0
    """Items that are asked once more with nothing beside them."""
    answers_dir: Path | None = None
    """Keeps the answers of each model behind each engine, so that none is asked for twice."""


def measure(job: StageJob, clock: StageClock) -> StageResult:
    """Serve `job.model_dir` and measure it; per-item samples go into `job.output_dir`."""
    assert isinstance(job, MeasureJob)  # noqa: S101 - the table below says so
    output_dir = job.output_dir
    assert output_dir is not None  # noqa: S101 - the runner gives one to every stage
    evaluations: list[EvaluationRecord] = []

    def preparing() -> Evaluate:
        prepared = prepare(resolve(job.suite, job.data))

        def evaluate(server: RunningServer, further: Further) -> None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(server.endpoint.model_path)
            collect(server.endpoint, output_dir / TOKEN_LOGPROBS_FILE, tokenizer)
            evaluations.append(
                prepared.evaluate(
                    server.endpoint,
                    model_digest=job.model_digest,
                    output_dir=output_dir,
                    num_concurrent=job.num_concurrent,
                    on_progress=lambda done, total: clock.progress("evaluate", done, total),
                    adaptive=job.adaptive,
                    silence_seconds=60 * job.deadlines.answer_minutes,
                    engine=_shaping(job),
                    alone=job.asked_alone,
                    further=further,
                    **_answers(job),
                )
            )

        return evaluate

    served = serve_and_measure(job, clock, output_dir, preparing)
    record = MeasurementRecord(model_digest=job.model_digest, evaluation=evaluations[0], serving=served)
    return stored_result(job, output_dir, record)


def _versions(job: MeasureJob) -> dict[str, str]:
    return versions_of_engine(engine_type(job.serving.engine), job.device)


def _shaping(job: MeasureJob) -> dict[str, str]:
    """What of the engine shapes an answer, but for dtype: artifacts are served in that which their kernels take."""
    settings = job.serving.model_dump(mode="json", include=_SHAPING_SETTINGS)
    facts = {"engine": job.serving.engine, "device": job.device} | settings
    return {name: str(value) for name, value in facts.items()} | _versions(job)


def _answers(job: MeasureJob) -> dict[str, Any]:
    """Where answers are kept, and what they depend on besides the model, its context length and the question."""
    if job.answers_dir is None:
        return {}
    facts = _versions(job) | {
        "dtype": job.dtype,
        "device": job.device_name,
        "threads": str(job.threads),
    }
    serving = job.serving.model_dump(mode="json", include={*_SHAPING_SETTINGS, "max_model_len"})
    name = digest_of({"model": job.model_digest, "facts": facts, "serving": serving}).removeprefix("sha256:")
    return {"cache_file": job.answers_dir / f"{name}.sqlite", "cache_facts": facts}


if __name__ == "__main__":
    sys.exit(main({"measure": (MeasureJob, measure)}))
