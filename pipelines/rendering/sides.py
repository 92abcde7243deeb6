"""What a target needs of the two servers, asked before a file is made."""

from configs.errors import RequestError
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.render_config import SideConfig
from serving_checks.engines.base import Container
from serving_checks.engines.table import engine_of


def check_names(config: GatewayConfig, *names: str) -> None:
    """Refuse a server that calls the model by another name than clients do, where bodies pass as they are.

    Args:
        names: `champion`, `candidate`.

    Raises:
        RequestError: One does.
    """
    for name in names:
        side: SideConfig = getattr(config.render, name)
        if side.served_model not in (None, config.model):
            raise RequestError(
                f"the {name}'s server calls the model {side.served_model}, clients call it {config.model}, and no"
                " body is changed on its way there",
                remedy=f"start it with --served-model-name {config.model}, and take render.{name}.served_model out",
            )


def check_two_services(config: GatewayConfig) -> None:
    """Refuse two servers of one name, where Kubernetes tells them apart by it. Raises RequestError."""
    name = config.render.champion.service
    if name == config.render.candidate.service:
        raise RequestError(
            f"champion and candidate are both called {name}, and their servers get that name",
            remedy="set render.candidate.service to another name",
        )


def container_of(config: GatewayConfig) -> Container:
    """How a cluster starts the servers. Raises RequestError for an engine that it does not start."""
    container = engine_of(config.serving).container(config.model, config.dtype)
    if container is None:
        raise RequestError(
            f"no container is known for servers of {config.serving.engine}",
            remedy="name another serving.engine, or render for httproute or envoy, which start no server",
        )
    return container


def storage_of(config: GatewayConfig, name: str) -> str:
    """Where a side's artifact lies. Raises RequestError where that was not said."""
    side: SideConfig = getattr(config.render, name)
    if side.storage is None:
        raise RequestError(
            f"where the {name}'s artifact lies is not said",
            remedy=f"set render.{name}.storage, such as pvc://models/{name}",
        )
    return side.storage
