"""A stage's work on a node of a cluster: what a run's machine asks a node for, and what the node makes of it.

Text goes in and comes out. A node has a workspace of its own, `QUANTBENCH_NODE` or a folder in the user's cache, whose
store is filled from the shared one by digest, and kept. Everything else is as on a run's own machine: the same job, in
the same processes, with the same locks. A second task on the machine waits for the first.
"""

import atexit
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from configs.errors import QuantbenchError, StageError, naming
from evals.suites.resolve import resolve
from evals.suites.suite import Suite
from pipelines.execution.fork_servers import ForkServers
from pipelines.execution.shared_machine import SharedMachine
from pipelines.execution.stage_work import WorkHere, file_stem, input_digests
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.preflight import check_free_space
from pipelines.planning.stages import Fingerprints, Stage, stages_of
from pipelines.recipe.executor_config import RayExecutor
from pipelines.recipe.fingerprints import calibration_fingerprint
from pipelines.recipe.run_config import RunConfig
from registry.contracts import Failure, StageResult
from registry.contracts.base import Record
from registry.explain import explanation_of
from registry.shared_store import Progress, SharedStore
from registry.stage_cache import StageKey
from registry.store import DamagedObject
from serving_checks.processes.scratch import left_over, scratch_folder

NODE_FOLDER_VARIABLE = "QUANTBENCH_NODE"
_LOG_BYTES = 4 << 20
"""Of a log that goes back, its end: it passes through the cluster's memory."""
_LEFT_OVER_SECONDS = 60.0
"""Guards give what they end ten seconds."""
_LOOK_SECONDS = 0.2

Tell = Callable[[str], None]


class CheckAsked(Record):
    """What a node is asked before a run begins."""

    config: RunConfig
    machine: MachineRecord
    """The run's own."""
    suite: Suite
    fingerprints: Fingerprints
    shaping: dict[str, StageKey]
    """Stage -> its key without inputs, on the run's machine."""
    token: str
    """Was written to the shared store."""


class CheckTold(Record):
    """What a node answers."""

    host: str
    refusals: list[str]
    """Why a result would be another one here, or there would be none; empty where all is well."""


class StageAsked(Record):
    """A stage whose work is wanted."""

    run_id: str
    config: RunConfig
    suite: Suite
    fingerprints: Fingerprints
    excluded_texts: list[str]
    """Only what makes calibration rows reads them."""
    name: str
    """The stage's."""
    key: StageKey
    results: dict[str, StageResult]
    """Of the stages before."""
    logs_dir: Path
    """Of the run, as errors name it."""


class StageTold(Record):
    """What came of it."""

    host: str
    result: StageResult
    """What it made is in the shared store."""
    logs: dict[str, str]
    """Name of a log file -> the end of what is in it."""


def node_folder() -> Path:
    """The node's workspace."""
    if named := os.environ.get(NODE_FOLDER_VARIABLE):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "quantbench" / "node"


def check_node(text: str, tell: Tell) -> str:
    """Say what stands against work on this node: a `CheckAsked` in, a `CheckTold` out."""
    asked = CheckAsked.model_validate_json(text)
    tell("checking the node")
    refusals = []
    for look in (_differences, _unlike_files, _unreachable):
        try:
            refusals += look(asked)
        except (QuantbenchError, OSError) as error:
            refusals.append(explanation_of(error, "the node's check", node_folder()).what)
    return CheckTold(host=socket.gethostname(), refusals=refusals).model_dump_json()


def _differences(asked: CheckAsked) -> list[str]:
    """What of machine and libraries shapes results."""
    machine = detect_machine(asked.config.device)
    names = ("device", "device_name", "threads", "cpu_flags", "fast_bfloat16")
    found = [
        f"{name}: {there!r} here, {here!r} on the run's machine"
        for name in names
        if (there := getattr(machine, name)) != (here := getattr(asked.machine, name))
    ]
    if found:
        return found  # keys differ by that, too
    stages = {stage.name: stage.shaping for stage in stages_of(asked.config, machine, asked.fingerprints)}
    if stages.keys() != asked.shaping.keys():
        return ["another version of Quantbench: it would make other stages"]
    told = [line for name, key in asked.shaping.items() for line in stages[name].differences(key)]
    return [f"{line} (the run's machine -> here)" for line in dict.fromkeys(told)]


def _unlike_files(asked: CheckAsked) -> list[str]:
    """Files that the recipe names have to lie under the same path on each node."""
    found = []
    if calibration_fingerprint(asked.config.calibration) != asked.fingerprints.calibration:
        found.append("the file with calibration texts is another one here")
    if resolve(asked.suite, asked.config.evaluation.data).digest != asked.fingerprints.suite:
        found.append("the evaluation's rows are others here")
    return found


def _unreachable(asked: CheckAsked) -> list[str]:
    """The node's own folder and the shared store."""
    Workspace(node_folder()).create()
    _shared(asked.config).answer(asked.token)
    return []


