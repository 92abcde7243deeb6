"""Which model a side of a replay is: a folder, an object of the store, a run's row, or a server that runs already."""

from pathlib import Path
from typing import NamedTuple

from configs.errors import RequestError
from configs.names import BASELINE
from pipelines.execution.finished_runs import run_named
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord
from pipelines.planning.served_folder import checked_folder
from pipelines.recipe.replay_config import ReplayConfig, ReplayedModelConfig
from pipelines.records.run_record import RunRecord
from quantizers.checkpoints.chat_templates import has_chat_template
from registry.contracts import ReplayedModel
from registry.contracts.base import DType
from registry.hashing import manifest_of
from registry.store import Store
from serving_checks.engines.base import LaunchedEngine, ServingConfig
from serving_checks.engines.table import engine_of

_LAST = "last"
_RECOMMENDED = "recommended"


class ServedModel(NamedTuple):
    """A side that was found, and can be served here."""

    name: str
    folder: Path
    serving: ServingConfig
    dtype: DType

    @property
    def runs_already(self) -> bool:
        return not isinstance(engine_of(self.serving), LaunchedEngine)

    def record(self) -> ReplayedModel:
        """With the digest of its bytes, which are read for it.

        Raises:
            StageError: It is an object of a store and damaged.
        """
        engine = engine_of(self.serving)
        return ReplayedModel(
            name=self.name,
            digest=None if self.runs_already else _digest_of(self.folder),
            engine=engine.name,
            engine_version=engine.version() or "unknown",
            dtype=self.dtype,
        )


def served_model(
    side: ReplayedModelConfig, config: ReplayConfig, workspace: Workspace, machine: MachineRecord, *, chats: bool
) -> ServedModel:
    """Find a side's model, and check that it can be served as the config says.

    Args:
        chats: Some prompts are conversations.

    Raises:
        RequestError: There is none, several are meant, or it cannot be served; nothing was started.
    """
    serving = side.serving or config.serving
    name, folder = _named(side, serving, workspace)
    served = checked_folder(folder, serving, side.dtype, machine)
    for wish in ("score_answers", "logprobs"):
        if getattr(config.asking, wish) and not engine_of(serving).gives_logprobs:
            raise RequestError(
                f"the engine {serving.engine} gives no log-probabilities, which `asking.{wish}` needs",
                remedy=f"set asking.{wish}=false, or serve both models with an engine that gives them",
            )
    if chats and not side.runs_already and not has_chat_template(folder):
        raise RequestError(
            f"some prompts are conversations, and {name} has no chat template",
            remedy="replay prompts of the completions API, or take a model that was made for conversations",
        )
    return ServedModel(name, folder, serving, served.dtype)


def _named(side: ReplayedModelConfig, serving: ServingConfig, workspace: Workspace) -> tuple[str, Path]:
    if side.model is not None:
        return str(side.model), side.model.resolve()
    if side.run is not None:
        run = run_named(workspace, None if side.run == _LAST else side.run)
        return f"{side.name} of run {run.run_id}", workspace.store.path(_digest_in(run, side.name or ""))
    if side.artifact is not None:
        digest = workspace.store.resolve(side.artifact)
        return digest, workspace.store.path(digest)
    return str(getattr(serving, "base_url", serving.engine)), Path()


def _digest_in(run: RunRecord, name: str) -> str:
    """The digest of a run's model."""
    if name == _RECOMMENDED:
        recommendation = run.recommendation
        if recommendation is None or recommendation.digest is None:
            raise RequestError(
                f"run {run.run_id} recommends no artifact" + (f": {recommendation.sentence}" if recommendation else ""),
                remedy="name one of its artifacts instead of `recommended`",
            )
        return recommendation.digest
    row = next((row for row in run.rows if row.name == name), None)
    if row is None:
        raise RequestError(
            f"run {run.run_id} has no model {name}",
            remedy=f"name one of {', '.join(row.name for row in run.rows)}, or {_RECOMMENDED}",
        )
    made = row.checkpoint if name == BASELINE else row.artifact
    if made is None:
        raise RequestError(
            f"{name} of run {run.run_id} was not made" + (f": {row.failure}" if row.failure else ""),
            remedy="run its recipe again, or name another of its models",
        )
    return made.digest


def _digest_of(folder: Path) -> str:
    """Of a folder's bytes; those of an object of a store are held against its digest."""
    found = Store.around(folder)
    if found is None:
        return manifest_of(folder).digest
    store, digest = found
    store.open(digest)
    return digest
