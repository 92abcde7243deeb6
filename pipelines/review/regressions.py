"""What became worse since the last accepted version, and how sure that is.

Of one category: the paired test where both models' items are in the store and pair, else the two scores' own intervals
(method 10 of Newcombe 1998, Statistics in Medicine 17:873), which are wider than they would have to be where the items
are the same. Holm's procedure allows for the number of categories of a comparison. One load test gives no interval, so
speeds, and peaks with them, are told apart by a tolerance only.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from evals.statistics.score import Z95
from pipelines.review.joining import Joined
from pipelines.review.page_data import CategoryColumn, Change, Regression
from registry.contracts import CategoryRetention, RetentionRecord
from registry.gates import holm
from registry.ledger import Entry

ALPHA = 0.05
"""Risk that a comparison calls any category worse, or better, that is not."""
_SHOWN_IN_FULL = 2
"""Of the newest comparisons of an entry, also what did not change is told; of older ones what did."""
_MIB = 2**20


class Quantity(NamedTuple):
    """A column of the models that has no interval."""

    name: str
    more_is_better: bool
    tolerance: float
    """Relative change that is not told apart from none."""
    text: str
    """What it is and its unit, with a place for the number."""
    divided_by: float = 1


QUANTITIES = (
    Quantity("tokens_per_second", True, 0.05, "{:,.1f} output tokens/s"),
    # Takes of a machine's memory bandwidth differ by a fifth (docs/findings.md).
    Quantity("decode_share", True, 0.25, "{:,.1f} % of what the machine allows in decoding", 0.01),
    Quantity("ttft_p95_seconds", False, 0.10, "{:,.3f} s to the first token (p95)"),
    Quantity("weights_bytes", False, 0.01, "{:,.1f} MiB of resident weights", _MIB),
    Quantity("peak_bytes", False, 0.05, "{:,.1f} MiB at the server's peak", _MIB),
    Quantity("disk_bytes", False, 0.01, "{:,.1f} MiB on disk", _MIB),
)

Accepted = Mapping[str, Sequence[Entry]]
"""Registered model -> rows of its ledger, in the order of their streams."""


class Compared(NamedTuple):
    """Two measurements of one entry."""

    model: int
    against: int
    why: str
    """Whose version the older one is: `version 3, which was champion`."""


Paired = Callable[[int, int], RetentionRecord | str]
"""What a model kept of an older one, both by their indices; or why that cannot be said."""


def regressions(joined: Joined, accepted: Accepted, paired: Paired) -> list[Regression]:
    """Every artifact beside what it is compared with; newest first.

    Args:
        joined: All runs.
        accepted: Who approved and promoted what.
        paired: Asked about the newest comparisons of an entry only, since an answer takes seconds.
    """
    scores = _scores_of(joined)
    found: list[Regression] = []
    times: dict[tuple[str, str], int] = defaultdict(int)
    for one in comparisons(joined, accepted):
        run = joined.models.run[one.model]
        place = (joined.runs.series[run], joined.models.name[one.model])
        times[place] += 1
        newest = times[place] <= _SHOWN_IN_FULL
        answer = paired(one.model, one.against) if newest else "only the newest comparisons are paired"
        rows = [*_categories(joined, scores, one, answer), *_numbers(joined, one)]
        found += rows if newest else [row for row in rows if row.change in ("worse", "better")]
    return found


def comparisons(joined: Joined, accepted: Accepted) -> Iterator[Compared]:
    """Which model is compared with which; none where a run measured nothing anew."""
    measured = _measured_by_entry(joined)
    ledgers = {model: sorted(rows, key=lambda row: row.at) for model, rows in accepted.items()}
    for run, found in enumerate(joined.found):
        rows = ledgers.get(joined.runs.registered_model[run], [])
        rows = rows[: bisect_left(rows, joined.runs.started_at[run], key=lambda row: row.at)]
        for within, entry in enumerate(found.summary.entries):
            model = joined.first[run] + within
            of_entry = measured.get((joined.runs.series[run], entry or ""), [])
            older = of_entry[bisect_right(of_entry, model) :]
            if older and joined.models.dtype[model] is not None:
                one = _against(joined, model, older, rows, f"alias:{found.summary.champion}")
                if _measurement(joined, one.model) != _measurement(joined, one.against):
                    yield one


def _measured_by_entry(joined: Joined) -> dict[tuple[str, str], list[int]]:
    """Series and entry -> its models that were measured, the newest first."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for run, one in enumerate(joined.found):
        for within, entry in enumerate(one.summary.entries):
            model = joined.first[run] + within
            if entry is not None and joined.models.dtype[model] is not None:
                found[joined.runs.series[run], entry].append(model)
    return found


