"""Where champion and candidate are served when others route to them: what rendered files name beside the policy."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from configs.base import StrictModel
from configs.quantities import Label
from registry.contracts import Endpoint

KubernetesName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""Of a Service, which has the strictest names (RFC 1035), and so of any other object."""
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$", max_length=253)]
"""Of a machine, or its IPv4 address."""
StorageUri = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+-]*://[A-Za-z0-9._/@-]+$", max_length=1000)]
"""As KServe fetches models: `pvc://CLAIM/FOLDER`, `s3://...`."""
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._/:@-]*$", max_length=250)]
Port = Annotated[int, Field(ge=1, le=65535)]


def pinned(image: str) -> str:
    """Refuse an image whose content changes under its name."""
    if ("@" not in image and ":" not in image.rpartition("/")[2]) or image.endswith(":latest"):
        raise ValueError("the image has no tag that stays: name its version, such as registry/server:v0.32.0")
    return image


class SideConfig(StrictModel):
    """One of the two servers; it runs already, or what is rendered for starts it."""

    service: KubernetesName
    """The Kubernetes Service that answers."""
    address: HostName | None = None
    """For Envoy and the observer, where they do not reach the Service by its name."""
    port: Port = 8000
    version: Label | None = None
    """Of the registered model, as pairs name it; the Service's name when left out."""
    served_model: Label | None = None
    """What the server calls the model, where it is not what clients call it."""
    storage: StorageUri | None = None
    """Where KServe and Argo Rollouts find the artifact."""

    def host(self, namespace: str) -> str:
        """Name or address by which it is asked."""
        return self.address or f"{self.service}.{namespace}.svc"


class RenderConfig(StrictModel):
    """What `quantbench shadow render` and `quantbench shadow observe` need to know of the place."""

    name: KubernetesName = "quantbench"
    """Of the rendered objects."""
    namespace: KubernetesName = "default"
    champion: SideConfig = SideConfig(service="champion")
    candidate: SideConfig = SideConfig(service="candidate")
    """What is promoted to `shadow`."""
    parent_gateway: KubernetesName = "gateway"
    """The Gateway API's Gateway that routes hang on."""
    verdict_service: KubernetesName = "quantbench-gateway"
    """The Service of `quantbench shadow up`, of which the verdict is asked."""
    step_minutes: Annotated[int, Field(ge=1, le=43_200)] = 10
    """At each of Argo's steps, before its verdict is asked."""
    verdict_minutes: Annotated[int, Field(ge=1, le=43_200)] = 1440
    """How long a step waits for pass or fail before it is inconclusive."""
    image: Annotated[ImageName, AfterValidator(pinned)] | None = None
    """What serves where Argo starts it; the engine's own when left out."""
    observer_port: Port = 9002
    """On loopback, where the observer hears of Envoy's traffic."""
    admin_port: Port = 9901
    """Envoy's own, on loopback."""

    @model_validator(mode="after")
    def _two_servers(self) -> Self:
        place = self.champion.host(self.namespace), self.champion.port
        if place == (self.candidate.host(self.namespace), self.candidate.port):
            raise ValueError(f"champion and candidate are both at {place[0]}:{place[1]}: a model is not its own shadow")
        return self

    def endpoint(self, side: SideConfig, model: str) -> Endpoint:
        """How a side is asked.

        Args:
            model: What clients call the model.
        """
        return Endpoint(
            base_url=f"http://{side.host(self.namespace)}:{side.port}",
            served_model_name=side.served_model or model,
            model_path="",
            max_model_len=0,
        )
