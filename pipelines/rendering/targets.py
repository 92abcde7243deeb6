"""Which engines files are rendered for, and the way of one: rendered, held against the project's schema, told."""

import importlib
from collections.abc import Mapping

from configs.errors import RequestError
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.rendering.document import Rendered
from pipelines.rendering.validation import check_documents

TARGETS: Mapping[str, tuple[str, ...]] = {
    "httproute": ("pipelines.rendering.httproute:render_httproute", "gateway_api.json"),
    "argo-rollouts": (
        "pipelines.rendering.argo_rollouts:render_argo_rollouts",
        "argo_rollouts.json",
        "gateway_api.json",
    ),
    "kserve": ("pipelines.rendering.kserve:render_kserve", "kserve.json"),
    "envoy": ("pipelines.rendering.envoy:render_envoy",),
}
"""Target -> "module:function", then its schemas; Envoy has none but itself (`envoy --mode validate`)."""


def render(config: GatewayConfig, target: str) -> Rendered:
    """One target's file.

    Raises:
        RequestError: The config lacks what the target needs, or asks for what it cannot do.
        StageError: What was rendered is not what the target's schema takes.
    """
    if target not in TARGETS:
        raise RequestError(f"there is no target {target!r}", remedy=f"known: {', '.join(TARGETS)}")
    place, *schemas = TARGETS[target]
    module, _, function = place.partition(":")
    rendered: Rendered = getattr(importlib.import_module(module), function)(config)
    if schemas:
        check_documents(rendered.documents, *schemas)
    return rendered
