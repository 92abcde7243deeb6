"""How far artifacts of one entry lie apart that differ by their calibration's seed alone. Records in, lines out."""

import math

from configs.names import entry_of
from evals.statistics.spread import Spread, spread_of
from pipelines.records.rows import Row
from pipelines.report.judged import Judged, interval_text, judged
from registry.contracts import CategoryRetention
from registry.contracts.base import Record
from registry.numerals import signed

MIN_ARTIFACTS = 3
"""With a prediction interval for one more."""


class SpreadLine(Record):
    """One category of one entry's artifacts, in the category's `scale`."""

    entry: str
    category: str
    scale: str
    differences: list[str]
    """From the baseline, one an artifact, in the order of their seeds."""
    between: str
    """Standard deviation between artifacts."""
    within: str
    """The first artifact's own 95 % interval, half its width: what its items leave open."""
    expected: str
    """Where one more artifact is expected, 95 %; or why these foretell none."""


def spreads(rows: list[Row]) -> list[SpreadLine]:
    """A line an entry and category with two compared artifacts or more; empty where none was made twice."""
    entries: dict[str, list[Row]] = {}
    for row in rows:
        if row.artifact and row.retention:
            entries.setdefault(entry_of(row.name), []).append(row)
    return [line for entry, made in entries.items() if len(made) > 1 for line in _lines(entry, made)]


def _lines(entry: str, made: list[Row]) -> list[SpreadLine]:
    kept = {one.category: one for one in made[0].retention.categories} if made[0].retention else {}
    by_artifact = [{one.category: one for one in judged(row.retention)} for row in made if row.retention]
    lines = []
    for category, first in by_artifact[0].items():
        found = [one[category] for one in by_artifact if category in one]
        values = [one.difference for one in found if one.difference is not None]
        if len(values) < 2:
            continue
        spread = spread_of(values)
        lines.append(
            SpreadLine(
                entry=entry,
                category=category,
                scale=first.scale,
                differences=[signed(value) for value in values],
                between=f"{spread.deviation:.1f}",
                within=_half_width(first),
                expected=_expected(spread, len(values), kept[category]),
            )
        )
    return lines


def _expected(spread: Spread, artifacts: int, kept: CategoryRetention) -> str:
    """The prediction interval, cut to what a score can be.

    One degree of freedom has t = 12.7, and scores of few items coincide: neither is an interval to act on.
    """
    if artifacts < MIN_ARTIFACTS:
        return f"{MIN_ARTIFACTS} artifacts tell"
    if not spread.deviation:
        return "alike: more items tell"
    if kept.unit == "share" and kept.baseline is not None:
        least, most = -100 * kept.baseline, 100 * (1 - kept.baseline)
    else:
        least, most = -math.inf, 100.0
    return interval_text(max(spread.low, least), min(spread.high, most)).strip()


def _half_width(one: Judged) -> str:
    return "" if one.low is None or one.high is None else f"{(one.high - one.low) / 2:.1f}"


def of_these_bytes_only(rows: list[Row]) -> list[str]:
    """Calibrated artifacts that were made once: another seed would give others, and how far apart is not known."""
    entries = [entry_of(row.name) for row in rows if row.artifact and row.artifact.calibration_digest]
    return [entry for entry in dict.fromkeys(entries) if entries.count(entry) == 1]
