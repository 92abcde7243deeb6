"""Which stages may work at the same time, on one machine or on the nodes of a cluster.

Threads that wait for each other by spinning lose several times where another process wants their core. So a server that
computes on several threads shares the machine with nobody, and one that computes on a single thread does. What a stage
makes may depend on its threads to the last digit (GPTQ, AWQ), so their number is the machine's, whatever works beside
it: `MachineRecord.making_threads`.
"""

from collections.abc import Collection, Mapping, Sequence

from configs.errors import RequestError
from configs.names import BASELINE, baseline_in
from pipelines.planning.data_parallel import servers_of
from pipelines.planning.device import MachineRecord
from pipelines.planning.stages import Stage
from pipelines.recipe.executor_config import RayExecutor
from pipelines.recipe.run_config import RunConfig
from registry.contracts.base import Record

_LOADING = 2
"""Copies of the weights that a server holds while it loads them."""
_MAKING = 6
"""Checkpoint sizes that a stage may hold: two are a 16-bit checkpoint's weights in float32, and methods keep a copy and
their statistics beside them."""
_PROCESS_BYTES = 2 << 30
"""Of an engine's libraries and buffers, whatever the model."""
_SHARE_OF_MEMORY = 0.75
"""What stages that work beside each other may take: something else runs on every machine."""
_NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
_MANY = 1000
"""More stages than a run has."""
_ALONE = ("prepare", "soundness")
"""Everything else waits for them."""


class Sharing(Record):
    """How stages share this machine."""

    stages: int
    """At the same time, at most; at most one of them measures."""
    evaluation: bool
    """Whether others go on while a model is evaluated. Load tests, memory and proofs are alone in any case."""
    reason: str
    """Why so, for people."""
    measured_in_turn: bool = True
    """Whether one model is measured after another, in the plan's order: a proof on one server is spared the next."""
    making_env: dict[str, str] = {}
    """Variables of stages that make something on several threads beside others. OpenMP reads them when it is loaded, so
    such a stage is not forked."""


def check_concurrency(config: RunConfig, machine: MachineRecord) -> None:
    """Raise RequestError where the recipe asks for more stages at the same time than this machine takes."""
    wanted = config.concurrency.stages
    if wanted == "auto" or wanted < 2 or isinstance(config.executor, RayExecutor):
        return
    why = "on a GPU the memory of one stage is not shared with another"
    if machine.device == "cpu":
        if wanted <= machine.threads:
            return
        why = f"it has {machine.threads} core{'s' if machine.threads > 1 else ''}"
    raise RequestError(
        f"concurrency.stages asks for {wanted} at the same time, and this machine takes"
        f" {machine.threads if machine.device == 'cpu' else 1}: {why}",
        remedy="set concurrency.stages to auto, or lower it",
    )


def sharing_of(config: RunConfig, machine: MachineRecord, model_bytes: int | None) -> Sharing:
    """How the stages of a run share this machine.

    Args:
        config: One that `check_concurrency` passed.
        machine: Where the run takes place.
        model_bytes: Of the checkpoint's files; None where that is not known yet.
    """
    if isinstance(config.executor, RayExecutor):
        raise ValueError("the stages of this run do not share a machine")
    wanted, why = config.concurrency.stages, _why_one(config, machine)
    if why:
        return _one(why)
    stages = 2 if wanted == "auto" else wanted
    if model_bytes is not None:
        needed = _needed_bytes(config, machine, model_bytes, stages)
        there = _SHARE_OF_MEMORY * machine.memory_bytes
        if needed > there:
            return _one(
                f"{stages} at the same time may take {needed / 2**30:.1f} GiB, and {_SHARE_OF_MEMORY:.0%} of this"
                f" machine's memory are {there / 2**30:.1f}"
            )
    alone = _why_evaluations_are_alone(config, machine, model_bytes)
    return Sharing(
        stages=stages,
        evaluation=alone is None,
        reason=f"an evaluation is alone, since {alone}" if alone else "an evaluation's server computes on one thread",
        making_env=_NO_SPINNING if machine.making_threads > 1 else {},
    )


def sharing_of_nodes(config: RunConfig, nodes: int | None) -> Sharing:
    """How stages share the nodes of a cluster: each takes one whole.

    Args:
        config: Its `concurrency.stages` may ask for fewer at the same time.
        nodes: How many there are; None where that is not known yet.
    """
    wanted = config.concurrency.stages
    limits = [limit for limit in (nodes, None if wanted == "auto" else wanted) if limit is not None]
    return Sharing(
        stages=min(limits, default=_MANY),
        evaluation=True,
        measured_in_turn=False,
        reason="each takes a node of the cluster for itself",
    )