class _Kept:
    """What a worker process keeps between the stages of a run: imports are done once."""

    def __init__(self, run_id: str, config: RunConfig) -> None:
        self.run_id = run_id
        self.machine = detect_machine(config.device)
        self.workspace = Workspace(node_folder())
        self.workspace.create()
        self.run_dir = self.workspace.root / "runs" / run_id
        (self.run_dir / "logs").mkdir(parents=True, exist_ok=True)
        self._open = ExitStack()
        self._open.enter_context(scratch_folder())
        self.fork_servers = self._open.enter_context(ForkServers(config, self.machine, self.run_dir / "logs"))

    def close(self) -> None:
        """End what is kept."""
        self._open.close()


_kept: list[_Kept] = []


def _kept_for(asked: StageAsked) -> _Kept:
    if _kept and _kept[0].run_id != asked.run_id:
        _kept.pop().close()
    if not _kept:
        _kept.append(_Kept(asked.run_id, asked.config))
        atexit.register(_kept[0].close)
    return _kept[0]


def work_on_stage(text: str, tell: Tell) -> str:
    """Do a stage's work: a `StageAsked` in, a `StageTold` out. A failure is in the result."""
    asked = StageAsked.model_validate_json(text)
    kind, logs = asked.key.stage, dict[str, str]()
    try:
        kept = _kept_for(asked)
        logs_dir = kept.run_dir / "logs"
        try:
            with naming(logs_dir, str(asked.logs_dir)):
                result = _result(asked, kept, tell)
        finally:
            logs = _logs(logs_dir, asked.name)
    except (QuantbenchError, OSError) as error:
        told = explanation_of(error, asked.name, node_folder())
        result = StageResult(stage=kind, failure=Failure.of(told))
    return StageTold(host=socket.gethostname(), result=result, logs=logs).model_dump_json()


def _result(asked: StageAsked, kept: _Kept, tell: Tell) -> StageResult:
    context = JobContext(asked.config, kept.machine, asked.suite, asked.excluded_texts)
    stage = _stage(asked, kept.machine)
    shared = SharedMachine(kept.workspace)
    work = WorkHere(context, kept.workspace, kept.run_dir, shared, kept.fork_servers)
    store, objects = kept.workspace.store, _shared(asked.config)
    with shared.held_for(stage, lambda whom: tell(f"waiting for {whom} on {socket.gethostname()}")):
        _await_end_of_earlier(tell)
        check_free_space(kept.workspace.root, stage, asked.config.source, asked.results)
        for again in (False, True):
            for digest in input_digests(stage, asked.results):
                objects.fetch(store, digest, told_bytes("fetching", tell))
            try:
                result = work.result_of(stage, asked.results, tell)
                break
            except DamagedObject as damage:
                if again:
                    raise
                store.discard(damage.digest)  # it was whole when it was fetched
        if result.failure is None and result.object is not None:
            tell("sending")
            objects.push(store, result.object.digest, told_bytes("sending", tell))
        if result.failure is None:
            kept.workspace.forget_unfinished(asked.key)
    return result


def told_bytes(what: str, tell: Tell) -> Progress:
    """Says how much of an object went over, in words."""
    return lambda done, total: tell(f"{what} {done >> 20}/{total >> 20} MiB")


def _await_end_of_earlier(tell: Tell) -> None:
    """A task that was killed leaves processes that their guards are about to end: nothing is measured beside them."""
    deadline = time.monotonic() + _LEFT_OVER_SECONDS
    while left := left_over():
        if time.monotonic() > deadline:
            raise StageError(
                f"{socket.gethostname()} still runs what a stage that was ended has left: {', '.join(map(str, left))}",
                remedy="end these processes on that node (kill -9), then run the same command again",
                blame="machine",
            )
        tell("waiting for the end of an earlier attempt")
        time.sleep(_LOOK_SECONDS)


def _logs(folder: Path, name: str) -> dict[str, str]:
    """The ends of a stage's own log and those of its servers."""
    found, stem = {}, file_stem(name)
    for path in sorted([*folder.glob(f"{stem}.log"), *folder.glob(f"{stem}+server*.log")]):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            found[path.name] = file.read(_LOG_BYTES).decode(errors="replace")
    return found


def _stage(asked: StageAsked, machine: MachineRecord) -> Stage:
    """The stage as this node makes it. A node that was not there when the run began was not checked."""
    stages = {stage.name: stage for stage in stages_of(asked.config, machine, asked.fingerprints)}
    stage = stages.get(asked.name)
    key = stage.key(asked.results) if stage else None
    if stage is None or key is None or key.digest != asked.key.digest:
        differences = "; ".join(key.differences(asked.key)) if key else "it makes other stages"
        raise StageError(
            f"{socket.gethostname()} would make another {asked.name} than the run's machine: {differences}",
            remedy="give all nodes the same machine, Quantbench and engines, or start this one without the resource"
            " `quantbench`; then run the same command again",
            blame="machine",
        )
    return stage


def _shared(config: RunConfig) -> SharedStore:
    assert isinstance(config.executor, RayExecutor), "only such a run asks a node"  # noqa: S101
    return SharedStore(config.executor.store)
