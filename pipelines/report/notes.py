"""What MLflow's own pages say of a run, a registered model and its versions, in Markdown. Pure."""

from collections.abc import Sequence

from pipelines.records.rows import Row, concurrencies
from pipelines.records.run_record import Notes, RunRecord
from pipelines.report.load import significant
from pipelines.report.summary import Sentence, sentences
from pipelines.report.table import kept_text
from registry.contracts import CategoryRetention, CategoryScore


def notes_of(record: RunRecord) -> Notes:
    """One text for the run, which is also the registered model's, and one for each row."""
    rows, told = record.rows, sentences(record.rows)
    where = f"Run `{record.run_id}` on {record.machine.device_name}, page: `{record.page or 'not written'}`"
    heading = str(record.config.get("description") or record.config["name"])
    lines = [_escaped(heading), "", *(_said(one) for one in told), "", *_table(rows), "", where]
    return Notes(
        run="\n".join(lines),
        rows={
            row.name: "\n".join([*_of_row(row, rows[0], told), *_policy(record, row.name), "", where]) for row in rows
        },
    )


def _said(sentence: Sentence) -> str:
    return f"- **{_escaped(sentence.name)}** {_escaped(sentence.text)}"


def _table(rows: Sequence[Row]) -> list[str]:
    """All models side by side: what each scores, and what it kept."""
    scored = next((row for row in rows if row.measurement), None)
    if scored is None or scored.measurement is None:
        return []
    categories = [score.category for score in scored.measurement.evaluation.categories]
    level = max(concurrencies(list(rows)), default=None)
    speed = [] if level is None else [f"tokens/s at {level}"]
    lines = _rows_of_a_table(["model", "verdict", *map(_escaped, categories), "MiB", *speed])
    for row in rows:
        cells = [_scored(row.score(category), row.kept(category)) for category in categories]
        size = "" if row.size_bytes is None else f"{row.size_bytes / 2**20:,.0f}"
        rate = None if level is None else row.tokens_per_second(level)
        rates = [] if level is None else ["" if rate is None else significant(rate)]
        lines.append(_line([_escaped(row.name), row.verdict or "", *cells, size, *rates]))
    return lines


def _of_row(row: Row, baseline: Row, told: Sequence[Sentence]) -> list[str]:
    """One artifact beside the baseline, a line a category."""
    # MLflow's list of versions shows the first line of a description, and no marks in it.
    lines = [f"{_escaped(one.name)} {_escaped(one.text)}\n" for one in told if one.name == row.name]
    if row.retention:
        lines += ["", *_rows_of_a_table(["category", "baseline", "artifact", "kept [95 %]", "verdict"])]
        for kept in row.retention.categories:
            cells = [_value(baseline.score(kept.category)), _value(row.score(kept.category)), _interval(kept)]
            lines.append(_line([_escaped(kept.category), *cells, kept.verdict]))
    if row.artifact:
        lines += ["", f"`{row.artifact.digest}`, {row.artifact.bits_per_weight:.2f} bits a weight"]
    return lines


def _policy(record: RunRecord, name: str) -> list[str]:
    """What an artifact was held against, a line a limit."""
    candidates = record.recommendation.candidates if record.recommendation else []
    limits = [limit for one in candidates if one.name == name for limit in one.limits]
    if not limits:
        return []
    told = [f"- {_escaped(one.limit)}: **{one.outcome}**, {_escaped(one.reason)}" for one in limits]
    return ["", "Policy:", "", *told]


def _rows_of_a_table(heads: Sequence[str]) -> list[str]:
    return [_line(heads), _line(["---"] * len(heads))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _scored(score: CategoryScore | None, kept: CategoryRetention | None) -> str:
    value = _value(score)
    return f"{value} (kept {_interval(kept)})" if kept and value else value


def _value(score: CategoryScore | None) -> str:
    if score is None:
        return ""
    return f"{score.value:.2f}" if score.unit == "share" else f"{score.value:.1f}"


def _interval(kept: CategoryRetention) -> str:
    return kept_text(kept) or "nothing to keep"


def _escaped(text: str) -> str:
    """As it is meant: names and messages may hold what Markdown takes for marks."""
    marked = "".join(f"\\{character}" if character in "\\`*_{}[]<>#|" else character for character in text)
    return " ".join(marked.split())
