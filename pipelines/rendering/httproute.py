"""Gateway API: one HTTPRoute with weights for the split and a mirror for the shadow."""

from typing import Any

from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.render_config import SideConfig
from pipelines.rendering.document import WHOLE, Rendered, weight_of
from pipelines.rendering.sides import check_names
from serving_checks.gateway.asked import CHAT, COMPLETIONS

_SAME_NAME = (
    "The request's body passes as it is, to the mirror too, so both servers have to be started with the name that"
    " clients use (--served-model-name)."
)
_NO_VERDICT = (
    "The mirror's answers are thrown away by the route (GEP-3171), so there are no pairs and no verdict: render for"
    " Envoy, or keep `quantbench shadow up`, where one is wanted."
)


def render_httproute(config: GatewayConfig) -> Rendered:
    """The route; it needs Gateway API 1.3 for the mirror's fraction (GEP-3171, extended support)."""
    check_names(config, "champion", "candidate")
    cannot = [
        _SAME_NAME,
        _NO_VERDICT,
        "Weights are drawn for each request: a client is not kept by the same model (there is no hash in a weight).",
        "API keys, the body's size and the patience with a server are left to the Gateway and its policies.",
        "The mirror is not bounded: a slow candidate is asked all the same, as its Gateway does it.",
        "It does not follow the ledger: who is champion is what the Services point at.",
    ]
    commands = ["kubectl apply --server-side -f httproute.yaml"]
    purpose = f"Gateway API: the way of requests for {config.model} to champion and candidate."
    candidate = config.render.candidate
    route = route_of(config, weight_of(config.split.share), mirror_of(config, candidate.service, candidate.port))
    return Rendered("httproute.yaml", purpose, cannot, commands, [route])


def route_of(config: GatewayConfig, weight: int, mirror: list[dict[str, Any]]) -> dict[str, Any]:
    """An HTTPRoute: what is asked of a model is split and mirrored, all else goes to the champion.

    Args:
        weight: The candidate's, of WHOLE.
        mirror: Filters, as `mirror_of` makes them.
    """
    render = config.render
    champion, candidate = _backend(render.champion), _backend(render.candidate)
    asked: dict[str, Any] = {
        "matches": [{"method": "POST", "path": {"type": "Exact", "value": path}} for path in (COMPLETIONS, CHAT)],
        "backendRefs": [{**champion, "weight": WHOLE - weight}, {**candidate, "weight": weight}],
    }
    if mirror:
        asked["filters"] = mirror
    models = {
        "matches": [{"method": "GET", "path": {"type": "PathPrefix", "value": "/v1/models"}}],
        "backendRefs": [champion],
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": render.name, "namespace": render.namespace},
        "spec": {"parentRefs": [{"name": render.parent_gateway}], "rules": [asked, models]},
    }


def mirror_of(config: GatewayConfig, service: str, port: int) -> list[dict[str, Any]]:
    """Filters that send a copy of the mirrored share to a Service; none where nothing is mirrored."""
    if not config.mirror.share:
        return []
    fraction = {"numerator": weight_of(config.mirror.share), "denominator": WHOLE}
    mirror = {"backendRef": {"name": service, "port": port}, "fraction": fraction}
    return [{"type": "RequestMirror", "requestMirror": mirror}]


def _backend(side: SideConfig) -> dict[str, Any]:
    return {"name": side.service, "port": side.port}