def _against(joined: Joined, model: int, older: Sequence[int], before: Sequence[Entry], champion: str) -> Compared:
    """The champion of then, else what was approved last, else the run before; of the same entry in each case.

    Args:
        older: Measurements of the entry, the newest first.
        before: The ledger as it was when the run began.
    """

    def measured(artifact: str | None) -> int | None:
        return next((one for one in older if artifact and _digest(joined, one) == artifact), None)

    move = next((row for row in reversed(before) if row.stream == champion), None)
    if move is not None and (found := measured(move.artifact)) is not None:
        return Compared(model, found, f"version {move.version_to}, which was champion")
    said = {row.stream: row for row in before if row.stream.startswith("approval:")}
    for row in sorted(said.values(), key=lambda row: row.at, reverse=True):
        if row.kind == "approve" and (found := measured(row.artifact)) is not None:
            return Compared(model, found, f"version {row.version_to}, approved last")
    run = joined.runs.id[joined.models.run[older[0]]]
    return Compared(model, older[0], f"the run before, {run}, since no version of it was accepted by then")


def _digest(joined: Joined, model: int) -> str | None:
    run = joined.models.run[model]
    return joined.found[run].summary.digests[model - joined.first[run]]


def _measurement(joined: Joined, model: int) -> object:
    """What tells two measurements apart; a run that reused one of another run has the very same."""
    run = joined.models.run[model]
    return joined.found[run].summary.measurements[model - joined.first[run]] or model


class _Score(NamedTuple):
    column: CategoryColumn
    value: float
    low: float | None
    high: float | None


def _scores_of(joined: Joined) -> list[dict[str, _Score]]:
    """Model -> category -> score."""
    found: list[dict[str, _Score]] = [{} for _ in joined.models.name]
    for start, one in zip(joined.first, joined.found, strict=True):
        for column, ends in zip(one.summary.categories, one.summary.intervals, strict=True):
            for within, value, low, high in zip(column.model, column.score, ends.low, ends.high, strict=True):
                if value is not None:
                    found[start + within][column.name] = _Score(column, value, low, high)
    return found


def _categories(
    joined: Joined, scores: Sequence[Mapping[str, _Score]], one: Compared, answer: RetentionRecord | str
) -> list[Regression]:
    if isinstance(answer, RetentionRecord):
        return [_paired_row(one, kept) for kept in answer.categories]
    now, then = scores[one.model], scores[one.against]
    names = [name for name in now if name in then and now[name].column.unit == then[name].column.unit]
    known = {name: found for name in names if (found := _difference(now[name], then[name])) is not None}
    adjusted = dict(zip(known, holm([known[name].p_value for name in known]), strict=True))
    return [
        _unpaired_row(one, name, now[name], then[name], known.get(name), adjusted.get(name, 1.0), answer)
        for name in names
    ]


def _paired_row(one: Compared, kept: CategoryRetention) -> Regression:
    """`difference` of a perplexity is one of log-likelihoods, so it is turned into one of perplexities."""
    low, high, difference = kept.difference_low, kept.difference_high, kept.difference
    if kept.unit == "perplexity" and kept.baseline is not None:
        before = kept.baseline
        low, high = (None if end is None else before * math.expm1(-end) for end in (high, low))
        difference = None if kept.artifact is None else kept.artifact - before
    p_value = 1.0 if kept.p_holm is None else kept.p_holm
    text = (
        f"{_score(kept.artifact, kept.unit)} after {_score(kept.baseline, kept.unit)} of {one.why}:"
        f" {_points(difference, low, high, kept.unit)} over the same {kept.items:,} items, {_p(p_value)}"
    )
    return Regression(
        model=one.model,
        against=one.against,
        quantity=kept.category,
        value=kept.artifact,
        before=kept.baseline,
        difference=difference,
        low=low,
        high=high,
        how="paired",
        change=_change(kept.unit, difference, p_value),
        text=text,
    )


