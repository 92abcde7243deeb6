"""Is the baseline what everything may be compared with? Judged from records, before any artifact is made.

The stage `soundness` has asked the checkpoint through transformers. Once the baseline was served and measured, the same
fixed texts say whether the engine computes what transformers does, and the recipe's `expect` whether it scores what was
published. Whatever fails here stops the run: it is the source's, the recipe's or the engine's fault, and no artifact's.
"""

from collections.abc import Sequence

from configs.errors import Blame, StageError
from evals.asking.token_agreement import agree
from evals.judging.expectation import compare_expected
from evals.suites.resolve import resolve
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.stages import STAGE_VERSIONS
from registry.contracts import MeasurementRecord, SoundnessCheck, SoundnessRecord, StageResult, TokenAgreementRecord
from registry.contracts.base import DType
from registry.contracts.token_logprobs import TOKEN_LOGPROBS_FILE
from registry.stage_cache import StageKey

MOST_KL_NATS: dict[DType, float] = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.005}
"""Mean divergence a token between transformers and the engine, by the dtype that both compute in. docs/findings.md has
what sound pairs gave."""

_BLAME: dict[str, Blame | None] = {"served": "engine", "expected": None}
"""Of a check that failed; of the checkpoint's own checks, the source."""


def refuse_unsound(checks: Sequence[SoundnessCheck]) -> None:
    """Raise StageError, which stops the run, with all checks that failed."""
    failed = [check for check in checks if check.outcome == "fail"]
    if failed:
        raise StageError(
            "the baseline is not sound, and everything would be compared with it: "
            + "; ".join(f"{check.name}: {check.detail}" for check in failed),
            remedy="; ".join(check.remedy for check in failed),
            blame=_BLAME.get(failed[0].name, "source"),
        )


def check_measured(
    soundness: StageResult, measured: StageResult, context: JobContext, workspace: Workspace
) -> list[SoundnessCheck]:
    """What the measured baseline says of its own soundness: `served`, then one `expected` for each expectation.

    Raises:
        StageError: What was stored of either is damaged.
    """
    measurement = MeasurementRecord.model_validate(measured.record)
    dtypes = SoundnessRecord.model_validate(soundness.record).dtype, measurement.serving.dtype
    checks = [check_served(_agreement(soundness, measured, workspace), *dtypes, measurement.serving.engine)]
    config = context.config
    if config.expect:
        suite = resolve(context.suite, config.evaluation.data)
        data = config.evaluation.data
        checks += [compare_expected(one, measurement.evaluation, suite, data) for one in config.expect]
    return checks


def check_served(agreement: TokenAgreementRecord, dtype: DType, served_in: DType, engine: str) -> SoundnessCheck:
    """Whether the engine computes what transformers does.

    Args:
        agreement: transformers' logits beside those that were served.
        dtype: What transformers computed in.
        served_in: What the engine says that it computed in.
        engine: Its name.
    """
    allowed = max(MOST_KL_NATS[dtype], MOST_KL_NATS[served_in])
    worst = agreement.prompts[0]
    detail = (
        f"{engine} ({served_in}) beside transformers ({dtype}) on {agreement.positions:,} tokens: KL divergence"
        f" {agreement.kl_nats:.2g} nats a token, {allowed:.2g} allowed; most likely token the same at"
        f" {100 * agreement.top1_agreement:.1f} %"
    )
    if agreement.kl_nats <= allowed:
        return SoundnessCheck(name="served", outcome="pass", detail=detail)
    return SoundnessCheck(
        name="served",
        outcome="fail",
        detail=f"{detail}; worst at {worst.text[:40]!r} ({worst.kl_nats:.2g}). The engine does not compute the model"
        " that the checkpoint holds",
        remedy="try another version of the engine, enforce_eager, or another dtype.serve; the checkpoint by itself"
        " passed its checks",
    )


def _agreement(soundness: StageResult, measured: StageResult, workspace: Workspace) -> TokenAgreementRecord:
    """Kept like a stage's result."""
    assert soundness.object and measured.object  # noqa: S101 - both stages make files
    digests = {"soundness": soundness.object.digest, "baseline": measured.object.digest}
    version = STAGE_VERSIONS["soundness"]
    key = StageKey(stage="served", stage_version=version, config={}, inputs=digests, libraries={})
    cached = workspace.cache.get(key)
    if cached is not None:
        return TokenAgreementRecord.model_validate(cached.record)
    files = [workspace.store.open(digest) / TOKEN_LOGPROBS_FILE for digest in digests.values()]
    found = agree(*files)
    workspace.cache.put(key, "served", StageResult(stage="served", record=found.model_dump(mode="json")))
    return found
