"""How vLLM is started where Kubernetes starts it: as the config serves it here."""

from configs.errors import RequestError
from pipelines.recipe.gateway_config import GatewayConfig
from serving_checks.engines.vllm import VllmServerConfig


def arguments_of(config: GatewayConfig) -> list[str]:
    """Of vLLM's command line, without the model's place and the port.

    Raises:
        RequestError: Another engine serves.
    """
    if not isinstance(config.serving, VllmServerConfig):
        raise RequestError(
            f"servers of {config.serving.engine} are not rendered, only vLLM's",
            remedy="set serving.engine to vllm, or render for httproute or envoy, which start no server",
        )
    return ["--served-model-name", config.model, "--dtype", config.dtype, *config.serving.arguments]