def waits_of(stages: Sequence[Stage], *, measured_in_turn: bool = True) -> dict[str, frozenset[str]]:
    """Stage -> the stages that have to have ended before it begins, well or not.

    What it reads, and what has to be known first: nothing is made or asked of a checkpoint that is not sound, nothing
    is quantized before the baseline's measurement was judged, and no model is measured before those that it is compared
    with.

    Args:
        stages: Of the run.
        measured_in_turn: As `Sharing` says.
    """
    known = {stage.name for stage in stages}
    measured: list[str] = []
    found = {}
    for stage in stages:
        waits = set(stage.inputs.values())
        if stage.kind not in _ALONE:
            waits.add("soundness")
        if stage.kind == "quantize":
            waits.add("measure:baseline")
        if stage.kind == "measure":
            compared = {f"measure:{BASELINE}", f"measure:{baseline_in(stage.dtype)}"}
            waits.update(measured if measured_in_turn else compared & set(measured))
            measured.append(stage.name)
        found[stage.name] = frozenset(waits & known)
    return found


def startable(
    waiting: Sequence[Stage],
    working: Sequence[Stage],
    ended: Collection[str],
    waits: Mapping[str, frozenset[str]],
    sharing: Sharing,
) -> list[Stage]:
    """The stages that may begin now, in the plan's order.

    Where nothing is beside a measurement, all artifacts come before it, or what is made between two would be made
    alone; and of them what most others wait for, one after the other, comes first.

    Args:
        waiting: Those that have not begun, in that order.
        working: Those that have not ended.
        ended: Names of those that have.
        waits: What `waits_of` told.
    """
    found: list[Stage] = []
    order = list(waiting)
    if sharing.stages > 1 and not sharing.evaluation:
        heights = _heights(waiting, waits)
        order.sort(key=lambda stage: -heights[stage.name])
    for stage in order:
        busy = [*working, *found]
        if len(busy) >= sharing.stages:
            break
        if not waits[stage.name].issubset(ended):
            continue
        apart = not sharing.evaluation and any(one.kind == "measure" for one in (stage, *busy))
        if apart and busy:
            break  # this one is next: what is later in the plan does not begin before it
        found.append(stage)
    return found


def _heights(stages: Sequence[Stage], waits: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Stage -> the longest chain of stages that wait for it, itself counted; 0 for a measurement that nothing is made
    after."""
    heights: dict[str, int] = {}
    behind: dict[str, int] = {}
    for stage in reversed(stages):
        height = behind.get(stage.name, 0)
        heights[stage.name] = height + 1 if height or stage.kind != "measure" else 0
        for name in waits[stage.name]:
            behind[name] = max(behind.get(name, 0), heights[stage.name])
    return heights


def may_be_beside(stages: Sequence[Stage], sharing: Sharing) -> dict[str, list[str]]:
    """Stage -> those that may work at the same time, in the plan's order; for telling."""
    waits = waits_of(stages, measured_in_turn=sharing.measured_in_turn)
    before: dict[str, frozenset[str]] = {}
    for stage in stages:
        direct = waits[stage.name]
        before[stage.name] = direct.union(*(before[name] for name in direct))
    kinds = {stage.name: stage.kind for stage in stages}
    names = list(kinds)

    def apart(one: str, other: str) -> bool:
        if one == other or one in before[other] or other in before[one] or sharing.stages == 1:
            return True
        return "measure" in (kinds[one], kinds[other]) and not sharing.evaluation

    return {one: [other for other in names if not apart(one, other)] for one in names}


def _why_one(config: RunConfig, machine: MachineRecord) -> str | None:
    """Why one stage at a time is all there is, whatever memory there is; None where it is not."""
    wanted, artifacts = config.concurrency.stages, sum(config.replicates.get(name, 1) for name in config.methods)
    if wanted == 1:
        return "the recipe says so"
    if machine.device == "cuda":
        return "on a GPU the memory of one stage is not shared with another"
    if wanted != "auto":
        return None
    if machine.threads < 2:
        return "there is one core"
    if machine.serving_threads > 1:
        return (
            f"a server computes on {machine.serving_threads} threads here, which lose several times where another stage"
            " takes a core; concurrency.stages lets several make artifacts beside each other all the same"
        )
    return "with one artifact there is next to nothing to do beside its measurement" if artifacts < 2 else None


def _why_evaluations_are_alone(config: RunConfig, machine: MachineRecord, model_bytes: int | None) -> str | None:
    if machine.serving_threads > 1:
        return f"its server computes on {machine.serving_threads} threads"
    servers = 1 if model_bytes is None else len(servers_of(config, machine, model_bytes))
    # What would work beside servers on all cores gains nothing, and the load test then waits for its end.
    return f"its {servers} servers compute on all {machine.threads} cores" if servers >= machine.threads else None


def _one(reason: str) -> Sharing:
    return Sharing(stages=1, evaluation=False, reason=reason)


def _needed_bytes(config: RunConfig, machine: MachineRecord, model_bytes: int, stages: int) -> int:
    """Of a measured model with all its servers, and of all others that may make something beside it."""
    cache_bytes = getattr(config.serving, "kv_cache_gib", 0.0) * 2**30 * config.serving.ranks
    server = _LOADING * model_bytes + cache_bytes + _PROCESS_BYTES
    measuring = server * len(servers_of(config, machine, model_bytes))
    return int(measuring + (stages - 1) * (_MAKING * model_bytes + _PROCESS_BYTES))
