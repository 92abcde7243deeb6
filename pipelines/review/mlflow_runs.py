"""Runs that other machines recorded in the tracking server: what they left for this page (`shared_run`), and where that
cannot be read, what their metrics, parameters and tags tell of them, as `pipelines.stage_programs.record` writes them.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from configs.errors import RequestError
from configs.names import BASELINE, entry_of
from pipelines.records.rows import UNQUANTIZED
from pipelines.review.joining import VersionKey
from pipelines.review.one_run import DIGITS_OF_A_DIGEST, columns
from pipelines.review.page_data import CATEGORIES_SHOWN, CategoryColumn, Models, Notice, RunDetail, Runs
from pipelines.review.shared_run import MOST_SHARED_BYTES, SHARED_FILE, SharedRun, read_shared
from pipelines.review.short_json import rounded
from pipelines.review.summaries import RunSummary, ScoreIntervals, z_interval
from pipelines.stage_programs.serving_metrics import metric_name
from registry.tracking.address import scrubbed, sqlite_file, with_password, without_password
from registry.tracking.aliases import versions_of
from registry.tracking.recorded_runs import RecordedRun, RecordedRuns
from registry.tracking.rest import NoAnswerError

MOST_LISTED = 1000
"""Newest runs that are asked for."""
MOST_READ = 200
"""Of those that are not in the workspace: each takes a request for its models."""
_SPEED = re.compile(r"load\.(?P<prompts>[^.]+)\.concurrency_(?P<level>\d+)\.output_tokens_per_second")
_SCORE = re.compile(r"(?P<category>.+)\.(?P<metric>[^.]+)_stderr")
_SOURCES = ("source.id", "source.path", "source.package")
_VERDICTS = ("pass", "fail", "inconclusive")


class Tracking(NamedTuple):
    """Where runs are recorded."""

    uri: str
    """With `***` in its password's place."""
    experiment: str


class Elsewhere(NamedTuple):
    """What tracking stores know beside the workspace."""

    runs: list[SharedRun | RunSummary]
    """A summary where the rest is not known."""
    versions: dict[VersionKey, str]
    notices: list[Notice]
    asked: list[str]
    """Addresses that answered."""

    @property
    def summaries(self) -> list[RunSummary]:
        return [one.summary if isinstance(one, SharedRun) else one for one in self.runs]

    def detail(self, run_id: str) -> tuple[RunDetail, str]:
        """What is asked of one run, and its registered model; raises LookupError where it is not known."""
        for one in self.runs:
            if isinstance(one, SharedRun) and one.summary.run_id == run_id:
                return one.detail, one.summary.registered_model
        raise LookupError(f"nothing more is known of {run_id}")


def elsewhere(
    stores: Collection[Tracking],
    models: Collection[str],
    known: Collection[str],
    before: dict[tuple[Tracking, str], SharedRun | RunSummary],
) -> Elsewhere:
    """Ask every store once; one that does not answer costs its own runs only.

    Args:
        stores: Those that the workspace's runs were recorded in.
        models: Registered models whose versions are asked for.
        known: Ids of the workspace's runs.
        before: What was read earlier, by store and MLflow's id: a finished run changes no more. Is added to.
    """
    found = Elsewhere([], {}, [], [])
    for store in stores:
        try:
            opened = with_password(store.uri)
        except RequestError as error:
            found.notices.append(Notice(about="MLflow", text=f"{error.what}: {error.remedy}."))
            continue
        file = sqlite_file(opened)
        if file is not None and not file.exists():
            continue  # nothing was recorded yet
        try:
            found.runs.extend(_runs_of(store, opened, known, before, found.notices))
            of_runs = {one.registered_model for one in found.summaries}
            for model in dict.fromkeys([*models, *sorted(of_runs)]):
                versions = versions_of(opened, model)
                found.versions.update({(model, digest): version for digest, version in versions.items()})
            found.asked.append(without_password(store.uri))
        except NoAnswerError as error:
            text = (
                f"{without_password(store.uri)} does not answer: {scrubbed(str(error), opened)}. Runs that other"
                " machines recorded there are not shown; start it, or leave it out with --no-mlflow."
            )
            found.notices.append(Notice(about="MLflow", text=text))
    return found


