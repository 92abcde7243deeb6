"""What an artifact kept of its baseline: judged, characterized, and kept in the cache like a stage's result."""

import functools
import importlib
import threading
from pathlib import Path

from evals.asking.token_agreement import agree
from evals.judging.characterize import characterize
from evals.judging.pairing import joint_looks, paired
from evals.judging.retention import compare, policy_of
from evals.judging.verbosity import verbosity
from evals.suites.suite import Suite
from pipelines.execution.workspace import Workspace
from pipelines.planning.stages import STATISTICS_LIBRARIES, STATISTICS_VERSION, installed_versions
from pipelines.records.comparison import Comparison
from registry.contracts import (
    EvaluationRecord,
    MeasurementRecord,
    StageResult,
)
from registry.contracts.token_logprobs import TOKEN_LOGPROBS_FILE
from registry.stage_cache import StageKey


def compare_measured(
    baseline: StageResult, artifact: StageResult, suite: Suite, workspace: Workspace
) -> Comparison | None:
    """Compare two measurements; None where one of them is missing.

    Raises:
        StageError: They did not answer the same prompts, or what was stored of them is damaged.
    """
    measured = _evaluations(baseline, artifact)
    if measured is None or baseline.object is None or artifact.object is None:
        return None
    ours, theirs = measured
    key = _key(ours, baseline.object.digest, theirs, artifact.object.digest, suite)
    cached = workspace.cache.get(key)
    if cached is not None:
        return Comparison.model_validate(cached.record)
    comparison = _compared(
        ours,
        workspace.store.open(baseline.object.digest),
        theirs,
        workspace.store.open(artifact.object.digest),
        suite,
    )
    workspace.cache.put(key, "compare", StageResult(stage="compare", record=comparison.model_dump(mode="json")))
    return comparison


def is_compared(baseline: StageResult, artifact: StageResult, suite: Suite, workspace: Workspace) -> bool:
    """Whether what `compare_measured` would say is kept, or nothing is to be said."""
    measured = _evaluations(baseline, artifact)
    if measured is None or baseline.object is None or artifact.object is None:
        return True
    ours, theirs = measured
    return workspace.cache.get(_key(ours, baseline.object.digest, theirs, artifact.object.digest, suite)) is not None


def _evaluations(baseline: StageResult, artifact: StageResult) -> tuple[EvaluationRecord, EvaluationRecord] | None:
    if baseline.record is None or artifact.record is None:
        return None
    ours, theirs = (MeasurementRecord.model_validate(one.record).evaluation for one in (baseline, artifact))
    return ours, theirs


def _key(ours: EvaluationRecord, baseline: str, theirs: EvaluationRecord, artifact: str, suite: Suite) -> StageKey:
    """Of a comparison of two measurements, each with its digest."""
    config = {"policy": policy_of(suite).model_dump(mode="json")}
    looks = joint_looks(ours, theirs)
    if looks:
        config |= {"looks": {name: look.model_dump(mode="json") for name, look in looks.items()}}
    return StageKey(
        stage="compare",
        stage_version=STATISTICS_VERSION,
        config=config,
        inputs={"baseline": baseline, "artifact": artifact},
        libraries=installed_versions(STATISTICS_LIBRARIES),
    )


@functools.cache
def import_ahead() -> None:
    """Import what comparing needs, seconds of it, beside the first stage's work."""
    names = ("scipy.optimize", "scipy.stats", "pyarrow.parquet")
    threading.Thread(target=lambda: list(map(importlib.import_module, names)), daemon=True).start()


def _compared(
    baseline: EvaluationRecord, baseline_dir: Path, artifact: EvaluationRecord, artifact_dir: Path, suite: Suite
) -> Comparison:
    measured = baseline, baseline_dir / baseline.samples_file, artifact, artifact_dir / artifact.samples_file
    retention, pairs = compare(*measured, policy_of(suite)), paired(*measured)
    return Comparison(
        retention=retention,
        characterization=characterize(retention, pairs),
        token_agreement=agree(baseline_dir / TOKEN_LOGPROBS_FILE, artifact_dir / TOKEN_LOGPROBS_FILE),
        verbosity=verbosity(pairs),
    )
