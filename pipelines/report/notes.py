"""What MLflow's own pages say of a run, a registered model and its versions, in Markdown. Pure."""

from collections.abc import Sequence

from pipelines.records.rows import Row, concurrencies
from pipelines.records.run_record import Notes, RunRecord
from pipelines.report.markdown import escaped, table_head, table_line
from pipelines.report.summary import Sentence, sentences
from pipelines.report.table import kept_text
from quantizers.precision.telling import told_precision
from registry.contracts import CategoryRetention, CategoryScore
from registry.numerals import significant


def notes_of(record: RunRecord) -> Notes:
    """One text for the run, which is also the registered model's, and one for each row."""
    rows, told = record.rows, sentences(record.rows)
    where = f"Run `{record.run_id}` on {record.machine.device_name}, page: `{record.page or 'not written'}`"
    heading = str(record.config.get("description") or record.config["name"])
    lines = [escaped(heading), "", *(_said(one) for one in told), "", *_table(rows), "", where]
    return Notes(
        run="\n".join(lines),
        rows={
            row.name: "\n".join([*_of_row(row, rows[0], told), *_policy(record, row.name), "", where]) for row in rows
        },
    )


def _said(sentence: Sentence) -> str:
    return f"- **{escaped(sentence.name)}** {escaped(sentence.text)}"


def _table(rows: Sequence[Row]) -> list[str]:
    """All models side by side: what each scores, and what it kept."""
    scored = next((row for row in rows if row.measurement), None)
    if scored is None or scored.measurement is None:
        return []
    categories = [score.category for score in scored.measurement.evaluation.categories]
    level = max(concurrencies(list(rows)), default=None)
    speed = [] if level is None else [f"tokens/s at {level}"]
    lines = table_head(["model", "verdict", *map(escaped, categories), "MiB", *speed])
    for row in rows:
        cells = [_scored(row.score(category), row.kept(category)) for category in categories]
        size = "" if row.size_bytes is None else f"{row.size_bytes / 2**20:,.0f}"
        rate = None if level is None else row.tokens_per_second(level)
        rates = [] if level is None else ["" if rate is None else significant(rate)]
        lines.append(table_line([escaped(row.name), row.verdict or "", *cells, size, *rates]))
    return lines


def _of_row(row: Row, baseline: Row, told: Sequence[Sentence]) -> list[str]:
    """One artifact beside the baseline, a line a category."""
    # MLflow's list of versions shows the first line of a description, and no marks in it.
    lines = [f"{escaped(one.name)} {escaped(one.text)}\n" for one in told if one.name == row.name]
    if row.retention:
        lines += ["", *table_head(["category", "baseline", "artifact", "kept [95 %]", "verdict"])]
        for kept in row.retention.categories:
            cells = [_value(baseline.score(kept.category)), _value(row.score(kept.category)), _interval(kept)]
            lines.append(table_line([escaped(kept.category), *cells, kept.verdict]))
    if row.artifact:
        lines += ["", f"`{row.artifact.digest}`, {row.artifact.bits_per_weight:.2f} bits a weight"]
        if row.artifact.precision:
            lines += ["", escaped(told_precision(row.artifact.precision))]
    return lines


def _policy(record: RunRecord, name: str) -> list[str]:
    """What an artifact was held against, a line a limit."""
    candidates = record.recommendation.candidates if record.recommendation else []
    limits = [limit for one in candidates if one.name == name for limit in one.limits]
    if not limits:
        return []
    told = [f"- {escaped(one.limit)}: **{one.outcome}**, {escaped(one.reason)}" for one in limits]
    return ["", "Policy:", "", *told]


def _scored(score: CategoryScore | None, kept: CategoryRetention | None) -> str:
    value = _value(score)
    return f"{value} (kept {_interval(kept)})" if kept and value else value


def _value(score: CategoryScore | None) -> str:
    if score is None:
        return ""
    return f"{score.value:.2f}" if score.unit == "share" else f"{score.value:.1f}"


def _interval(kept: CategoryRetention) -> str:
    return kept_text(kept) or "nothing to keep"
