"""The gateway's routes: whether the artifacts that it serves are those that a route was calibrated on."""

from configs.errors import RequestError
from pipelines.execution.routes import read_route
from pipelines.execution.served_aliases import Target
from pipelines.recipe.gateway_config import GatewayConfig
from registry.contracts import RouteRecord
from serving_checks.engines.table import engine_of
from serving_checks.gateway.observed import Arm
from serving_checks.gateway.routing import Router


def open_router(config: GatewayConfig, champion: Target, shadow: Target | None) -> Router | None:
    """Read the calibrated route, and check that it can be followed; None where nothing is routed.

    Raises:
        RequestError: It is no route, of other artifacts than those that are served, or the engine tells too little.
    """
    routing = config.routing
    if routing.calibration is None:
        return Router(routing.rules, None) if routing.rules else None
    record = read_route(routing.calibration)
    if config.split.share > 0 or config.split.ramp:
        raise RequestError(
            "`split` and `routing.calibration` both say who answers",
            remedy="set split.share=0 and no ramp, or leave the calibrated route out",
        )
    if record.cascade is not None and not engine_of(config.serving).gives_logprobs:
        raise RequestError(
            f"{routing.calibration} is a cascade, and the engine {config.serving.engine} gives no log-probabilities",
            remedy="serve with an engine that gives them, or calibrate `--method classes` or `--method classifier`",
        )
    if cheap_arm(record, champion, shadow) is None:
        raise RequestError(
            f"{routing.calibration} is a route between {_short(record.cheap)} (cheap) and {_short(record.precise)};"
            f" champion is {_short(champion.artifact)}, shadow {_short(shadow.artifact) if shadow else 'nothing'}",
            remedy="promote those two by `quantbench registry promote`, or calibrate a route between these",
        )
    return Router(routing.rules, record, routing.cheap_seconds)


def cheap_arm(record: RouteRecord, champion: Target, shadow: Target | None) -> Arm | None:
    """Who serves the route's cheap artifact; None where the two that are served are not the route's."""
    if shadow is None:
        return None
    arms: dict[tuple[str | None, str | None], Arm] = {
        (champion.artifact, shadow.artifact): "champion",
        (shadow.artifact, champion.artifact): "candidate",
    }
    return arms.get((record.cheap, record.precise))


def _short(digest: str | None) -> str:
    return (digest or "unknown").removeprefix("sha256:")[:12]
