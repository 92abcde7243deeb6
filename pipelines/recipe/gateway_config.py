"""What `quantbench shadow up` is asked: which registered model it serves, how, to whom, and what it keeps."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Label, Name, Seconds
from evals.judging.verdict_config import VerdictConfig
from pipelines.recipe.deadlines import Deadlines
from pipelines.recipe.render_config import RenderConfig
from registry.contracts.base import DType
from serving_checks.engines.base import AttachedEngine
from serving_checks.engines.table import AnyServingConfig, default_config, engine_of
from serving_checks.gateway.config import ListenConfig, LogConfig, MirrorConfig, PatienceConfig
from serving_checks.gateway.routing import RoutingConfig
from serving_checks.gateway.split import SplitConfig
from serving_checks.readings.cost import DevicePrice

DigestBeginning = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{6,64}$")]
"""Of an artifact's digest, as `quantbench artifacts list` shows it."""
_OF_REPLAYS = ("score", "agreement", "logprob", "preference")
"""Metrics that live traffic has no values of: they take known answers, the champion's tokens or a third model."""


class GatewayConfig(StrictModel):
    """One model's endpoint: the champion answers, the shadow sees a share, the ledger says which they are."""

    version: Literal[1]
    """Of this file's format."""
    name: Name
    """Of the folder in the workspace that has the pairs."""
    description: str = ""
    model: Label
    """What clients call the model."""
    run: Label = "last"
    """A run of the registered model, by its id or the beginning of it: its recipe says where the ledger is."""
    serving: AnyServingConfig = Field(default_factory=default_config)
    """How champion and shadow are served, each by a server that is started here."""
    attach: dict[DigestBeginning, AnyServingConfig] = {}
    """Servers that run already, by the artifact that each serves: its digest, or the beginning of it. Which bytes they
    serve is their owner's word."""
    dtype: DType | Literal["auto"] = "auto"
    listen: ListenConfig = ListenConfig()
    patience: PatienceConfig = PatienceConfig()
    mirror: MirrorConfig = MirrorConfig()
    split: SplitConfig = SplitConfig()
    routing: RoutingConfig = RoutingConfig()
    keep_prompts: bool = False
    """Keep prompts and answers in the pairs. Else only their hashes and lengths are kept."""
    keep_days: Annotated[Count, Field(ge=1)] = 30
    """Pairs older than that are deleted."""
    verdict: VerdictConfig = VerdictConfig()
    """How the pairs are to be judged. Frozen with the first pair, so that nobody chooses a rule by its outcome."""
    price: DevicePrice | None = None
    """Of the device that each server has; `configs/prices` has some to include. Without one no cost is told."""
    log: LogConfig = LogConfig()
    follow_seconds: Annotated[Seconds, Field(gt=0)] = 2
    """Between two looks at the ledger."""
    deadlines: Deadlines = Deadlines()
    """When to give up on a server; that of servers is read."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where a GPU answers, else the CPU."""
    render: RenderConfig = RenderConfig()
    """What files for other engines name."""

    def serving_of(self, artifact: str) -> AnyServingConfig:
        """How an artifact is served, known by its digest."""
        known = artifact.removeprefix("sha256:")
        return next((one for beginning, one in self.attach.items() if known.startswith(beginning)), self.serving)

    @model_validator(mode="after")
    def _one_server_an_artifact(self) -> Self:
        for one, serving in self.attach.items():
            if not isinstance(engine_of(serving), AttachedEngine):
                raise ValueError(f"`attach.{one}` is a server that runs already: say `engine: openai` and its address")
            longer = [other for other in self.attach if other != one and other.startswith(one)]
            if longer:
                raise ValueError(f"`attach` has {one} and {longer[0]}, which may be one artifact: write both in full")
        return self

    @model_validator(mode="after")
    def _steps_can_pass(self) -> Self:
        if not self.split.ramp:
            return self
        if "metrics" not in self.verdict.model_fields_set:
            raise ValueError(
                "`split.ramp` advances by a verdict: say by `verdict.metrics` what is to hold, such as {errors: 0.01,"
                " same: 0.5}"
            )
        never = [name for name in self.verdict.metrics.given if name in _OF_REPLAYS]
        if never:
            raise ValueError(f"live traffic has no values of {', '.join(never)}, so no step of `split.ramp` would pass")
        return self
