"""One model on one server, from its start to its record: what measuring, tuning and benchmarking have in common.

In this order: smoke test, what the caller evaluates, load tests, memory, proofs of batching and fairness, a profile
where one is wanted, when the server is gone the machine's limits, and beside a second server the proof of sharding. A
profile comes last on the server: it slows it, and the server does nothing for it before it is asked to.

What needs long imports does so while something else is waited for: an evaluation while the server starts, the load
generator, in a process of its own, while the evaluation goes on, or where there is none while the server starts.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.errors import QuantbenchError, StageError
from pipelines.planning.interpreters import versions_of_engine
from pipelines.planning.stages import STAGE_LIBRARIES, installed_versions
from pipelines.recipe.deadlines import Deadlines
from pipelines.records.events import WAIT_PART
from pipelines.stage_programs.engine_server import served
from pipelines.stage_programs.proofs import prove_scheduling, prove_sharding
from pipelines.stage_programs.suspension import doubted_checks, doubted_points
from pipelines.stage_programs.token_work import token_work
from registry.contracts import (
    CheckRecord,
    Endpoint,
    LoadPoint,
    MemoryRecord,
    ObjectRef,
    ProofScope,
    ServingRecord,
    StageJob,
    StageResult,
)
from registry.contracts.base import Device, DType, Record
from registry.hashing import manifest_of
from registry.machine_turns import MachineTurns
from registry.stage_process import StageClock
from serving_checks.checks.config import ChecksConfig
from serving_checks.checks.sharding import ShardFacts, shard_facts, sharding_not_run
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.table import AnyServingConfig, engine_of, engine_type
from serving_checks.load import LoadClient, LoadConfig, LoadResult
from serving_checks.readings.conditions import load_average
from serving_checks.readings.energy import MeteredDevice
from serving_checks.readings.machine_limits import take_limits
from serving_checks.readings.memory import memory_record
from serving_checks.readings.profiling import profile
from serving_checks.server import RunningServer

Further = Callable[[], list[Endpoint]]
"""Waits for the servers that share an evaluation with the one that is measured."""
Evaluate = Callable[[RunningServer, Further], None]
"""Asks a running server, and those beside it; keeps what it finds to itself."""


class ServeJob(StageJob):
    """Serve one model and load it."""

    model_dir: Path
    model_digest: str
    serving: AnyServingConfig
    load: LoadConfig | None
    """No load tests when null."""
    device: Device
    device_name: str
    dtype: DType
    threads: int
    servers: list[list[str]] = [[]]
    """The GPUs of each server that an evaluation is shared over, none on a CPU; the first is the one that is measured.
    """
    server_log_file: Path
    deadlines: Deadlines = Deadlines()
    unquantized: bool = False
    """The model is as it came."""
    fork_server: Path | None = None
    """Address of a fork server of the engine; servers start in the plain way without."""
    checks: ChecksConfig | None = None
    """Proofs about how the model is served, after all measurements; none when null."""
    proved: list[ProofScope] = []
    """Servers like these were proved to batch and to be fair: one that is alike is not asked again."""
    profile: bool = False
    """Profile a few engine steps when all is measured."""
    turns_dir: Path | None = None
    """Where it waits to be alone on the machine for what has a speed or reads memory; nothing works beside it without.
    """


def serve_and_measure(
    job: ServeJob, clock: StageClock, output_dir: Path, prepare: Callable[[], Evaluate] | None = None
) -> ServingRecord:
    """Serve `job.model_dir` and measure it.

    Args:
        clock: Counts the parts: `serve_start`, `smoke`, `evaluate`, `load_test`, `checks`, `profile`, `serve_stop`,
            `limits`, `sharding`.
        output_dir: Gets the requests of the load tests, and the profile's trace.
        prepare: Called in a thread while the server starts; what it gives is called after the smoke test.

    Raises:
        RequestError: The model cannot be served or loaded as asked.
        StageError: The server or the load generator failed.
    """
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as pool, ExitStack() as turn, ExitStack() as serving:
        preparing = pool.submit(prepare) if prepare else None
        patience = job.deadlines.of_server
        client = (job.serving, job.model_dir, Path(scratch), job.fork_server, patience)
        load_client = LoadClient(job.load, *client) if job.load else None
        if load_client and preparing is None:
            serving.enter_context(load_client)
        trace_dir = Path(scratch) / "traces" if job.profile else None
        started_beside = _somebody_works(job)
        with clock.part("serve_start"):
            server = serving.enter_context(_serve(job, trace_dir))
            evaluate = preparing.result() if preparing else None
        if load_client and evaluate:
            # Imports for half a minute, on the core that the server leaves free, and then waits for the evaluation.
            serving.enter_context(load_client)
        with clock.part("smoke"):
            answer = _smoke(job, server)
        if evaluate:
            with clock.part("evaluate"), _beside(job) as further:
                evaluate(server, further)
        turn.enter_context(_alone(job, clock))
        with clock.part("load_test"):
            load_before = load_average()
            load = _loaded(job, clock, server, load_client, output_dir) if load_client else None
            memory = memory_record(server, job.model_dir, job.device)
        served = _record(job, server, answer, load_before, load, memory, started_beside)
        ranks = job.checks.sharded_over(job.serving.tensor_parallel_size) if job.checks else None
        checks, first = list[CheckRecord](), None
        if job.checks:
            with clock.part("checks"):
                served, checks = _scheduling(job, server, served)
                first = _shard_facts(server, _other_ranks(job, ranks)) if ranks else None
        if trace_dir:
            with clock.part("profile"):
                served = _profiled(served, server, trace_dir, output_dir)
        with clock.part("serve_stop"):
            serving.close()
        if server.child and served.load_points:
            served = _limited(job, clock, served)
        if ranks and first:
            with clock.part("sharding"):
                checks.append(_sharding(job, first, ranks))
    return served.model_copy(update={"checks": checks})


def _somebody_works(job: ServeJob) -> bool:
    return job.turns_dir is not None and MachineTurns(job.turns_dir).somebody_works()


@contextmanager
def _alone(job: ServeJob, clock: StageClock) -> Iterator[None]:
    """Nothing else works for the length of the block, where what follows has a speed or is a proof."""
    if job.turns_dir is None or not (job.load or job.checks or job.profile):
        yield
        return
    with ExitStack() as turn:
        with clock.part(WAIT_PART):
            # Told again and again: who waits for hours still lives.
            turn.enter_context(MachineTurns(job.turns_dir).alone(lambda: clock.progress(WAIT_PART)))
        yield


def _smoke(job: ServeJob, server: RunningServer) -> str:
    return smoke_answer(
        server.endpoint,
        with_logprobs=server.engine.gives_logprobs,
        unquantized=job.unquantized,
        remedy_for=server.engine.remedy_for,
    )


def _loaded(
    job: ServeJob, clock: StageClock, server: RunningServer, load_client: LoadClient, output_dir: Path
) -> LoadResult:
    held_before = server.suspended_seconds
    load = load_client.run(
        server.endpoint,
        output_dir,
        job.server_log_file,
        on_progress=lambda done, most: clock.progress("load_test", done, most),
        metered=_metered(job, server),
    )
    held = load.suspended_seconds + server.suspended_seconds - held_before
    return load._replace(points=doubted_points(load.points, held))


def _metered(job: ServeJob, server: RunningServer) -> MeteredDevice | None:
    # A part of the GPUs would be read, and told as all.
    if server.child is None or job.serving.over_machines:
        return None
    return MeteredDevice(kind=job.device, gpus=job.servers[0], ranks=job.serving.ranks)


def _scheduling(job: ServeJob, server: RunningServer, served: ServingRecord) -> tuple[ServingRecord, list[CheckRecord]]:
    """The record and the proofs of batching and fairness, which are left where a server that is alike passed them."""
    assert job.checks  # noqa: S101 - the caller asks
    if served.proof_scope in job.proved:
        return served.model_copy(update={"scheduling_left": True}), []
    held_before = server.suspended_seconds
    checks = prove_scheduling(server, job.checks)
    return served, doubted_checks(checks, server.suspended_seconds - held_before)


def stored_result(job: ServeJob, output_dir: Path, record: Record) -> StageResult:
    """The result of a stage whose files, complete by now, go into the store."""
    manifest = manifest_of(output_dir)
    return StageResult(
        stage=job.stage,
        record=record.model_dump(mode="json"),
        object=ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes),
        versions=versions_of_engine(engine_type(job.serving.engine), job.device)
        | installed_versions(STAGE_LIBRARIES[job.stage]),
    )


def _serve(job: ServeJob, trace_dir: Path | None) -> AbstractContextManager[RunningServer]:
    request = ServerRequest(job.serving, job.model_dir, job.dtype, job.device, job.threads, trace_dir, job.servers[0])
    return served(request, job.server_log_file, fork_server=job.fork_server, patience=job.deadlines.of_server)


@contextmanager
def _beside(job: ServeJob) -> Iterator[Further]:
    """Servers like the measured one, for the length of an evaluation; the block begins while they start."""
    with ExitStack() as serving, ThreadPoolExecutor(len(job.servers)) as pool:
        starting = [
            pool.submit(serving.enter_context, _serve_beside(job, number, gpus))
            for number, gpus in enumerate(job.servers[1:], 2)
        ]
        yield lambda: [one.result().endpoint for one in starting]


def _serve_beside(job: ServeJob, number: int, gpus: list[str]) -> AbstractContextManager[RunningServer]:
    # The measured server has the recipe's port.
    config = job.serving.model_copy(update={"port": None})
    request = ServerRequest(config, job.model_dir, job.dtype, job.device, job.threads, gpus=gpus)
    log_file = job.server_log_file.with_name(f"{job.server_log_file.stem}+{number}.log")
    return served(request, log_file, fork_server=job.fork_server, patience=job.deadlines.of_server)


def _other_ranks(job: ServeJob, ranks: int) -> ServerRequest:
    """The server that the measured one is compared with: sharded where that is not, unsharded where it is."""
    size = 1 if job.serving.tensor_parallel_size > 1 else ranks
    serving = job.serving.model_copy(update={"tensor_parallel_size": size})
    return ServerRequest(serving, job.model_dir, job.dtype, job.device, job.threads)


def _shard_facts(server: RunningServer, other: ServerRequest) -> ShardFacts | CheckRecord:
    """What the sharding check needs of the first server, or its record where there is nothing to compare."""
    if not server.engine.tells_ranks:
        return sharding_not_run(f"the engine {server.engine.name} does not tell what its ranks hold")
    refused = engine_of(other.config).refusals(other)
    return sharding_not_run("; ".join(refused)) if refused else shard_facts(server)


def _sharding(job: ServeJob, first: ShardFacts | CheckRecord, ranks: int) -> CheckRecord:
    if isinstance(first, CheckRecord):
        return first
    assert job.checks and job.checks.sharding  # noqa: S101 - ranks come from it
    other = _other_ranks(job, ranks)
    log_file = job.server_log_file.with_name(
        f"{job.server_log_file.stem}+{other.config.tensor_parallel_size}-ranks.log"
    )
    return prove_sharding(
        first,
        other,
        job.checks.sharding,
        lambda request: served(request, log_file, fork_server=job.fork_server, patience=job.deadlines.of_server),
    )


def _profiled(served: ServingRecord, server: RunningServer, trace_dir: Path, output_dir: Path) -> ServingRecord:
    """The record with its profile; without one and with a warning where it failed, since all else was measured."""
    told = "no profile of the server: it was not started here"
    if server.child:
        try:
            return served.model_copy(update={"profile": profile(server.endpoint, trace_dir, output_dir)})
        except StageError as error:
            told = error.what
    return served.model_copy(update={"warnings": [*served.warnings, told]})


def _limited(job: ServeJob, clock: StageClock, served: ServingRecord) -> ServingRecord:
    """The record with the machine's limits and what a token asks of it; a warning for either that is not known.

    Now that the server and its client are gone nothing else runs, and what a fork server imports is there.
    """
    found, warnings = dict[str, Any](), list[str]()
    try:
        with clock.part("limits"):
            found["limits"] = take_limits(job.device, job.threads, gpus=job.servers[0], fork_server=job.fork_server)
        found["work"] = token_work(job.model_dir, served.dtype)
    except (QuantbenchError, OSError, ValueError) as error:
        told = error.what if isinstance(error, QuantbenchError) else str(error)
        warnings.append(f"speeds stand without their share of the machine's limit: {told.splitlines()[0]}")
    return served.model_copy(update={**found, "warnings": [*served.warnings, *warnings]})


def _record(
    job: ServeJob,
    server: RunningServer,
    answer: str,
    load_before: float,
    load: LoadResult | None,
    memory: MemoryRecord,
    started_beside: bool,
) -> ServingRecord:
    engine, facts = server.engine, server.facts
    points = load.points if load else []
    other_lengths = _other_lengths(points, job.load.output_tokens) if job.load else []
    dtype = facts.dtype or job.dtype
    versions = versions_of_engine(type(engine), job.device)
    other_dtype = [] if dtype == job.dtype else [f"served in {dtype} although {job.dtype} was asked for"]
    return ServingRecord(
        model_digest=job.model_digest,
        engine=engine.name,
        engine_version=next((versions[name] for name in engine.distributions if name in versions), "unknown"),
        device=job.device,
        device_name=job.device_name,
        dtype=dtype,
        tensor_parallel_size=facts.tensor_parallel_size or job.serving.tensor_parallel_size,
        pipeline_parallel_size=job.serving.pipeline_parallel_size,
        threads=job.threads if job.device == "cpu" and server.child else None,
        eager=facts.eager,
        prefix_caching=facts.prefix_caching,
        max_num_seqs=facts.max_num_seqs,
        quantization_kernel=facts.kernel,
        command=server.command,
        start_seconds=server.start_seconds,
        forked=server.forked,
        started_beside=started_beside,
        load_average=load_before,
        smoke_answer=answer,
        load_points=points,
        load_requests_file=load.requests_file.name if load else None,
        rate_search=load.rate_search if load else None,
        memory=memory,
        energy_source=load.energy.source if load else None,
        energy_notes=load.energy.notes if load else [],
        warnings=[*facts.warnings, *other_dtype, *other_lengths],
    )


def _other_lengths(points: list[LoadPoint], asked: int) -> list[str]:
    """Tokens are counted as they came; where they are not as many as asked for, loads do not compare."""
    others = [point for point in points if point.output_tokens != point.completed * asked]
    if not others:
        return []
    means = sorted(point.output_tokens / point.completed for point in others)
    return [
        f"{len(others)} of {len(points)} load tests have answers of another length than the {asked} tokens that were"
        f" asked for, {means[0]:.1f} to {means[-1]:.1f} on average: compare them with no other load"
    ]
