"""What an artifact kept of its baseline: judged, characterized, and kept in the cache like a stage's result."""

import functools
import importlib
import threading
from pathlib import Path

from evals.characterize import characterize
from evals.retention import compare, pair, policy_of
from evals.samples import read_samples
from evals.suite import Suite
from evals.token_agreement import TOKEN_LOGPROBS_FILE, agree
from pipelines.stages import installed_versions
from pipelines.workspace import Workspace
from registry.contracts import (
    CharacterizationRecord,
    EvaluationRecord,
    MeasurementRecord,
    RetentionRecord,
    StageResult,
    TokenAgreementRecord,
)
from registry.contracts.base import Record
from registry.stage_cache import StageKey

_COMPARISON_VERSION = 1
"""Of our statistics: goes up when the same samples would give another result."""


class Comparison(Record):
    """All that is said of an artifact beside its baseline."""

    retention: RetentionRecord
    characterization: CharacterizationRecord
    token_agreement: TokenAgreementRecord


def compare_measured(
    baseline: StageResult, artifact: StageResult, suite: Suite, workspace: Workspace
) -> Comparison | None:
    """Compare two measurements; None where one of them is missing.

    Raises:
        StageError: They did not answer the same prompts, or what was stored of them is damaged.
    """
    if baseline.record is None or baseline.object is None or artifact.record is None or artifact.object is None:
        return None
    key = StageKey(
        stage="compare",
        stage_version=_COMPARISON_VERSION,
        config={"policy": policy_of(suite).model_dump(mode="json")},
        inputs={"baseline": baseline.object.digest, "artifact": artifact.object.digest},
        libraries=installed_versions(("scipy", "statsmodels", "numpy")),
    )
    cached = workspace.cache.get(key)
    if cached is not None:
        return Comparison.model_validate(cached.record)
    comparison = _compared(
        MeasurementRecord.model_validate(baseline.record).evaluation,
        workspace.store.path(baseline.object.digest),
        MeasurementRecord.model_validate(artifact.record).evaluation,
        workspace.store.path(artifact.object.digest),
        suite,
    )
    workspace.cache.put(key, "compare", StageResult(stage="compare", record=comparison.model_dump(mode="json")))
    return comparison


@functools.cache
def import_ahead() -> None:
    """Import what comparing needs, seconds of it, beside the first stage's work."""
    names = ("scipy.optimize", "scipy.stats", "statsmodels.stats.multitest", "pyarrow.parquet")
    threading.Thread(target=lambda: list(map(importlib.import_module, names)), daemon=True).start()


def _compared(
    baseline: EvaluationRecord, baseline_dir: Path, artifact: EvaluationRecord, artifact_dir: Path, suite: Suite
) -> Comparison:
    samples = baseline_dir / baseline.samples_file, artifact_dir / artifact.samples_file
    retention = compare(baseline, samples[0], artifact, samples[1], policy_of(suite))
    return Comparison(
        retention=retention,
        characterization=characterize(retention, pair(*map(read_samples, samples))),
        token_agreement=agree(baseline_dir / TOKEN_LOGPROBS_FILE, artifact_dir / TOKEN_LOGPROBS_FILE),
    )
