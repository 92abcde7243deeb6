"""The work of a run's stages on the nodes of a Ray cluster: each stage is one task that takes a node whole."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from configs.errors import QuantbenchError, RequestError
from pipelines.execution.node_work import CheckAsked, CheckTold, StageAsked, StageTold, told_bytes
from pipelines.execution.ray_cluster import RayCluster
from pipelines.execution.stage_work import StageWork, input_digests
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import Fingerprints, Stage
from pipelines.recipe.executor_config import RayExecutor
from pipelines.stage_programs.ray_broker import Call, ClusterNode
from quantizers.checkpoints.sources import FolderSource, GgufSource
from registry.contracts import StageResult
from registry.files import write_text_atomically
from registry.shared_store import SharedStore

_NODE_WORK = "pipelines.execution.node_work"


@dataclass(frozen=True)
class CheckedCluster:
    """A cluster that is connected, on whose nodes a result is the same as here."""

    executor: RayExecutor
    cluster: RayCluster
    nodes: list[ClusterNode]


@contextmanager
def cluster_of(run: OpenRun, run_dir: Path) -> Iterator[CheckedCluster | None]:
    """The cluster of a run, for the length of the block; None where all is done on this machine.

    Raises:
        RequestError: There is no node of it, or one where a result would be another; nothing was started.
        StageError: The cluster or the shared store does not answer.
    """
    executor = run.context.config.executor
    if not isinstance(executor, RayExecutor):
        yield None
        return
    with RayCluster(executor, run_dir / "logs" / "ray.log") as cluster:
        yield CheckedCluster(executor, cluster, _checked_nodes(run, executor, cluster))


class WorkOnRay:
    """As `StageWork`, on the nodes of a cluster. What a stage made comes into the workspace's store too.

    Args:
        run: What is worked on.
        checked: The cluster.
        workspace: Of the run's machine.
        run_dir: Gets the logs of stages.
        here: Prepares a checkpoint whose files lie on the run's machine.
        given_up: Set when nobody waits for the stages any more.
    """

    def __init__(
        self,
        run: OpenRun,
        checked: CheckedCluster,
        workspace: Workspace,
        run_dir: Path,
        here: StageWork,
        given_up: Event,
    ) -> None:
        self._run, self._executor, self._cluster, nodes = run, checked.executor, checked.cluster, checked.nodes
        self._workspace, self._run_dir, self._here, self._given_up = workspace, run_dir, here, given_up
        self._cpus, self._gpus = min(node.cpus for node in nodes), min(node.gpus for node in nodes)
        self._shared = SharedStore(self._executor.store)
        self._hosts: dict[str, str] = {}

    def result_of(
        self, stage: Stage, results: Mapping[str, StageResult], on_progress: Callable[[str], None]
    ) -> StageResult:
        """As `StageWork` says. What the stage reads is sent before, what it made is fetched."""
        store = self._workspace.store
        if reads_here(self._run, stage):
            return self._here.result_of(stage, results, on_progress)
        for digest in input_digests(stage, results):
            self._shared.push(store, digest, told_bytes("sending", on_progress))
        text = self._cluster.call(self._call(stage, results), self._given_up, on_progress)
        told = StageTold.model_validate_json(text)
        self._hosts[stage.name] = told.host
        for name, log in told.logs.items():
            write_text_atomically(self._run_dir / "logs" / Path(name).name, log)
        result = told.result
        if result.failure is not None:
            failure = result.failure.model_copy(update={"what": f"on {told.host}: {result.failure.what}"})
            return result.model_copy(update={"failure": failure})
        if result.object is not None:
            self._shared.fetch(store, result.object.digest, told_bytes("fetching", on_progress))
        return result

    def node_of(self, stage: Stage) -> str | None:
        """The node's host name."""
        return self._hosts.get(stage.name)

    def _call(self, stage: Stage, results: Mapping[str, StageResult]) -> Call:
        context, key = self._run.context, stage.key(results)
        assert key is not None, "every input has a result"  # noqa: S101
        asked = StageAsked(
            run_id=self._run_dir.name,
            config=context.config,
            suite=context.suite,
            fingerprints=_fingerprints(self._run),
            excluded_texts=context.excluded_texts if stage.kind == "calibrate" else [],
            name=stage.name,
            key=key,
            results=dict(results),
            logs_dir=self._run_dir / "logs",
        )
        return Call(
            module=_NODE_WORK,
            function="work_on_stage",
            text=asked.model_dump_json(),
            cpus=self._cpus,
            gpus=self._gpus if context.machine.device == "cuda" else 0,
            retries=self._executor.retries,
        )


def reads_here(run: OpenRun, stage: Stage) -> bool:
    """Whether the stage reads a model that lies on the run's machine."""
    return stage.kind == "prepare" and isinstance(run.context.config.source, FolderSource | GgufSource)


def _checked_nodes(run: OpenRun, executor: RayExecutor, cluster: RayCluster) -> list[ClusterNode]:
    """The nodes of the cluster, each asked whether a result would be the same there; raises as `cluster_of`."""
    nodes, shared = cluster.nodes(), SharedStore(executor.store)
    with shared.probe() as token, ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        asked = CheckAsked(
            config=run.context.config,
            machine=run.context.machine,
            suite=run.context.suite,
            fingerprints=_fingerprints(run),
            shaping={stage.name: stage.shaping for stage in run.stages},
            token=token,
        ).model_dump_json()
        refused = [line for line in pool.map(lambda node: _refusal(cluster, node, asked), nodes) if line]
    if refused:
        raise RequestError(
            "\n".join(refused),
            remedy="give all nodes the same machine, Quantbench and engines as the machine of the run, and the same"
            " shared store; or start those without the resource `quantbench`",
            blame="machine",
        )
    return nodes


def _refusal(cluster: RayCluster, node: ClusterNode, asked: str) -> str | None:
    call = Call(module=_NODE_WORK, function="check_node", text=asked, node_id=node.node_id, whole=False)
    try:
        told = CheckTold.model_validate_json(cluster.call(call, Event(), lambda _: None))
    except QuantbenchError as error:
        return f"node {node.name} cannot be used: {error.what}"
    if not told.refusals:
        return None
    return f"node {node.name} ({told.host}) cannot be used: {'; '.join(told.refusals[:5])}"


def _fingerprints(run: OpenRun) -> Fingerprints:
    assert run.fingerprints is not None, "of an opened recipe they are known"  # noqa: S101
    return run.fingerprints
