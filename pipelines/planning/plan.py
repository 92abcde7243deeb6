"""What would run, what is reused, and why something is stale. Pure: reads the cache, starts nothing."""

from collections.abc import Sequence
from typing import Literal

from pipelines.environments.definition import Environment
from pipelines.environments.folders import state_of
from pipelines.planning.concurrency import Sharing, may_be_beside
from pipelines.planning.stages import Stage
from registry.contracts import StageResult
from registry.contracts.base import Record
from registry.stage_cache import StageCache, StageKey

_MOST_DIFFERENCES = 3


class PlannedStage(Record):
    name: str
    action: Literal["reuse", "run"]
    reason: str
    """One sentence: which result is reused, or what changed."""
    key_digest: str | None
    """None while an input has to be made first."""
    beside: list[str] = []
    """Stages that are run too and may work at the same time."""


def with_beside(planned: Sequence[PlannedStage], stages: Sequence[Stage], sharing: Sharing) -> list[PlannedStage]:
    """The plan with what may work beside what.

    Args:
        planned: Of `stages`.
        stages: Of the run.
        sharing: How they share the machine.
    """
    run = {one.name for one in planned if one.action == "run"}
    found = may_be_beside([stage for stage in stages if stage.name in run], sharing)
    return [one.model_copy(update={"beside": found.get(one.name, [])}) for one in planned]


def plan_stages(stages: Sequence[Stage], cache: StageCache) -> tuple[list[PlannedStage], dict[str, StageResult]]:
    """Walk the stages in order against the cache.

    Returns:
        The plan, and the results that are reused by stage name.
    """
    planned: list[PlannedStage] = []
    reused: dict[str, StageResult] = {}
    for stage in stages:
        key = stage.key(reused)
        result = cache.get(key) if key else None
        if key is not None and stage.is_answered_by(result, reused):
            reused[stage.name] = result
            planned.append(
                PlannedStage(name=stage.name, action="reuse", reason="same key, finished before", key_digest=key.digest)
            )
            continue
        digest = key.digest if key else None
        why = _why(stage, key, reused, cache) if result is None else "its result lacks a profile or proofs wanted now"
        planned.append(PlannedStage(name=stage.name, action="run", reason=why + _where(stage), key_digest=digest))
    return planned, reused


def _where(stage: Stage) -> str:
    """The named environment that the stage runs in, and whether that is made."""
    if not isinstance(stage.interpreter, Environment):
        return ""
    return f"; in environment {stage.interpreter.name}: {state_of(stage.interpreter)}"


def _why(stage: Stage, key: StageKey | None, reused: dict[str, StageResult], cache: StageCache) -> str:
    if key is None:
        waiting = [name for name in stage.inputs.values() if name not in reused]
        return f"{', '.join(waiting)} is made first"
    latest = cache.latest_key(stage.kind, stage.name)
    if latest is None:
        return "never finished in this workspace"
    differences = key.differences(latest)
    if not differences:
        return "its result was damaged or removed"
    more = f", and {len(differences) - _MOST_DIFFERENCES} more" if len(differences) > _MOST_DIFFERENCES else ""
    return "changed: " + "; ".join(differences[:_MOST_DIFFERENCES]) + more
