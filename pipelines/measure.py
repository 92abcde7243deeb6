"""The measure stage: one server, and on it smoke test, evaluation, token log-probabilities, load test and memory.

Proofs of batching, fairness and sharding follow when all is measured. A profile, where one is wanted, comes last on the
server: it slows it, and the server does nothing for it before it is asked to.

What needs long imports does so while something else is waited for: lm-eval while the server starts, the load
generator, in a process of its own, while the evaluation goes on.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.errors import StageError
from evals.adaptive import Adaptive
from evals.lm_eval_runner import prepare
from evals.local_data import DataConfig
from evals.suite import Suite
from evals.token_agreement import TOKEN_LOGPROBS_FILE, collect
from pipelines.proofs import prove_scheduling, prove_sharding
from pipelines.stages import STAGE_LIBRARIES, installed_versions
from registry.contracts import (
    CheckRecord,
    MeasurementRecord,
    MemoryRecord,
    ObjectRef,
    ServingRecord,
    StageJob,
    StageResult,
)
from registry.contracts.base import Device, DType
from registry.hashing import digest_of, manifest_of
from registry.stage_process import StageClock, main
from serving_checks.checks.config import ChecksConfig
from serving_checks.checks.sharding import ShardFacts, shard_facts
from serving_checks.checks.smoke import smoke_answer
from serving_checks.conditions import load_average
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.table import AnyServingConfig, engine_of
from serving_checks.load import LoadClient, LoadConfig, LoadResult
from serving_checks.memory import memory_record
from serving_checks.profiling import profile
from serving_checks.server import RunningServer, serve


class ServeJob(StageJob):
    """Serve one model and load it."""

    model_dir: Path
    model_digest: str
    serving: AnyServingConfig
    load: LoadConfig
    device: Device
    device_name: str
    dtype: DType
    threads: int
    server_log_file: Path
    fork_server: Path | None = None
    """Address of a fork server of the engine; servers start in the plain way without."""


class MeasureJob(ServeJob):
    """Serve one model and measure it."""

    suite: Suite
    data: DataConfig | None
    num_concurrent: int
    adaptive: Adaptive | None = None
    """Ask only until every category is decided against this baseline; all items without."""
    answers_dir: Path | None = None
    """Keeps the answers of each model behind each engine, so that none is asked for twice."""
    checks: ChecksConfig = ChecksConfig()
    """Proofs about how the model is served, after all measurements."""
    profile: bool = False
    """Profile a few engine steps when all is measured."""


def measure(job: StageJob, clock: StageClock) -> StageResult:
    """Serve `job.model_dir` and measure it; per-item samples go into `job.output_dir`."""
    assert isinstance(job, MeasureJob)  # noqa: S101 - the table below says so
    output_dir = job.output_dir
    assert output_dir is not None  # noqa: S101 - the runner gives one to every stage
    with clock.part("verify"):
        check_bytes(job)
    with (
        TemporaryDirectory() as scratch,
        ThreadPoolExecutor(max_workers=1) as pool,
        ExitStack() as serving,
    ):
        preparing = pool.submit(lambda: prepare(job.suite.resolve(job.data)))
        with clock.part("serve_start"):
            trace_dir = Path(scratch) / "traces" if job.profile else None
            server = serving.enter_context(serve_model(job, trace_dir))
            prepared = preparing.result()
        # Imports for half a minute, on the core that the server leaves free, and then waits for the evaluation's end.
        load_client = serving.enter_context(
            LoadClient(job.load, job.serving, job.model_dir, Path(scratch), job.fork_server)
        )
        with clock.part("smoke"):
            answer = smoke_answer(server.endpoint, with_logprobs=server.engine.gives_logprobs)
        with clock.part("evaluate"):
            evaluation = prepared.evaluate(
                server.endpoint,
                model_digest=job.model_digest,
                output_dir=output_dir,
                num_concurrent=job.num_concurrent,
                on_progress=lambda done, total: clock.progress("evaluate", done, total),
                adaptive=job.adaptive,
                **_answers(job),
            )
            collect(server.endpoint, output_dir / TOKEN_LOGPROBS_FILE)
        with clock.part("load_test"):
            load_before = load_average()
            load = load_client.run(
                server.endpoint,
                output_dir,
                job.server_log_file,
                on_progress=lambda done, most: clock.progress("load_test", done, most),
            )
            memory = memory_record(server, job.model_dir, job.device)
        served = serving_record(job, server, answer, load_before, load, memory)
        with clock.part("checks"):
            checks = prove_scheduling(server, job.checks)
            ranks = job.checks.sharded_over(job.serving.tensor_parallel_size)
            first = shard_facts(server) if ranks else None
        if trace_dir:
            with clock.part("profile"):
                served = _profiled(served, server, trace_dir, output_dir)
        with clock.part("serve_stop"):
            serving.close()
        if ranks and first:
            with clock.part("sharding"):
                checks.append(_sharding(job, first, ranks))
    served = served.model_copy(update={"checks": checks})
    record = MeasurementRecord(model_digest=job.model_digest, evaluation=evaluation, serving=served)
    manifest = manifest_of(output_dir)
    return StageResult(
        stage=job.stage,
        record=record.model_dump(mode="json"),
        object=ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes),
        versions=engine_of(job.serving).versions() | installed_versions(STAGE_LIBRARIES[job.stage]),
    )


def _answers(job: MeasureJob) -> dict[str, Any]:
    """Where answers are kept, and what they depend on besides the model, its context length and the question."""
    if job.answers_dir is None:
        return {}
    facts = engine_of(job.serving).versions() | {
        "dtype": job.dtype,
        "device": job.device_name,
        "threads": str(job.threads),
    }
    shaping = {"tensor_parallel_size", "pipeline_parallel_size", "max_model_len", "enforce_eager"}
    serving = job.serving.model_dump(mode="json", include=shaping)
    name = digest_of({"model": job.model_digest, "facts": facts, "serving": serving}).removeprefix("sha256:")
    return {"cache_file": job.answers_dir / f"{name}.sqlite", "cache_facts": facts}


def _profiled(served: ServingRecord, server: RunningServer, trace_dir: Path, output_dir: Path) -> ServingRecord:
    """The record with its profile; without one and with a warning where it failed, since all else was measured."""
    try:
        return served.model_copy(update={"profile": profile(server.endpoint, trace_dir, output_dir)})
    except StageError as error:
        return served.model_copy(update={"warnings": [*served.warnings, error.what]})


def _sharding(job: MeasureJob, first: ShardFacts, ranks: int) -> CheckRecord:
    assert job.checks.sharding  # noqa: S101 - ranks come from it
    other_size = 1 if job.serving.tensor_parallel_size > 1 else ranks
    serving = job.serving.model_copy(update={"tensor_parallel_size": other_size})
    log_file = job.server_log_file.with_suffix(f".{other_size}-ranks.log")
    return prove_sharding(
        first,
        ServerRequest(serving, job.model_dir, job.dtype, job.device, job.threads),
        job.checks.sharding,
        lambda request: serve(request, log_file, fork_server=job.fork_server),
    )


def serve_model(job: ServeJob, trace_dir: Path | None = None) -> AbstractContextManager[RunningServer]:
    """The job's model on its server; see `serving_checks.server.serve`."""
    request = ServerRequest(job.serving, job.model_dir, job.dtype, job.device, job.threads, trace_dir)
    return serve(request, job.server_log_file, fork_server=job.fork_server)


