"""One run as the review page shows it: its rows of the columns, and its details. Pure: a record in, values out.

A run that broke off, or whose record is from before a field was there, gives what it has; a number that is no number
is one that is not known.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar

from configs.names import entry_of
from evals.judging.characterize import MOST_FLIPS
from pipelines.records.model_cost import Pricing
from pipelines.records.rows import UNQUANTIZED, Row, concurrencies, lowest_category
from pipelines.records.run_record import RunRecord
from pipelines.report.load import slo_of
from pipelines.report.summary import failed_checks
from pipelines.report.table import mebibytes
from pipelines.review.costs import cost_columns
from pipelines.review.page_data import CATEGORIES_SHOWN, CategoryColumn, ModelDetail, RunDetail
from registry.contracts import CalibrationRecord, CategoryRetention, Flip, LoadPoint, ServingRecord
from registry.contracts.base import Record
from registry.contracts.comparison import Verdict

DIGITS_OF_A_DIGEST = 12
_MOST_CHARACTERS = 1_000
"""Of a flip's text; those of this version are shorter."""

_Columns = TypeVar("_Columns", bound=Record)


class CategoryCell(Record):
    """What one model has of one category: a row of its column."""

    name: str
    unit: Literal["share", "perplexity"]
    model: int
    """Index among the page's models."""
    score: float | None
    kept: float | None
    kept_low: float | None
    kept_high: float | None
    verdict: Verdict | None


def columns(kind: type[_Columns], rows: Sequence[Mapping[str, Any]]) -> _Columns:
    """Rows of equal keys as `Runs` or `Models`."""
    names = [name for name in kind.model_fields if name != "schema_version"]
    return kind.model_validate({name: [row[name] for row in rows] for name in names})


def run_row(
    record: RunRecord,
    *,
    first_model: int = 0,
    page: str | None = None,
    origin: Literal["workspace", "mlflow"] = "workspace",
) -> dict[str, Any]:
    """The run's row of `Runs`.

    Args:
        record: Of the run.
        first_model: Index of its baseline among the page's models.
        page: Address of its report, relative to the review page.
        origin: Where the record was found.
    """
    found, machine, suite = record.recommendation, _machine(record), _suite(record)
    names = [row.name for row in record.rows]
    return {
        "id": record.run_id,
        "started_at": record.started_at,
        "recipe": str(record.config["name"]),
        "series": " · ".join(filter(None, (record.registered_model, suite, machine))),
        "source": _source(record),
        "machine": machine,
        "suite": suite,
        "registered_model": record.registered_model,
        "seconds": _finite(record.breakdown.wall_seconds) or 0.0,
        "recommended": first_model + names.index(found.choice) if found and found.choice in names else None,
        "kind": found.kind if found else None,
        "failed": sum(outcome.how == "failed" for outcome in record.outcomes),
        "page": page,
        "origin": origin,
    }


def model_rows(
    record: RunRecord,
    *,
    run: int = 0,
    versions: Mapping[str, str] | None = None,
    pricing: Pricing | None = None,
) -> list[dict[str, Any]]:
    """The run's rows of `Models`, its baseline first.

    Args:
        record: Of the run.
        run: Its index among the page's runs.
        versions: Model's name -> version of the registered model, of those that are one.
        pricing: What its costs are computed from (`costs.run_pricing`); without it there are none.
    """
    level = max(concurrencies(record.rows), default=None)
    return [
        {"run": run, "version": (versions or {}).get(row.name), "policy": record.policy_outcome(row.name)}
        | _identity(row)
        | _sizes(row)
        | _quality(row)
        | _speed(row, level)
        | _shares_of_the_machine(row, level)
        | cost_columns(row, pricing, level)._asdict()
        for row in record.rows
    ]


def category_cells(record: RunRecord, *, first_model: int = 0) -> list[CategoryCell]:
    """Of the `CATEGORIES_SHOWN` categories in which the run's artifacts lost most, the worst category first."""
    kept = [{one.category: one for one in row.retention.categories} if row.retention else {} for row in record.rows]
    scores = [
        {one.category: one for one in row.measurement.evaluation.categories} if row.measurement else {}
        for row in record.rows
    ]
    names = dict.fromkeys(chain(chain.from_iterable(kept), chain.from_iterable(scores)))
    worst = {
        name: min((_loss_rank(of_row[name]) for of_row in kept if name in of_row), default=_UNRANKED) for name in names
    }
    cells = []
    for name in sorted(names, key=lambda name: worst[name])[:CATEGORIES_SHOWN]:
        for index, (kept_of_row, scores_of_row) in enumerate(zip(kept, scores, strict=True)):
            one, score = kept_of_row.get(name), scores_of_row.get(name)
            unit = one.unit if one else score.unit if score else None
            if unit is None:
                continue
            cells.append(
                CategoryCell(
                    name=name,
                    unit=unit,
                    model=first_model + index,
                    score=_finite(score.value if score else one.artifact if one else None),
                    kept=_finite(one.kept if one else None),
                    kept_low=_finite(one.kept_low if one else None),
                    kept_high=_finite(one.kept_high if one else None),
                    verdict=one.verdict if one else None,
                )
            )
    return cells


