"""What pairs, or a run's items, say of routes between two artifacts, and the record that a gateway reads."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import RequestError, StageError
from configs.reading.json_text import parse_json, read_json_object
from evals.judging.pairing import paired
from evals.judging.routed_items import RoutedItems, Side, items_of_pairs, items_of_samples
from evals.judging.routes import chosen_of, judge_routes
from pipelines.execution.finished_runs import run_named
from pipelines.execution.shadow_verdict import record_of_pairs
from pipelines.execution.workspace import Workspace
from pipelines.records.run_record import RunRecord
from registry.contracts import EvaluationRecord, MeasurementRecord, RouteRecord
from registry.contracts.gateway import GATEWAY_FILE, PAIRS_FILE
from registry.contracts.route import RouteKind
from registry.pair_database import read_pairs_of, read_trial
from registry.pairs import pair_table, read_pair_table
from registry.sealed import DamagedFile, read_sealed
from serving_checks.replay.classes import ClassesConfig, class_of
from serving_checks.replay.log_formats import NoRequest
from serving_checks.replay.prompts import prompt_of_body

BASELINE = "baseline"
_MEASURED = "measure:"


class Routed(NamedTuple):
    """What routes are judged from."""

    source: str
    cheap: str | None
    """Digests; None where the records name none."""
    precise: str | None
    items: RoutedItems
    class_by: dict[str, Any] | None
    """How classes were found; None where that is not known."""


class Wanted(NamedTuple):
    """What a route has to keep."""

    loss: float
    """A fraction."""
    alpha: float
    least_share: float
    kinds: Sequence[RouteKind]


def pairs_to_route(folder: Path, cheap: Side, classes: ClassesConfig | None) -> Routed:
    """The pairs of a replay or a gateway; of a gateway's those of the newest trial.

    Args:
        cheap: Whose answers are the cheap ones.
        classes: Find classes anew by these rules, in prompts that were kept.

    Raises:
        RequestError: The folder holds none that say anything, or prompts were not kept.
        StageError: A file in it is damaged.
    """
    path = record_of_pairs(folder, ", or a run by --run")
    told = read_json_object(path)
    if path.name == GATEWAY_FILE:
        table, digests = _newest_trial(folder / PAIRS_FILE)
        class_by = told.get("class_by")
    else:
        table = read_pair_table(folder)
        if told.get("finished_at") is None:
            table = _without_gaps(table)
        digests = {side: told.get(side, {}).get("digest") for side in ("champion", "candidate")}
        class_by = told.get("config", {}).get("class_by")
    if not table.num_rows:
        raise RequestError(f"{folder} holds no pairs", remedy="record some first")
    items = _with_texts(items_of_pairs(table, cheap))
    precise: Side = "champion" if cheap == "candidate" else "candidate"
    routed = Routed(str(folder), digests[cheap], digests[precise], items, class_by)
    return _classed(routed, classes) if classes else routed


def run_to_route(workspace: Workspace, run: str | None, artifact: str | None, classes: ClassesConfig | None) -> Routed:
    """The items of a run, that its baseline and an artifact were both asked.

    Args:
        run: Its id, or the beginning of it; the last one for None.
        artifact: The row's name; the only one for None.

    Raises:
        RequestError: There is no such run or artifact, or it was not measured.
        StageError: The samples are damaged, or do not pair.
    """
    record = run_named(workspace, run)
    measured = [
        one.name.removeprefix(_MEASURED)
        for one in record.outcomes
        if one.name.startswith(_MEASURED) and one.result.object
    ]
    names = [name for name in measured if name != BASELINE]
    if artifact is None and len(names) == 1:
        artifact = names[0]
    if artifact is None or artifact not in names:
        raise RequestError(
            f"{record.run_id} has no measured artifact {artifact}"
            if artifact
            else f"which artifact of {record.run_id}?",
            remedy=f"name one by --artifact: {', '.join(names) or 'none was measured'}",
        )
    precise, precise_samples = _measured(record, BASELINE, workspace)
    cheap, cheap_samples = _measured(record, artifact, workspace)
    items = items_of_samples(paired(precise, precise_samples, cheap, cheap_samples))
    source = f"{artifact} beside the baseline of {record.run_id}"
    routed = Routed(source, cheap.model_digest, precise.model_digest, items, None)
    return _classed(routed, classes) if classes else routed


def route_of(routed: Routed, wanted: Wanted, tell: Callable[[str], None]) -> RouteRecord:
    """Judge the routes.

    Args:
        tell: Is told which methods the records say nothing of.
    """
    judged, missing = judge_routes(
        routed.items,
        wanted.kinds,
        loss=wanted.loss,
        alpha=wanted.alpha,
        least_share=wanted.least_share,
        class_by=routed.class_by,
    )
    for kind, why in missing.items():
        tell(f"{kind} left out: {why}")
    chosen = chosen_of(judged)
    rule = {chosen.outcome.kind: chosen.rule} if chosen else {}
    return RouteRecord.model_validate(
        {
            "source": routed.source,
            "cheap": routed.cheap,
            "precise": routed.precise,
            "quality": routed.items.quality,
            "loss": wanted.loss,
            "alpha": wanted.alpha,
            "least_share": wanted.least_share,
            "items": len(routed.items),
            "left_out": routed.items.left_out,
            "items_digest": routed.items.digest,
            "outcomes": [one.outcome for one in judged],
            "chosen": chosen.outcome.kind if chosen else None,
            "made_at": datetime.now(UTC),
        }
        | rule
    )


def read_route(path: Path) -> RouteRecord:
    """A route that may be followed.

    Raises:
        RequestError: There is no such file, it was changed, or it holds no rule that a gateway can follow.
    """
    try:
        record = read_sealed(path, RouteRecord)
    except (FileNotFoundError, DamagedFile) as error:
        raise RequestError(
            f"{path} is no route: {error}", remedy="write one by `quantbench shadow route FOLDER --output FILE`"
        ) from error
    if record.chosen is None:
        raise RequestError(
            f"{path}: the records support no route", remedy="calibrate one that they do, or leave it out of the config"
        )
    if record.cheap is None or record.precise is None:
        raise RequestError(
            f"{path} names no artifacts, since a server that ran already was asked",
            remedy="replay two artifacts of the workspace, and calibrate on those pairs",
        )
    if record.classes is not None and record.classes.class_by is None:
        raise RequestError(
            f"{path} routes by classes of the records, and does not say how a prompt's class is found",
            remedy="calibrate with --classes RULES, which a gateway can follow",
        )
    return record


def _without_gaps(table: Any) -> Any:
    """The pairs before the first that is missing: which answers are late depends on the answers."""
    numbers = table["number"].to_numpy()
    missing = np.flatnonzero(numbers != np.arange(len(numbers)))
    return table.slice(0, int(missing[0])) if len(missing) else table


def _newest_trial(path: Path) -> tuple[Any, dict[str, str | None]]:
    """The pairs of two artifacts, and which they are."""
    kept = read_trial(path)
    if kept is None:
        return pair_table([]), {"champion": None, "candidate": None}
    digests = {"champion": kept.trial.champion or None, "candidate": kept.trial.candidate or None}
    return read_pairs_of(path, kept.trial.name), digests


def _with_texts(items: RoutedItems) -> RoutedItems:
    """Prompts as texts: a pair keeps them as bodies."""
    bodies = [parse_json(text) if text else None for text in items.texts]
    texts = [_text_of(name, body) if body else "" for name, body in zip(items.ids, bodies, strict=True)]
    return replace(items, texts=texts)


def _text_of(name: str, body: dict[str, Any]) -> str:
    try:
        return prompt_of_body(name, body).text
    except NoRequest as error:
        raise StageError(f"pair {name} holds a prompt that is none: {error}", remedy="record the pairs anew") from error


def _classed(routed: Routed, classes: ClassesConfig) -> Routed:
    """Classes found anew. A prompt whose class cannot be known has none, so that the precise one answers it."""
    items = routed.items
    if classes.metadata is not None:
        raise RequestError("--classes: the metadata of prompts is not kept", remedy="name `rules` there")
    if any(rule.tools is not None for rule in classes.rules):
        raise RequestError(
            "--classes: whether a request named tools is not known of every record",
            remedy="name `tools` in the replay's or the gateway's `class_by`, and record the pairs by it",
        )
    if not all(items.texts):
        raise RequestError(
            "--classes: the prompts' words were not kept, so their classes cannot be found",
            remedy="record with `keep_prompts: true`, or with `class_by` in the config",
        )
    found = [_class_of(text, classes) for text in items.texts]
    return routed._replace(items=replace(items, classes=found), class_by=classes.model_dump(mode="json"))


def _class_of(text: str, classes: ClassesConfig) -> str:
    try:
        return class_of({}, text, {}, classes)
    except NoRequest:
        return ""


def _measured(record: RunRecord, name: str, workspace: Workspace) -> tuple[EvaluationRecord, Path]:
    """A model's evaluation, and where its samples lie."""
    result = next((one.result for one in record.outcomes if one.name == f"{_MEASURED}{name}"), None)
    if result is None or result.record is None or result.object is None:
        raise RequestError(
            f"{name} was not measured in {record.run_id}", remedy="run its recipe again: what was measured is kept"
        )
    evaluation = MeasurementRecord.model_validate(result.record).evaluation
    return evaluation, workspace.store.open(result.object.digest) / evaluation.samples_file
