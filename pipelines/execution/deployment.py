"""Which model is deployed: the one that an alias points at, or one of a run, with what was measured of it."""

from configs.errors import RequestError
from pipelines.execution.finished_runs import digest_named, measured_row, run_named
from pipelines.execution.served_aliases import Aliases, Target
from pipelines.execution.workspace import Workspace
from pipelines.recipe.deploy_config import DeployConfig
from pipelines.recipe.registry_config import RegistryConfig, Role
from pipelines.records.run_record import RunRecord
from pipelines.rendering.deploy.champion import Champion, champion_of
from registry.ledger import Ledger
from registry.tracking.address import sqlite_uri

_ROLES: tuple[Role, ...] = ("champion", "candidate", "shadow", "baseline")


def champion_named(
    workspace: Workspace, wanted: str | None, alias: str | None, run: str | None, settings: DeployConfig
) -> Champion:
    """The model that is meant.

    Args:
        wanted: A model's name in the run, or the beginning of its digest; None for the alias's.
        alias: A role, or what the recipe calls its alias; the champion where neither is named.
        run: An id or its beginning; the last run for None.

    Raises:
        RequestError: There is no such model, or it was not measured.
        DamagedObject: Its bytes are not those of its digest.
    """
    if wanted is None:
        target = _pointed_at(workspace, run_named(workspace, run), alias or "champion")
        digest, name, version = target.artifact, target.name, target.version
    else:
        digest, name, version = digest_named(workspace, wanted, run), wanted, None
    record, row = measured_row(workspace, digest, name, run)
    return champion_of(row, record.run_id, record.registered_model, record.config, version, settings)


def _pointed_at(workspace: Workspace, record: RunRecord, alias: str) -> Target:
    config = RegistryConfig.model_validate(record.config.get("registry", {}))
    roles = {name: role for role in _ROLES for name in (role, config.aliases.of(role))}
    if alias not in roles:
        raise RequestError(f"there is no alias {alias!r}", remedy=f"known: {', '.join(roles)}")
    ledger = Ledger(config.ledger or sqlite_uri(workspace.ledger_file))
    target = Aliases(ledger, record.registered_model, config).target(roles[alias])
    if target is None:
        raise RequestError(
            f"nothing of {record.registered_model} is {alias}",
            remedy="quantbench registry promote NAME --to champion, or name a model of the run",
        )
    return target