def _runs_of(
    store: Tracking,
    opened: str,
    known: Collection[str],
    before: dict[tuple[Tracking, str], SharedRun | RunSummary],
    notices: list[Notice],
) -> Iterator[SharedRun | RunSummary]:
    runs = RecordedRuns(opened, store.experiment)
    missing = [run for run in runs.newest(MOST_LISTED) if run.run_id not in known]
    for run in missing[:MOST_READ]:
        if (store, run.id) not in before:
            before[store, run.id] = _run_of(runs, run, store)
        yield before[store, run.id]
    if len(missing) > MOST_READ:
        text = f"{len(missing) - MOST_READ} older runs of {without_password(store.uri)} are not shown here."
        notices.append(Notice(about="MLflow", text=text))


def _run_of(runs: RecordedRuns, run: RecordedRun, store: Tracking) -> SharedRun | RunSummary:
    content = runs.file_of(run, SHARED_FILE, MOST_SHARED_BYTES)
    shared = read_shared(content, run.run_id) if content is not None else None
    if shared is None:
        return summary_of_recorded(run, runs.models_of(run), store)
    # It was made before the run was recorded, on a machine that may reach the store by another address.
    here = {"written_ns": run.ended_ms * 1_000_000, "tracking": store.uri, "experiment": store.experiment}
    return shared.model_copy(update={"summary": shared.summary.model_copy(update=here)})


def summary_of_recorded(run: RecordedRun, children: Sequence[RecordedRun], store: Tracking) -> RunSummary:
    """What MLflow tells of one run.

    Args:
        run: The recipe's.
        children: Those of its models.
        store: Where they are.
    """
    models = sorted(children, key=lambda one: one.name != BASELINE)
    speeds = [_speeds(one) for one in models]
    prompts = _first_prompts(models, {mix for of_model in speeds for mix, _ in of_model})
    level = max((level for of_model in speeds for of, level in of_model if of == prompts), default=None)
    found, intervals = _categories(models)
    name = run.params.get("name", run.run_id)
    registered = _known(run.params.get("tracking.registered_model")) or name
    machine, suite = run.tags.get("quantbench.device", "unknown"), _known(run.params.get("evaluation.suite"))
    row = {
        "id": run.run_id,
        "started_at": datetime.fromtimestamp(run.started_ms / 1000, UTC),
        "recipe": name,
        "series": " · ".join(filter(None, (registered, suite, machine))),
        "source": next(filter(None, (_known(run.params.get(key)) for key in _SOURCES)), "unknown"),
        "machine": machine,
        "suite": suite,
        "registered_model": registered,
        "seconds": run.metrics.get("wall_seconds", (run.ended_ms - run.started_ms) / 1000),
        "recommended": None,
        "kind": None,
        "failed": sum("quantbench.failure" in one.tags for one in models),
        "page": None,
        "origin": "mlflow",
    }
    summary = RunSummary(
        size_bytes=0,
        written_ns=run.ended_ms * 1_000_000,
        runs=columns(Runs, [row]),
        models=columns(Models, [_model(one, prompts, level, found, place) for place, one in enumerate(models)]),
        categories=found,
        intervals=intervals,
        digests=[_known(one.params.get("artifact.digest")) for one in models],
        entries=[
            one.name if _method(one) != UNQUANTIZED and one.name == entry_of(one.name) else None for one in models
        ],
        measurements=[None] * len(models),
        ledger=_known(run.params.get("registry.ledger")),
        tracking=store.uri,
        experiment=store.experiment,
        price=None,
        notices=[],
        price_digest=None,
        recorded_id=run.run_id,
        champion=run.params.get("registry.aliases.champion", "champion"),
    )
    return RunSummary.model_validate(rounded(summary.model_dump()))


