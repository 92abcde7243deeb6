"""Where a champion is served: what `quantbench deploy render` has to know beside what was measured."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Gibibytes, Label, Seconds, Share
from pipelines.recipe.render_config import ImageName, KubernetesName, Port, pinned

Storage = Annotated[
    str,
    StringConstraints(pattern=r"^(([a-z][a-z0-9+-]*://)[A-Za-z0-9._/@-]+|\.{0,2}/?[A-Za-z0-9._@-][A-Za-z0-9._/@-]*)$"),
    Field(max_length=1000),
]
"""A folder that `quantbench artifacts export` wrote, as its machine calls it, or its copy: `pvc://CLAIM/FOLDER`,
`s3://BUCKET/FOLDER`, `gs://BUCKET/FOLDER`."""
HttpAddress = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:/_-]+$", max_length=300)]
PythonPath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/+-]+$", max_length=300)]
RoleArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$", max_length=300)]
MachineType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]
Accelerator = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_]+$", max_length=60)]


class ScaleConfig(StrictModel):
    """How many servers there are, by what waits and how long users wait for the first token."""

    least: Annotated[Count, Field(ge=1)] = 1
    most: Annotated[Count, Field(ge=1)] = 4
    waiting: Annotated[Count, Field(ge=1)] | None = None
    """Requests that may wait at each server; a quarter of `max_num_seqs` when null."""
    ttft_seconds: Annotated[Seconds, Field(gt=0)] | None = None
    """Most that users wait for the first token; when null the recipe's SLO, else twice what was measured under the
    highest load at which nothing failed."""
    percentile: Literal[50, 90, 95, 99] = 95
    """Of the times to the first token."""
    rest_seconds: Annotated[Seconds, Field(ge=1, le=86_400)] = 300
    """Before servers are taken away again."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"`least` {self.least} is more than `most` {self.most}")
        return self


class DeployConfig(StrictModel):
    """Each has a default but for what only the owner of the place can know."""

    name: KubernetesName = "quantbench"
    """Of the rendered objects, the unit, the endpoint."""
    namespace: KubernetesName = "default"
    model: Label | None = None
    """What clients call it; the registered model's name when null."""
    port: Port = 8000
    storage: Storage | None = None
    """Where the exported folder is; each target says which kinds it takes."""
    image: Annotated[ImageName, AfterValidator(pinned)] | None = None
    """The container's; the engine's own, in the measured version, when null."""
    python: PythonPath = "/usr/local/lib/quantbench/bin/python"
    """Of an environment that has the engine, where no container is started."""
    headroom: Annotated[Share, Field(ge=0)] = 0.25
    """Beyond the measured peak of memory."""
    memory_gib: Annotated[Gibibytes, Field(gt=0)] | None = None
    """Of the machine's memory, in the measurement's place."""
    scale: ScaleConfig = ScaleConfig()
    prometheus: HttpAddress = "http://prometheus.monitoring.svc:9090"
    """Which KEDA asks."""
    parent_gateway: KubernetesName = "gateway"
    """The Gateway API's, for llm-d."""
    service_account: KubernetesName | None = None
    """That may read `storage`, where it is not a volume."""
    machine: MachineType | None = None
    """SageMaker's instance type or Vertex AI's machine type."""
    accelerator: Accelerator | None = None
    """Vertex AI's, such as NVIDIA_L4."""
    role: RoleArn | None = None
    """SageMaker's execution role."""
