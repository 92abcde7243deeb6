"""A search over serving parameters: one server and one load test for each cell of a grid, kept as stages are."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import yaml
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from configs.names import entry_of
from pipelines.execution.fork_servers import ForkServers
from pipelines.execution.run import RunObserver
from pipelines.execution.runner import Runner
from pipelines.execution.shared_machine import SharedMachine
from pipelines.execution.stage_work import WorkHere
from pipelines.execution.tune_choice import choose, failed_cell, measured_cell
from pipelines.execution.workspace import Workspace
from pipelines.planning.interpreters import interpreter_of
from pipelines.planning.open_run import OpenRun, check_device, check_machines, known_checkpoint
from pipelines.planning.preflight import check_rules
from pipelines.planning.stages import Stage
from pipelines.recipe.executor_config import RayExecutor
from pipelines.recipe.run_config import RunConfig
from pipelines.recipe.tune_config import AtConcurrency, TuneConfig, cell_load, cell_name
from pipelines.records.events import StageOutcome
from pipelines.records.tune_record import TABLE_FILE, WINNER_FILE, TuneCell, TuneRecord
from registry.contracts import ServingRecord
from registry.files import write_text_atomically
from serving_checks.processes.scratch import scratch_folder


def open_tune(run: OpenRun) -> OpenRun:
    """The stages of a search instead of those of a run: what makes the model, then a stage for each cell.

    Raises:
        RequestError: The recipe has no `tune` section, or one that does not fit the rest of it.
    """
    config = run.context.config
    tune = _tune_of(config)
    if isinstance(config.executor, RayExecutor):
        raise RequestError(
            "a tuner's cells are measured on this machine, and the recipe's `executor` is ray",
            remedy="--set 'executor={kind: local}' on one of the nodes",
        )
    by_name = {stage.name: stage for stage in run.stages}
    measured = by_name.get(f"measure:{tune.model}")
    if measured is None or tune.model != entry_of(tune.model):
        names = ", ".join(subject for subject in run.subjects if subject == entry_of(subject))
        raise RequestError(
            f"`tune.model` is {tune.model!r}, which this recipe does not make", remedy=f"write one of {names}"
        )
    inputs = {role: name for role, name in measured.inputs.items() if role != "baseline"}
    same = {key: measured.config[key] for key in ("dtype", "device", "device_name", "threads", "load_text")}
    load = cell_load(config.load, tune).model_dump(mode="json", exclude={"prompts": {"file"}})
    cells = [
        replace(
            measured,
            kind="tune",
            subject=cell_name(parameters),
            config={**same, "load": load, "serving": _serving(config, parameters)},
            inputs=inputs,
            interpreter=interpreter_of(config.environments["tune"], run.context.machine.device)
            if "tune" in config.environments
            else measured.interpreter,
            profile=False,
            proofs=None,
        )
        for parameters in tune.cells()
    ]
    return replace(run, stages=[*_needed(by_name, inputs.values()), *cells])


def execute_tune(run: OpenRun, workspace: Workspace, observer: RunObserver) -> TuneRecord:
    """Measure every cell that was not measured before, and write table and winner into the run's folder.

    Args:
        run: What `open_tune` gave.
        workspace: Where results are kept and looked for.
        observer: Is told of progress; there are no rows.

    Raises:
        StageError: The model that is to be served could not be made.
    """
    config, machine = run.context.config, run.context.machine
    tune = _tune_of(config)
    check_device(machine)
    check_machines(config.serving, workspace.root)
    run_dir = workspace.new_run_dir(f"{config.name}-tune")
    with scratch_folder(), ForkServers(config, machine, run_dir / "logs") as fork_servers:
        shared = SharedMachine(workspace)
        work = WorkHere(run.context, workspace, run_dir, shared, fork_servers)
        runner = Runner(run.context, workspace, run_dir, observer.on_progress, machine=shared, work=work)
        outcomes = _run_stages(run, runner, observer)
    parameters = {cell_name(cell): cell for cell in tune.cells()}
    measured = [outcome for outcome in outcomes if outcome.name.startswith("tune:")]
    cells = [_cell(parameters[outcome.name.removeprefix("tune:")], outcome, tune) for outcome in measured]
    choice = choose(cells, tune.objective, tune.tie_share)
    model = runner.results[run.stages[-1].inputs["model"]].object
    assert model is not None, "what is served has files"  # noqa: S101
    record = TuneRecord(
        run_id=run_dir.name,
        run_dir=run_dir,
        started_at=run.started_at,
        config=config.as_json(),
        machine=machine,
        tune=tune,
        load=cell_load(config.load, tune),
        model_digest=model.digest,
        cells=choice.cells,
        winner=choice.winner.parameters if choice.winner else None,
        reason=choice.reason,
        winner_file=run_dir / WINNER_FILE if choice.winner else None,
    )
    if record.winner_file:
        write_text_atomically(record.winner_file, winner_yaml(record))
    write_text_atomically(run_dir / TABLE_FILE, record.model_dump_json(indent=2))
    return record


def winner_yaml(record: TuneRecord) -> str:
    """The winner (the first cell) as a recipe's `serving` section, to be pasted or included, with where it holds."""
    objective, slo = record.tune.objective, record.load.slo
    limits = slo.model_dump(exclude={"schema_version"}, exclude_none=True) if slo else {}
    arrivals = "of Poisson arrivals"
    if isinstance(objective, AtConcurrency):
        arrivals = f"with {objective.concurrency} requests in flight"
    comments = [
        f"The best of {len(record.cells)} cells for {record.tune.model} of {record.config['name']},",
        f"{record.model_digest},",
        f"on {record.machine.device_name}: {record.cells[0].goodput_requests_per_second:.4g} requests/s {arrivals}",
        f"that keep {', '.join(f'{name} {limit:g}' for name, limit in limits.items())}.",
        "Paste it into a recipe, or include it after one: `include: [recipe.yaml, serving.yaml]`.",
    ]
    body = yaml.safe_dump({"serving": record.winner}, sort_keys=False)
    return "".join(f"# {line}\n" for line in comments) + body


