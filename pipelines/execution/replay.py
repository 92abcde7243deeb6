"""A log's prompts through two models: opened, gone on with where it stopped, and summed up."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import RequestError, StageError
from configs.loading import load_yaml_model
from evals.asking.hub_data import OFFLINE
from evals.asking.task_scorer import check_task_scorer
from evals.judging.known_answers import TaskScorerConfig
from evals.judging.verdict_config import verdict_digest
from pipelines.execution.fork_servers import ForkServers
from pipelines.execution.replayed_models import ServedModel, served_model
from pipelines.execution.stage_job import run_job
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.stages import Stage
from pipelines.recipe.replay_config import ReplayConfig
from pipelines.records.replay_result import ReplayResult, summary_of
from pipelines.stage_programs.replay_stage import CHAMPION_FILE, ReplayJob, ReplaySide
from registry.contracts import PromptsRecord, ReplayRecord
from registry.contracts.replay import REPLAY_FILE
from registry.hashing import digest_of
from registry.pairs import PAIRS_DIR, read_pair_table
from registry.sealed import DamagedFile, read_sealed, write_sealed
from serving_checks.engines.base import ServingConfig
from serving_checks.processes.scratch import scratch_folder
from serving_checks.replay.prompts import read_prompts
from serving_checks.transport.http_json import authorization

STAGE_MODULE = "pipelines.stage_programs.replay_stage"
_IDENTITY = {"config", "prompts", "champion", "candidate", "device", "device_name"}
"""What has to be as it was for a replay to be gone on with."""


class OpenReplay(NamedTuple):
    """A config that was read and found sound, on this machine."""

    config: ReplayConfig
    machine: MachineRecord
    prompts: PromptsRecord
    champion: ServedModel
    candidate: ServedModel


class _ServingPlan(NamedTuple):
    """What fork servers are started by."""

    serving: ServingConfig
    fork_servers: bool


def open_replay(file: Path, overrides: list[str], workspace: Workspace) -> OpenReplay:
    """Read the config and the log, and check all that can be known before a server is started.

    Raises:
        RequestError: One of them is wrong, or cannot be carried out here; nothing was started.
    """
    config = load_yaml_model(file, ReplayConfig, overrides)
    machine = detect_machine(config.device)
    if config.answers and isinstance(config.answers.scorer, TaskScorerConfig):
        check_task_scorer(config.answers.scorer)
    read = read_prompts(config.prompts, config.class_by, config.answers.field if config.answers else None)
    chats = any(prompt.chat for prompt in read.prompts)
    champion, candidate = (
        served_model(side, config, workspace, machine, chats=chats) for side in (config.champion, config.candidate)
    )
    if config.judge:
        authorization(getattr(config.judge.serving, "api_key_variable", None))
    return OpenReplay(config, machine, read.record, champion, candidate)


def execute_replay(replay: OpenReplay, workspace: Workspace, on_progress: Callable[[str], None]) -> ReplayResult:
    """Ask what is missing, and sum up.

    Args:
        workspace: Gets `shadow/<name>/`, or has it.
        on_progress: Called a few times a second with what is being done.

    Raises:
        RequestError: The replay was begun otherwise, or a server does not take what it is asked.
        StageError: A server failed or does not answer any more; pairs that were recorded stay.
    """
    with workspace.machine_lock(lambda pid: on_progress(f"waiting for run of process {pid}")):
        on_progress("reading the models")
        directory = workspace.replay_dir(replay.config.name)
        record = _begun(replay, directory)
        # A part that was damaged and removed is missing although all was asked once.
        if record.finished_at is None or read_pair_table(directory).num_rows < record.prompts.prompts:
            record = _asked(replay, record, directory, on_progress)
            write_sealed(directory / REPLAY_FILE, record)
    summary = summary_of(read_pair_table(directory))
    if not summary.compared:
        raise StageError(
            f"no prompt of {summary.pairs} was answered by both models: {_first_error(directory)}",
            remedy=f"mend what it names, remove {directory}, and run the same command again",
        )
    return ReplayResult(record, summary, directory)


def _begun(replay: OpenReplay, directory: Path) -> ReplayRecord:
    """The record of a replay that was begun, of now or before.

    Raises:
        RequestError: It was begun otherwise.
    """
    config, machine = replay.config, replay.machine
    shaping = config.shaping()
    now = ReplayRecord(
        name=config.name,
        config=shaping,
        config_digest=digest_of(shaping),
        prompts=replay.prompts,
        champion=replay.champion.record(),
        candidate=replay.candidate.record(),
        device=machine.device,
        device_name=machine.device_name,
        verdict=config.verdict.model_dump(mode="json"),
        verdict_digest=verdict_digest(config.verdict),
        started_at=datetime.now(UTC),
    )
    try:
        then = read_sealed(directory / REPLAY_FILE, ReplayRecord)
    except FileNotFoundError:
        if any((directory / name).exists() for name in (PAIRS_DIR, CHAMPION_FILE)):
            raise RequestError(
                f"{directory} holds answers, and no {REPLAY_FILE} that says of what",
                remedy=f"choose another `name`, or remove {directory}",
            ) from None
        write_sealed(directory / REPLAY_FILE, now)
        return now
    except DamagedFile as error:
        raise RequestError(str(error), remedy=f"choose another `name`, or remove {directory}") from error
    differing = _differences(then.model_dump(include=_IDENTITY), now.model_dump(include=_IDENTITY), "")
    if differing:
        raise RequestError(
            f"{directory} was begun otherwise:" + "".join(f"\n  - {line}" for line in differing),
            remedy=f"undo the change to go on with it; to begin anew choose another `name`, or remove {directory}",
        )
    return then


def _differences(then: Any, now: Any, place: str) -> list[str]:
    """A line for each value that is another one."""
    if isinstance(then, dict) and isinstance(now, dict):
        names = [*then, *(name for name in now if name not in then)]
        return [
            line
            for name in names
            for line in _differences(then.get(name), now.get(name), f"{place}.{name}".removeprefix("."))
        ]
    return [] if then == now else [f"{place} was {then!r}, is {now!r}"]


def _asked(
    replay: OpenReplay, opened: ReplayRecord, directory: Path, on_progress: Callable[[str], None]
) -> ReplayRecord:
    config, machine = replay.config, replay.machine
    stage = Stage("replay", "", {})
    log_file, scratch = directory / "replay.log", directory / "job"
    launched = [side.serving for side in (replay.champion, replay.candidate) if not side.runs_already]
    plan = _ServingPlan(launched[0] if launched else config.serving, config.fork_servers)
    try:
        with scratch_folder(), ForkServers(plan, machine, scratch, for_stages=False) as fork_servers:
            job = ReplayJob(
                stage=stage.kind,
                result_file=scratch / "replay.result.json",
                output_dir=directory,
                config=config,
                opened=opened,
                champion=_side_of(replay.champion, stage, fork_servers),
                candidate=_side_of(replay.candidate, stage, fork_servers),
                device=machine.device,
                threads=machine.serving_threads,
            )
            patience = config.deadlines.of_stage(stage.kind)
            result = run_job(
                job, STAGE_MODULE, stage.name, log_file, env=OFFLINE, patience=patience, on_progress=on_progress
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if result.failure:
        kind = RequestError if result.failure.exit_code == RequestError.exit_code else StageError
        there = read_pair_table(directory).num_rows
        raise kind(
            result.failure.what,
            remedy=f"{result.failure.remedy}\n  {there} of {opened.prompts.prompts} pairs are kept in {directory}: the"
            " same command asks only what is missing",
            blame=result.failure.blame,
        )
    with suppress(FileNotFoundError):
        log_file.unlink()
    return ReplayRecord.model_validate(result.record)


def _side_of(model: ServedModel, stage: Stage, fork_servers: ForkServers) -> ReplaySide:
    fork_server = None if model.runs_already else fork_servers.for_model_servers(stage, model.serving)
    return ReplaySide(model_dir=model.folder, fork_server=fork_server)


def _first_error(directory: Path) -> str:
    for row in read_pair_table(directory).to_pylist():
        for side in ("champion", "candidate"):
            if row[side]["error"]:
                return f"the {side}'s first words are {row[side]['error']}"
    return "there are none"