def _model(
    one: RecordedRun, prompts: str, level: int | None, found: Sequence[CategoryColumn], place: int
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(name for name in Models.model_fields if name != "schema_version")
    digest, verdict = _known(one.params.get("artifact.digest")), one.tags.get("quantbench.verdict")
    kept = [
        (column.kept[at], column.name, column.kept_low[at], column.kept_high[at])
        for column in found
        if place in column.model and column.kept[at := column.model.index(place)] is not None
    ]
    worst = min(kept, key=lambda one: one[0] or 0.0, default=(None,) * 4)
    speed = one.metrics.get(f"load.{prompts}.concurrency_{level}.output_tokens_per_second")
    failure = one.tags.get("quantbench.failure")
    return row | {
        "run": 0,
        "name": one.name,
        "method": _method(one),
        "digest": digest.removeprefix("sha256:")[:DIGITS_OF_A_DIGEST] if digest else None,
        "verdict": verdict if verdict in _VERDICTS and _method(one) != UNQUANTIZED else None,
        "failure": failure.splitlines()[0] if failure else None,
        "dtype": _known(one.params.get("serving.dtype")),
        "kernel": _known(one.params.get("serving.kernel")),
        "disk_bytes": _whole(one, "artifact_bytes"),
        "weights_bytes": _whole(one, "resident_weights_bytes"),
        "peak_bytes": _whole(one, "peak_process_bytes"),
        "kv_tokens": _whole(one, "kv_cache_tokens"),
        "kept": worst[0],
        "worst_category": worst[1],
        "kept_low": worst[2],
        "kept_high": worst[3],
        "tokens_per_second": speed,
        "concurrency": level if speed is not None else None,
        "tokens_per_second_alone": one.metrics.get(f"load.{prompts}.concurrency_1.output_tokens_per_second"),
        "ttft_p95_seconds": one.metrics.get(f"load.{prompts}.concurrency_{level}.ttft_p95_seconds"),
        "tpot_p95_seconds": one.metrics.get(f"load.{prompts}.concurrency_{level}.tpot_p95_seconds"),
    }


def _categories(models: Sequence[RecordedRun]) -> tuple[list[CategoryColumn], list[ScoreIntervals]]:
    """Those in which most was lost first."""
    metrics = {
        match["category"]: match["metric"]
        for one in models
        for name in one.metrics
        if (match := _SCORE.fullmatch(name)) and match["metric"] != "retention"
    }
    found: list[tuple[float, CategoryColumn, ScoreIntervals]] = []
    for category, metric in metrics.items():
        asked = [place for place, one in enumerate(models) if f"{category}.{metric}" in one.metrics]
        values = [models[place].metrics for place in asked]
        column = CategoryColumn(
            name=category,
            unit="perplexity" if "perplexity" in metric else "share",
            model=asked,
            score=[of.get(f"{category}.{metric}") for of in values],
            kept=[of.get(f"{category}.kept") for of in values],
            kept_low=[of.get(f"{category}.kept_low") for of in values],
            kept_high=[of.get(f"{category}.kept_high") for of in values],
            verdict=[_verdict(models[place].tags, category) for place in asked],
        )
        ends = [z_interval(of.get(f"{category}.{metric}"), of.get(f"{category}.{metric}_stderr")) for of in values]
        lowest = min((kept for kept in column.kept if kept is not None), default=math.inf)
        found.append((lowest, column, ScoreIntervals(low=[low for low, _ in ends], high=[high for _, high in ends])))
    worst = sorted(found, key=lambda one: one[0])[:CATEGORIES_SHOWN]
    return [column for _, column, _ in worst], [interval for _, _, interval in worst]


def _verdict(tags: Mapping[str, str], category: str) -> Any:
    said = tags.get(f"gate.{category}")
    return said if said in _VERDICTS else None


def _first_prompts(models: Sequence[RecordedRun], mixes: Collection[str]) -> str:
    """The prompt mix whose speeds are told; none where records from before it was written hold several."""
    told = next(filter(None, (_known(one.params.get("serving.prompts")) for one in models)), None)
    return metric_name(told) if told else next(iter(mixes)) if len(mixes) == 1 else ""


def _speeds(one: RecordedRun) -> list[tuple[str, int]]:
    """Prompt mix and level of each load test of a closed loop."""
    return [(match["prompts"], int(match["level"])) for name in one.metrics if (match := _SPEED.fullmatch(name))]


def _method(one: RecordedRun) -> str:
    return one.tags.get("quantbench.method", UNQUANTIZED)


def _whole(one: RecordedRun, metric: str) -> int | None:
    value = one.metrics.get(metric)
    return None if value is None or not math.isfinite(value) else int(value)


def _known(value: str | None) -> str | None:
    """A parameter of MLflow is text, None too."""
    return None if value in (None, "", "None") else value