def serving_record(
    job: ServeJob,
    server: RunningServer,
    answer: str,
    load_before: float,
    load: LoadResult,
    memory: MemoryRecord,
) -> ServingRecord:
    """What is kept of a server that was loaded."""
    engine, facts = server.engine, server.facts
    dtype = facts.dtype or job.dtype
    other_dtype = [] if dtype == job.dtype else [f"served in {dtype} although {job.dtype} was asked for"]
    return ServingRecord(
        model_digest=job.model_digest,
        engine=engine.name,
        engine_version=engine.version() or "unknown",
        device=job.device,
        device_name=job.device_name,
        dtype=dtype,
        tensor_parallel_size=facts.tensor_parallel_size or job.serving.tensor_parallel_size,
        threads=job.threads if job.device == "cpu" else None,
        eager=facts.eager,
        prefix_caching=facts.prefix_caching,
        max_num_seqs=facts.max_num_seqs,
        quantization_kernel=facts.kernel,
        command=server.command,
        start_seconds=server.start_seconds,
        forked=server.forked,
        load_average=load_before,
        smoke_answer=answer,
        load_points=load.points,
        load_requests_file=load.requests_file.name,
        rate_search=load.rate_search,
        memory=memory,
        warnings=facts.warnings + other_dtype,
    )


def check_bytes(job: ServeJob) -> None:
    """What is measured has to be what is promoted: the very bytes of the digest."""
    found = manifest_of(job.model_dir).digest
    if found != job.model_digest:
        raise StageError(
            f"{job.model_dir} holds {found}, not {job.model_digest}: its files were changed after they were stored",
            remedy="remove that folder and run the same command again; the artifact is made anew",
        )


if __name__ == "__main__":
    sys.exit(main({"measure": (MeasureJob, measure)}))
