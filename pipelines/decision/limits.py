"""Holds one artifact against a policy: three-valued, with the numbers in words. Pure."""

from collections.abc import Iterator

from configs.names import BASELINE
from pipelines.recipe.policy import LoadLimit, Policy
from pipelines.records.decision import LimitOutcome, worst_of
from pipelines.records.rows import Row, verbosity_text
from registry.contracts import LoadPoint
from registry.contracts.comparison import Verdict

_MIB = 2**20


def held_against(policy: Policy, row: Row, baseline: Row) -> list[LimitOutcome]:
    """Every limit that applies; of the baseline, and of an artifact that is not sound, that alone."""
    if row.failure or row.measurement is None:
        why = (
            row.failure or f"it was not measured, since {row.blocked_by or 'its run'} did not come so far"
        ).splitlines()
        return [LimitOutcome(limit="soundness", outcome="fail" if row.failure else "inconclusive", reason=why[0])]
    if row.name == BASELINE:
        said = "it is what artifacts are compared with, and was found sound"
        return [LimitOutcome(limit="soundness", outcome="pass", reason=said)]
    return [
        *_quality(row),
        *_size(policy, row),
        *_memory(policy, row),
        *_fallbacks(policy, row),
        *_verbosity(policy, row),
        *_checks(policy, row),
    ] + [_load(limit, row, baseline) for limit in policy.loads]


def _quality(row: Row) -> Iterator[LimitOutcome]:
    if row.retention is None:
        yield LimitOutcome(limit="quality", outcome="inconclusive", reason="there is no baseline to compare it with")
        return
    yield LimitOutcome(limit="quality", outcome=row.retention.verdict, reason=row.retention.verdict_reason.rstrip("."))


def _size(policy: Policy, row: Row) -> Iterator[LimitOutcome]:
    if policy.size_mib is not None:
        yield _at_most("size", row.size_bytes, policy.size_mib, "its safetensors take")


def _memory(policy: Policy, row: Row) -> Iterator[LimitOutcome]:
    if policy.memory_mib is not None:
        peak = row.serving.memory.peak_process_bytes if row.serving else None
        yield _at_most("memory", peak, policy.memory_mib, "its server's processes held")


def _at_most(limit: str, found: int | None, most_mib: float, what: str) -> LimitOutcome:
    if found is None:
        return LimitOutcome(limit=limit, outcome="inconclusive", reason=f"what {what} is not known")
    said = f"{what} {found / _MIB:,.0f} MiB, allowed are {most_mib:,.0f}"
    return LimitOutcome(limit=limit, outcome="pass" if found <= most_mib * _MIB else "fail", reason=said)


def _fallbacks(policy: Policy, row: Row) -> Iterator[LimitOutcome]:
    if row.artifact is None:
        return
    count = row.artifact.fallback_count
    said = f"{count} of its Linears were not quantized as asked, allowed are {policy.fallback_modules}"
    yield LimitOutcome(limit="fallbacks", outcome="pass" if count <= policy.fallback_modules else "fail", reason=said)


def _verbosity(policy: Policy, row: Row) -> Iterator[LimitOutcome]:
    if policy.verbosity is None:
        return
    found = row.verbosity
    if found is None:
        said = "how long its answers are is not known: the suite lets nothing be generated, or was measured before"
        yield LimitOutcome(limit="verbosity", outcome="inconclusive", reason=said)
        return
    said = f"{verbosity_text(found)}, allowed are {policy.verbosity:g} times"
    outcome: Verdict = "inconclusive"
    if found.low is not None and found.high is not None:
        outcome = "pass" if found.high <= policy.verbosity else "fail" if found.low > policy.verbosity else outcome
    yield LimitOutcome(limit="verbosity", outcome=outcome, reason=said)


def _checks(policy: Policy, row: Row) -> Iterator[LimitOutcome]:
    if not policy.checks or row.serving is None:
        return
    failed = [check for check in row.serving.checks if check.outcome == "fail"]
    said = "; ".join(f"{check.check}: {check.reason}" for check in failed) or "no proof about its server failed"
    yield LimitOutcome(limit="checks", outcome="fail" if failed else "pass", reason=said)


def _load(limit: LoadLimit, row: Row, baseline: Row) -> LimitOutcome:
    """The worst of what one level has to give."""
    name = f"load at {limit.concurrency}"
    point, before = row.closed_point(limit.concurrency), baseline.closed_point(limit.concurrency)
    if point is None or point.invalid is not None or not point.completed:
        why = "was not loaded so" if point is None else point.invalid or "no request was completed"
        return LimitOutcome(limit=name, outcome="inconclusive", reason=f"{why}; `load` of the recipe has the levels")
    found = [*_speeds(limit, point, before), *_latencies(limit, point)]
    worst = worst_of(outcome for outcome, _ in found)
    told = [said for outcome, said in found if outcome == worst]
    return LimitOutcome(limit=name, outcome=worst, reason="; ".join(told))


def _speeds(limit: LoadLimit, point: LoadPoint, before: LoadPoint | None) -> Iterator[tuple[Verdict, str]]:
    rate = point.output_tokens_per_second
    if limit.output_tokens_per_second is not None:
        least = limit.output_tokens_per_second
        yield "pass" if rate >= least else "fail", f"{rate:.1f} output tokens/s, asked for are {least:g}"
    if limit.of_baseline is not None:
        if before is None or before.invalid is not None or not before.output_tokens_per_second:
            yield "inconclusive", "the baseline's speed is not known"
            return
        ratio = rate / before.output_tokens_per_second
        said = f"{ratio:.2f} times the baseline's output tokens/s, asked for are {limit.of_baseline:g} times"
        yield "pass" if ratio >= limit.of_baseline else "fail", said


def _latencies(limit: LoadLimit, point: LoadPoint) -> Iterator[tuple[Verdict, str]]:
    for of, name in ((point.ttft, "ttft"), (point.tpot, "tpot")):
        for share in ("p50", "p99"):
            most: float | None = getattr(limit, f"{name}_{share}_seconds")
            if most is None:
                continue
            found = getattr(of, f"{share}_seconds")
            said = f"{name.upper()} {share} {1000 * found:,.0f} ms, allowed are {1000 * most:,.0f}"
            yield "pass" if found <= most else "fail", said
