"""A recipe that was read and found sound on this machine: what planning, running and the console start from."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from configs.errors import RequestError, blaming
from configs.loading import load_yaml_model
from evals.judging.expectation import check_expectations
from evals.suites.resolve import load_suite, resolve
from evals.suites.suite import Suite
from pipelines.planning.concurrency import check_concurrency
from pipelines.planning.context import JobContext
from pipelines.planning.data_parallel import check_data_parallel
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.memory_split import check_ranks
from pipelines.planning.preflight import (
    check_architecture,
    check_environments,
    check_families,
    check_memory,
    without_refused,
)
from pipelines.planning.stages import Fingerprints, Stage, stages_of
from pipelines.recipe.fingerprints import calibration_fingerprint, source_fingerprint
from pipelines.recipe.run_config import EvaluationConfig, RunConfig
from quantizers.calibration.documents import check_documents
from quantizers.checkpoints.hub_revision import at_commit
from quantizers.checkpoints.sources import HubSource, check_source, told_architecture
from quantizers.methods.imported import check_import, imported_sources
from registry.contracts import CheckpointRecord, StageResult
from registry.files import write_text_atomically
from serving_checks.engines.base import ServingConfig
from serving_checks.engines.table import engine_of


@dataclass(frozen=True)
class OpenRun:
    """A recipe that was read and found sound, on this machine."""

    context: JobContext
    stages: list[Stage]
    started_at: datetime
    start_seconds: float
    """`time.monotonic()` when the recipe began to be read: reading it and looking at its source is a run's time too."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Optional entry -> why this machine cannot make or serve it."""

    fingerprints: Fingerprints | None = None
    """What `stages` were made with, for nodes that make them again; None where all is done on this machine."""

    asked_revision: str | None = None
    """The hub's branch or tag that the recipe names, where the config has the commit that it pointed to."""

    @property
    def subjects(self) -> list[str]:
        """Row names in the order in which they are measured."""
        return [stage.subject for stage in self.stages if stage.kind == "measure"]


def open_run(recipe: Path, overrides: list[str]) -> OpenRun:
    """Read the recipe and check all that can be known before work begins; raises as `read_recipe` and `opened`."""
    return opened(read_recipe(recipe, overrides), datetime.now(UTC), time.monotonic())


def read_recipe(recipe: Path, overrides: list[str]) -> RunConfig:
    """What the recipe asks for, by itself.

    Raises:
        ConfigError: It is wrong, with file and line.
    """
    return load_yaml_model(recipe, RunConfig, overrides)


def opened(config: RunConfig, started_at: datetime, start_seconds: float) -> OpenRun:
    """Check all that can be known of what is asked for before work begins.

    Args:
        config: Of the recipe.
        started_at: When it began to be read, in UTC.
        start_seconds: The same by `time.monotonic()`.

    Raises:
        RequestError: The suite, the source or the calibration file is wrong; nothing was started.
        StageError: The source is a branch or tag of the hub, and the hub does not answer.
    """
    asked_revision = None
    with blaming("source"):
        if isinstance(config.source, HubSource) and (commit := at_commit(config.source)) != config.source:
            asked_revision = config.source.revision
            config = config.model_copy(update={"source": commit})
        check_source(config.source)
    config = _with_imports(config)
    # The other rules need the prepared checkpoint's shapes; this one need not wait for them.
    architecture = told_architecture(config.source)
    check_families(config.methods, architecture)
    check_documents(config.calibration)
    suite = _suite(config.evaluation)
    machine = detect_machine(config.device)
    config, left_out = without_refused(config, machine, architecture)
    check_architecture(config, machine, architecture)
    check_ranks(config.serving, machine)
    check_memory(config.serving, machine)
    check_data_parallel(config, machine)
    check_concurrency(config, machine)
    resolved = resolve(suite, config.evaluation.data)
    check_expectations(config.expect, resolved)
    context = JobContext(config, machine, suite, resolved.item_texts())
    fingerprints = Fingerprints(
        source=source_fingerprint(config.source),
        calibration=calibration_fingerprint(config.calibration),
        suite=resolved.digest,
        imported={name: source_fingerprint(one) for name, one in imported_sources(config.methods).items()},
    )
    stages = stages_of(config, machine, fingerprints)
    check_environments(config.environments, stages)
    return OpenRun(context, stages, started_at, start_seconds, left_out, fingerprints, asked_revision)


def _with_imports(config: RunConfig) -> RunConfig:
    """With the commits that the revisions of imported artifacts mean now; what this disk tells of them is looked at."""
    methods = dict(config.methods)
    for name, source in imported_sources(methods).items():
        with blaming("source"):
            commit = at_commit(source) if isinstance(source, HubSource) else source
        methods[name] = methods[name].model_copy(update={"source": commit})
        check_import(methods[name])
    return config.model_copy(update={"methods": methods})


def _suite(config: EvaluationConfig) -> Suite:
    suite = load_suite(config.suite)
    try:
        return suite.with_items(config.items)
    except ValueError as error:
        raise RequestError(
            f"`evaluation.items`: {error}", remedy="name a category of the suite, or leave it out"
        ) from None


def check_device(machine: MachineRecord) -> None:
    """Raise RequestError where the recipe names a device that is not there."""
    if machine.device == "cuda" and machine.gpu_memory_bytes is None:
        raise RequestError(
            "the recipe asks for device cuda, and no NVIDIA GPU answers here",
            remedy="run it on a GPU machine, see `quantbench doctor`; --set device=cpu tries it without",
        )


def check_machines(serving: ServingConfig, folder: Path) -> None:
    """Raise RequestError where the other machines that servers are shared out over cannot take them; asks them.

    Args:
        folder: That models will be served from; a file is written there for as long.
    """
    if not serving.over_machines:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".probe-{secrets.token_hex(16)}"
    write_text_atomically(file, file.name)
    try:
        check_machines_see(file, serving)
    finally:
        file.unlink(missing_ok=True)


def check_machines_see(file: Path, serving: ServingConfig) -> None:
    """The same, where a file is there already that each machine has to see."""
    if not serving.over_machines:
        return
    with TemporaryDirectory(prefix="quantbench-") as logs:
        found = engine_of(serving).refusals_of_machines(file, Path(logs) / "machines.log")
    if found:
        raise RequestError(
            "the machines that `serving` names cannot take its servers:" + "".join(f"\n  - {line}" for line in found),
            remedy="mend it as each line says, then run the same command",
            blame="machine",
        )


def known_checkpoint(results: Mapping[str, StageResult]) -> CheckpointRecord | None:
    """The checkpoint's record, when it was prepared before."""
    prepared = results.get("prepare")
    return CheckpointRecord.model_validate(prepared.record) if prepared and prepared.record else None