def _change(unit: str, difference: float | None, p_value: float) -> Change:
    """Which way a score went; of a perplexity less is better."""
    if difference is None:
        return "unknown"
    if p_value > ALPHA or difference == 0:
        return "same"
    return "better" if (difference > 0) == (unit == "share") else "worse"


class _Difference(NamedTuple):
    value: float
    low: float
    high: float
    p_value: float


def _difference(now: _Score, then: _Score) -> _Difference | None:
    """Of two scores apart, with its 95 % interval from theirs; None where one has none."""
    if now.low is None or now.high is None or then.low is None or then.high is None:
        return None
    value = now.value - then.value
    down = math.hypot(now.value - now.low, then.high - then.value)
    up = math.hypot(now.high - now.value, then.value - then.low)
    towards_none = (down if value > 0 else up) / Z95
    if towards_none == 0:
        return _Difference(value, value, value, 1.0)  # two scores of a single item: there is no scatter to judge by
    p_value = 2 * NormalDist().cdf(-abs(value) / towards_none)
    return _Difference(value, value - down, value + up, p_value)


def _unpaired_row(
    one: Compared, name: str, now: _Score, then: _Score, found: _Difference | None, p_value: float, why: str
) -> Regression:
    unit = now.column.unit
    difference = now.value - then.value
    low, high = (found.low, found.high) if found else (None, None)
    text = (
        f"{_score(now.value, unit)} after {_score(then.value, unit)} of {one.why}:"
        f" {_points(difference, low, high, unit)}, {_p(p_value)}, by the intervals of both scores; {why}"
    )
    return Regression(
        model=one.model,
        against=one.against,
        quantity=name,
        value=now.value,
        before=then.value,
        difference=difference,
        low=low,
        high=high,
        how="intervals",
        change=_change(unit, found.value if found else None, p_value),
        text=text,
    )


def _numbers(joined: Joined, one: Compared) -> Iterator[Regression]:
    for quantity in QUANTITIES:
        column: list[float | None] = getattr(joined.models, quantity.name)
        value, before = column[one.model], column[one.against]
        if value is None or before is None:
            continue
        speed = quantity.name in ("tokens_per_second", "decode_share", "ttft_p95_seconds")
        levels = (joined.models.concurrency[one.model], joined.models.concurrency[one.against])
        if speed and levels[0] != levels[1]:
            continue  # of two loads: there is nothing to compare
        relative = (value - before) / before if before else 0.0
        better = relative > 0 if quantity.more_is_better else relative < 0
        change: Change = "same" if abs(relative) <= quantity.tolerance else "better" if better else "worse"
        now, then = (quantity.text.format(number / quantity.divided_by) for number in (value, before))
        at = f" with {levels[0]} requests at a time" if speed else ""
        yield Regression(
            model=one.model,
            against=one.against,
            quantity=quantity.name,
            value=value,
            before=before,
            difference=value - before,
            how="numbers",
            change=change,
            text=f"{now}{at} after {then} of {one.why}: {100 * relative:+.1f} %; one measurement each, so changes of up"
            f" to {100 * quantity.tolerance:g} % are not told apart from none",
        )


def _score(value: float | None, unit: str) -> str:
    if value is None:
        return "no score"
    return f"{100 * value:.1f} %" if unit == "share" else f"perplexity {value:.3g}"


def _points(difference: float | None, low: float | None, high: float | None, unit: str) -> str:
    if difference is None:
        return "the difference is not known"
    scale, name, digits = (100, " points", 1) if unit == "share" else (1, "", 3)
    bounds = "" if low is None or high is None else f" [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
    return f"{scale * difference:+.{digits}f}{bounds}{name}"


def _p(p_value: float) -> str:
    return "p < 0.001 (Holm)" if p_value < 0.001 else f"p = {p_value:.3f} (Holm)"