def _tune_of(config: RunConfig) -> TuneConfig:
    if config.tune is None:
        raise RequestError(
            "the recipe has no `tune` section",
            remedy="add one, such as `tune: {objective: {kind: concurrency, concurrency: 8}, "
            "slo: {ttft_seconds: 1.0}, grid: {max_num_seqs: [8, 32]}}`",
        )
    return config.tune


def _serving(config: RunConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    serving = config.serving
    try:
        merged = type(serving).model_validate(serving.model_dump() | dict(parameters))
    except ValidationError as error:
        raise RequestError(
            f"`tune.grid`: {error.errors()[0]['msg']}", remedy="take that value out of the grid"
        ) from None
    return merged.model_dump(mode="json")


def _needed(stages: Mapping[str, Stage], names: Iterable[str]) -> list[Stage]:
    """The stages called `names` and all that they read, in the run's order."""
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += stages[name].inputs.values()
    return [stage for name, stage in stages.items() if name in needed]


def _run_stages(run: OpenRun, runner: Runner, observer: RunObserver) -> list[StageOutcome]:
    outcomes = []
    for stage in run.stages:
        outcome = runner.run(stage)
        outcomes.append(outcome)
        observer.on_outcome(outcome, [])
        failure = outcome.result.failure
        if failure and stage.kind != "tune":
            raise StageError(f"{stage.name} failed, so there is nothing to tune: {failure.what}", remedy=failure.remedy)
        checkpoint = known_checkpoint(runner.results) if stage.kind == "prepare" else None
        if checkpoint:
            check_rules(run.context, checkpoint)
    return outcomes


def _cell(parameters: dict[str, Any], outcome: StageOutcome, tune: TuneConfig) -> TuneCell:
    if outcome.result.failure:
        return failed_cell(parameters, outcome.result.failure)
    return measured_cell(parameters, ServingRecord.model_validate(outcome.result.record), tune.objective)