def category_columns(cells: Iterable[CategoryCell]) -> list[CategoryColumn]:
    """Cells of one run or of many, theirs in the order of the models, as columns in the order of first mention."""
    found: dict[tuple[str, str], list[CategoryCell]] = {}
    for cell in cells:
        found.setdefault((cell.name, cell.unit), []).append(cell)
    return [
        CategoryColumn(
            name=of_category[0].name,
            unit=of_category[0].unit,
            model=[cell.model for cell in of_category],
            score=[cell.score for cell in of_category],
            kept=[cell.kept for cell in of_category],
            kept_low=[cell.kept_low for cell in of_category],
            kept_high=[cell.kept_high for cell in of_category],
            verdict=[cell.verdict for cell in of_category],
        )
        for of_category in found.values()
    ]


class Fate(NamedTuple):
    """Of a model, after its run."""

    version: str | None
    """Of the registered model."""
    traffic: list[str]
    """Names of the shadow folders that hold its answers."""


def with_fates(detail: RunDetail, registered_model: str, fates: Mapping[str, Fate]) -> RunDetail:
    """The same with what became of its models, by their names, at the end of each lineage."""
    models = []
    for one in detail.models:
        fate = fates.get(one.name, Fate(None, []))
        version = f"version {fate.version}" if fate.version else "no version"
        became = [("registry", f"{registered_model}, {version}"), ("traffic", ", ".join(fate.traffic) or "none")]
        models.append(one.model_copy(update={"lineage": [*one.lineage, *became]}))
    return detail.model_copy(update={"models": models})


def run_detail(record: RunRecord) -> RunDetail:
    """What is asked of the run, as far as its record tells."""
    slo = slo_of(record.rows)
    return RunDetail(
        recommendation=record.recommendation,
        models=[_model_detail(record, row) for row in record.rows],
        config=record.config,
        slo=slo.model_dump(exclude_none=True, exclude={"schema_version"}) if slo else None,
    )


def _identity(row: Row) -> dict[str, Any]:
    serving = row.serving
    return {
        "name": row.name,
        "method": row.method,
        "digest": row.digest.removeprefix("sha256:")[:DIGITS_OF_A_DIGEST] if row.digest else None,
        "verdict": row.verdict if row.method != UNQUANTIZED or row.retention else None,
        "failure": row.failure.splitlines()[0] if row.failure else None,
        "dtype": serving.dtype if serving else None,
        "kernel": serving.quantization_kernel if serving else None,
    }


def _sizes(row: Row) -> dict[str, int | None]:
    memory = row.serving.memory if row.serving else None
    return {
        "disk_bytes": row.size_bytes,
        "weights_bytes": memory.resident_weights_bytes if memory else None,
        "peak_bytes": memory.peak_process_bytes if memory else None,
        "kv_tokens": memory.kv_cache_tokens if memory else None,
    }


def _quality(row: Row) -> dict[str, Any]:
    lowest = lowest_category(row)
    return {
        "worst_category": lowest.category if lowest else None,
        "kept": _finite(lowest.kept if lowest else None),
        "kept_low": _finite(lowest.kept_low if lowest else None),
        "kept_high": _finite(lowest.kept_high if lowest else None),
    }


def _speed(row: Row, level: int | None) -> dict[str, Any]:
    point = _believed(row, level)
    return {
        "tokens_per_second": _finite(point.output_tokens_per_second if point else None),
        "concurrency": level if point else None,
        "tokens_per_second_alone": _finite(row.tokens_per_second(1)),
        "ttft_p95_seconds": _finite(point.ttft.p95_seconds if point and point.completed else None),
        "tpot_p95_seconds": _finite(point.tpot.p95_seconds if point and point.completed else None),
    }


def _shares_of_the_machine(row: Row, level: int | None) -> dict[str, float | None]:
    decode, prefill = row.decode_share(level) if level is not None else None, row.prefill_share
    return {"decode_share": decode.share if decode else None, "prefill_share": prefill.share if prefill else None}


def _believed(row: Row, level: int | None) -> LoadPoint | None:
    point = row.closed_point(level) if level is not None else None
    return point if point and point.invalid is None else None


