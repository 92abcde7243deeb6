"""`quantbench compare A B`"""

import argparse
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console

from configs.errors import RequestError
from evals.judging.characterize import characterize
from evals.judging.pairing import differing_conditions, paired
from evals.judging.retention import compare, policy_of
from evals.suites.resolve import load_suite
from evals.suites.suite import Suite
from pipelines.cli import VERDICT_EXIT_CODES
from pipelines.execution.finished_runs import last_run
from pipelines.execution.workspace import Workspace
from pipelines.records.run_record import RunRecord
from pipelines.report.console import print_comparison
from registry.contracts import EvaluationRecord, MeasurementRecord, StageResult

HELP = "say what B kept of A, category by category; both are models that were measured in the workspace"


class Measured(NamedTuple):
    """One measurement of one model."""

    label: str
    evaluation: EvaluationRecord
    directory: Path
    object_digest: str

    @property
    def samples_file(self) -> Path:
        return self.directory / self.evaluation.samples_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two models, and whose margins are meant."""
    model = "a name in the last run (such as baseline), or the beginning of a digest"
    parser.add_argument("baseline", metavar="A", help=f"what is compared with: {model}")
    parser.add_argument("artifact", metavar="B", help=f"what is judged: {model}")
    parser.add_argument(
        "--suite", metavar="SUITE", help="take margins from this suite (name or file); default: the one measured on"
    )


def execute(args: argparse.Namespace) -> int:
    """Print the comparison; 0 when every category passes, 1 when one fails, 4 when one is inconclusive."""
    workspace = Workspace(Path(args.workspace))
    last = last_run(workspace)
    baseline, artifact = _comparable(_find(args.baseline, workspace, last), _find(args.artifact, workspace, last))
    for one in (baseline, artifact):
        workspace.store.open(one.object_digest)
    suite = _suite(args.suite, baseline.evaluation, last)
    measured = baseline.evaluation, baseline.samples_file, artifact.evaluation, artifact.samples_file
    retention = compare(*measured, policy_of(suite))
    found = characterize(retention, paired(*measured))
    if args.json:
        names = {"baseline": baseline.label, "artifact": artifact.label}
        records = {"retention": retention, "characterization": found}
        print(json.dumps(names | {key: one.model_dump(mode="json") for key, one in records.items()}, indent=2))
    else:
        print_comparison(Console(), baseline.label, artifact.label, retention, found)
    return VERDICT_EXIT_CODES[retention.verdict]


def _find(wanted: str, workspace: Workspace, last: RunRecord | None) -> list[Measured]:
    """Every measurement of the model, the newest first.

    Raises:
        RequestError: No model is called so, or several are, or it was not measured.
    """
    outcomes = {one.name: one for one in last.outcomes} if last else {}
    names = [name.removeprefix("measure:") for name in outcomes if name.startswith("measure:")]
    if wanted in names:
        found = _measured(wanted, outcomes[f"measure:{wanted}"].result, workspace)
        if found is None:
            failures = [row.failure for row in last.rows if row.name == wanted and row.failure] if last else []
            raise RequestError(
                f"{wanted} was not measured in the last run{''.join(f': {text}' for text in failures)}",
                remedy="mend that and run its recipe again, or name another model",
            )
        return [found]
    return _by_digest(wanted, names, workspace)


def _by_digest(wanted: str, names: list[str], workspace: Workspace) -> list[Measured]:
    labels: dict[str, str] = {}
    measured: list[Measured] = []
    for entry in workspace.cache.entries():
        if entry.key.stage == "quantize" and entry.result.record:
            labels[str(entry.result.record["digest"])] = str(entry.result.record["name"])
        one = _measured("", entry.result, workspace) if entry.key.stage == "measure" else None
        if one is not None:
            measured.insert(0, one)
    prefix = wanted.removeprefix("sha256:")
    digests = {one.evaluation.model_digest for one in measured}
    matching = {digest for digest in digests if prefix and digest.removeprefix("sha256:").startswith(prefix)}
    if len(matching) > 1:
        raise RequestError(f"{len(matching)} measured models have digest {wanted}", remedy="give more of its digits")
    if not matching:
        raise RequestError(
            f"no measured model is called {wanted!r} in the last run, and none has such a digest",
            remedy=_near(wanted, names, digests),
        )
    (digest,) = matching
    label = f"{labels.get(digest, 'model')} {digest.removeprefix('sha256:')[:12]}"
    return [one._replace(label=label) for one in measured if one.evaluation.model_digest == digest]


def _near(wanted: str, names: list[str], digests: Iterable[str]) -> str:
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
    if near:
        return f"did you mean {' or '.join(near)}?"
    known = [*names, *sorted(digest.removeprefix("sha256:")[:12] for digest in digests)]
    return f"measured are: {', '.join(known)}" if known else "run a recipe first: nothing is measured in this workspace"


def _measured(label: str, result: StageResult, workspace: Workspace) -> Measured | None:
    if result.record is None or result.object is None:
        return None
    try:
        evaluation = MeasurementRecord.model_validate(result.record).evaluation
    except ValidationError:
        # Of an older version: what it holds cannot be read, so it was not measured.
        return None
    return Measured(label, evaluation, workspace.store.path(result.object.digest), result.object.digest)


def _comparable(baselines: list[Measured], artifacts: list[Measured]) -> tuple[Measured, Measured]:
    """The newest two that were measured on the same suite and items, and asked alike.

    Raises:
        RequestError: There are no such two.
    """
    same_items = [
        (baseline, artifact)
        for baseline in baselines
        for artifact in artifacts
        if baseline.evaluation.suite_digest == artifact.evaluation.suite_digest
    ]
    for one, other in same_items:
        if not differing_conditions(one.evaluation.conditions, other.evaluation.conditions):
            return one, other
    if same_items:
        one, other = same_items[0]
        found = differing_conditions(one.evaluation.conditions, other.evaluation.conditions)
        raise RequestError(
            f"{one.label} and {other.label} were not asked alike: {'; '.join(found)}",
            remedy="run one recipe with both: only answers to the same token ids compare",
        )
    one, other = baselines[0], artifacts[0]
    told = [f"suite {found.suite}, version {found.suite_version}" for found in (one.evaluation, other.evaluation)]
    what = (
        f"{one.label} and {other.label} were both measured on {told[0]}, but with other items, limits or data"
        if told[0] == told[1]
        else f"{one.label} was measured on {told[0]}, {other.label} on {told[1]}"
    )
    raise RequestError(what, remedy="run one recipe with both: only answers to the same questions compare")


def _suite(asked: str | None, evaluation: EvaluationRecord, last_run: RunRecord | None) -> Suite:
    """The suite whose margins are meant: the one asked for, else the one that the models were measured on.

    Raises:
        RequestError: It is not there any more, has changed since, or lacks a category that was measured.
    """
    if asked is not None:
        suite = load_suite(asked)
        known = [category.name for category in suite.categories]
        lacking = [score.category for score in evaluation.categories if score.category not in known]
        if lacking:
            raise RequestError(
                f"suite {suite.name} has no category {', '.join(lacking)}, which both were measured on: no margin"
                " is known",
                remedy=f"add it, with its margin, to a copy of the suite's file; it has {', '.join(known)}",
            )
        return suite
    candidates = [evaluation.suite]
    if last_run:
        candidates.insert(0, str(last_run.config.get("evaluation", {}).get("suite", evaluation.suite)))
    for candidate in candidates:
        try:
            suite = load_suite(candidate)
        except RequestError:
            continue
        if (suite.name, suite.version) == (evaluation.suite, evaluation.suite_version):
            return suite
    raise RequestError(
        f"suite {evaluation.suite}, version {evaluation.suite_version}, that both were measured on is not there",
        remedy="name the file that holds its margins with --suite",
    )