def _model_detail(record: RunRecord, row: Row) -> ModelDetail:
    categories = sorted(row.retention.categories, key=_loss_rank) if row.retention else []
    serving = row.serving
    return ModelDetail(
        name=row.name,
        categories=categories[:CATEGORIES_SHOWN],
        categories_left=max(0, len(categories) - CATEGORIES_SHOWN),
        flips=[_short(flip) for flip in row.characterization.flips[:MOST_FLIPS]] if row.characterization else [],
        load_points=row.load_points,
        soundness=row.soundness,
        parameters=_parameters(record, row),
        versions=_versions(record, row),
        memory_notes=serving.memory.notes if serving else [],
        warnings=[*(serving.warnings if serving else []), *failed_checks(row)],
        lineage=_lineage(record, row),
    )


def _short(flip: Flip) -> Flip:
    """As long as this version keeps them; a record may be of another."""
    texts = ("prompt", "expected", "baseline_answer", "artifact_answer")
    return flip.model_copy(update={name: getattr(flip, name)[:_MOST_CHARACTERS] for name in texts})


def _lineage(record: RunRecord, row: Row) -> list[tuple[str, str]]:
    checkpoint, entry = record.rows[0].checkpoint, entry_of(row.name)
    told = [
        ("source", _joined(_source(record), checkpoint.digest if checkpoint else None)),
        ("data", _joined(_suite_of_row(row) or _suite(record), _suite_digest(row))),
        ("data", _calibration(record, row)),
        ("recipe", _joined(str(record.config["name"]), None if row.method == UNQUANTIZED else f"entry {entry}")),
        ("recipe", ", ".join(f"{name} {value}" for name, value in _parameters(record, row).items())),
        ("engine", _made_by(row)),
        ("engine", _served_by(row.serving)),
        ("bytes", _joined(row.digest, f"{mebibytes(row.size_bytes)} MiB" if row.size_bytes else None)),
    ]
    return [(what, which) for what, which in told if which]


def _source(record: RunRecord) -> str:
    """What was quantized: in the checkpoint's own words, or as the recipe asks for it where there is none."""
    checkpoint = record.rows[0].checkpoint if record.rows else None
    if checkpoint and checkpoint.origin:
        return checkpoint.origin
    source = record.config.get("source", {})
    return str(source.get("id") or source.get("path") or source.get("package") or "unknown")


def _suite(record: RunRecord) -> str | None:
    return next((suite for row in record.rows if (suite := _suite_of_row(row))), None)


def _suite_of_row(row: Row) -> str | None:
    evaluation = row.measurement.evaluation if row.measurement else None
    return f"{evaluation.suite} {evaluation.suite_version}" if evaluation else None


def _suite_digest(row: Row) -> str | None:
    return row.measurement.evaluation.suite_digest if row.measurement else None


def _machine(record: RunRecord) -> str:
    return f"{record.machine.device_name}, {record.machine.threads} threads"


def _calibration(record: RunRecord, row: Row) -> str | None:
    wanted = row.artifact.calibration_digest if row.artifact else None
    results = [one.result.record for one in record.outcomes if one.result.stage == "calibrate"]
    found = next((one for one in results if wanted and one and one.get("digest") == wanted), None)
    if found is None:
        return _joined("calibration", wanted) if wanted else None
    rows = CalibrationRecord.model_validate(found)
    return _joined(
        f"calibration: {rows.rows:,} rows, {rows.tokens:,} tokens of {rows.source}, seed {rows.seed}", wanted
    )


def _parameters(record: RunRecord, row: Row) -> dict[str, Any]:
    """As they were run, defaults included; as they were asked for where nothing was made."""
    if row.artifact:
        return {"method": row.method} | row.artifact.parameters
    return dict(record.config.get("methods", {}).get(entry_of(row.name), {}))


def _made_by(row: Row) -> str | None:
    if row.artifact is None:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in row.artifact.engine_versions.items())
    made = f"made by {row.artifact.engine}" + (f" ({versions})" if versions else "")
    return f"{made} on {row.artifact.quantize_device} in {row.artifact.quantize_dtype}"


def _served_by(serving: ServingRecord | None) -> str | None:
    if serving is None:
        return None
    kernel = f", kernel {serving.quantization_kernel}" if serving.quantization_kernel else ""
    return f"served by {serving.engine} {serving.engine_version} in {serving.dtype}{kernel}"


def _versions(record: RunRecord, row: Row) -> dict[str, str]:
    stages = [f"{kind}:{row.name}" for kind in ("quantize", "inspect", "measure")]
    found: dict[str, str] = {}
    for outcome in record.outcomes:
        if outcome.name in stages:
            found |= outcome.result.versions
    return dict(sorted(found.items()))


def _loss_rank(kept: CategoryRetention) -> tuple[bool, float, float]:
    """Ascending with the lower end of what was kept, then with what was kept; what has neither comes last."""
    value, low = _finite(kept.kept), _finite(kept.kept_low)
    if value is None:
        return _UNRANKED
    return (False, value if low is None else low, value)


_UNRANKED = (True, 0.0, 0.0)


def _joined(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
