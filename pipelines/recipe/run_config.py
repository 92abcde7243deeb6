"""One YAML file says what is wanted; each part's config belongs to the package that does the work."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.names import MethodName
from configs.quantities import Count, Label, LocalPath, Name
from evals.judging.expectation import Expectation
from evals.statistics.sequential import LookPlan
from evals.suites.local_data import DataConfig
from pipelines.recipe.deadlines import Deadlines
from pipelines.recipe.executor_config import ExecutorConfig, LocalExecutor
from pipelines.recipe.notify_config import NoticeConfig
from pipelines.recipe.policy import Policy, RecommendConfig
from pipelines.recipe.registry_config import RegistryConfig
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.recipe.tune_config import TuneConfig
from quantizers.base import IMPORTS, METHODS, MethodConfig, load_method
from quantizers.calibration.config import CalibrationConfig
from quantizers.checkpoints.sources import SourceConfig
from registry.contracts.base import DType
from registry.tracking.names import ExperimentName, RegisteredModelName, TrackingUri
from serving_checks.checks.config import ChecksConfig
from serving_checks.engines.table import AnyServingConfig, default_config
from serving_checks.load import LoadConfig
from serving_checks.readings.cost import DevicePrice

if TYPE_CHECKING:
    AnyMethodConfig = MethodConfig
else:
    # Built from the table, so that a new method needs no line here.
    AnyMethodConfig = Annotated[
        Union[tuple(load_method(name).config_type for name in [*METHODS, *IMPORTS])],  # noqa: UP007
        Field(discriminator="method"),
    ]


class EvaluationConfig(StrictModel):
    suite: Label
    """A suite of `configs/suites`, or the path of a suite file."""
    items: dict[Label, Annotated[Count, Field(ge=1)]] = {}
    """Category -> its items in all, in place of what the suite's file says."""
    data: DataConfig | None = None
    """Local rows for lm-eval's own tasks; without it they ask the hub. The embedded tasks need none."""
    num_concurrent: Count = Field(default=32, ge=1)
    """Requests kept open at each server; its `max_num_seqs` is what it works on at once."""
    data_parallel_size: Annotated[Count, Field(ge=1)] | Literal["auto"] = 1
    """Servers of a model that share the items, each with a copy of its weights, and on GPUs of its own. Only the
    evaluation is shared: load tests, memory and proofs are the first one's. `auto` takes as many as this machine has
    GPUs or cores for, and memory."""
    asked_alone: Count = Field(default=48, ge=0)
    """Items that are asked once more with nothing beside them, of methods whose answers depend on their neighbours
    (INT8)."""
    adaptive: bool = False
    """Ask artifacts a share of the items at a time, and no more in a category that passes or fails. The baseline is
    asked all items."""
    looks: LookPlan = LookPlan()
    """When `adaptive` evaluations look at what they have."""


class DTypeConfig(StrictModel):
    """`auto` takes what the device multiplies fast among what engine and method accept: `pipelines.planning.device`."""

    quantize: DType | Literal["auto"] = "auto"
    serve: DType | Literal["auto"] = "auto"


class TrackingConfig(StrictModel):
    uri: TrackingUri | None = None
    """An MLflow tracking address; `sqlite:///<workspace>/mlflow.db` when null."""
    experiment: ExperimentName = "quantbench"
    registered_model: RegisteredModelName | None = None
    """Name of the registered model that gets a version an artifact; the recipe's `name` when null."""
    weights: Literal["workspace", "upload"] = "workspace"
    """Where versions point: at the artifacts in the workspace (a server, which takes no local path, gets their
    manifests), or at copies that are uploaded to MLflow's artifact store."""
    required: bool = False
    """A store that cannot take the run stops it before work where that is known, and else makes the command end with
    3."""


class ConcurrencyConfig(StrictModel):
    """How much goes on at the same time on one machine; no part of any key."""

    stages: Annotated[Count, Field(ge=1)] | Literal["auto"] = "auto"
    """Stages at the same time, at most. `auto` takes two where that is surely faster, else one. Load tests, memory and
    proofs are alone in any case: `pipelines.planning.concurrency`."""


class RunConfig(StrictModel):
    """A complete run."""

    version: Literal[1]
    """Of this file's format."""
    name: Name
    description: str = ""
    source: SourceConfig
    calibration: CalibrationConfig
    methods: dict[MethodName, AnyMethodConfig] = Field(min_length=1)
    """Artifacts to make, in this order: name -> method and its parameters."""
    optional: list[MethodName] = []
    """Entries that are left out, and told, on a machine that cannot make or serve them. Any other stops the run there.
    """
    replicates: dict[MethodName, Annotated[Count, Field(ge=2, le=20)]] = {}
    """Entry of a calibrated method -> how many artifacts to make of it, each with a calibration seed of its own. The
    first is measured wholly, the others answer the suite."""
    evaluation: EvaluationConfig
    expect: list[Expectation] = []
    """Published scores that the baseline has to reproduce; a mismatch stops the run before anything is quantized."""
    serving: AnyServingConfig = Field(default_factory=default_config)
    """`engine` chooses what serves; each engine has keys of its own."""
    load: LoadConfig = LoadConfig()
    checks: ChecksConfig = ChecksConfig()
    tune: TuneConfig | None = None
    """What `quantbench tune` searches; runs do not read it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where a GPU answers, else the CPU."""
    dtype: DTypeConfig = DTypeConfig()
    environments: dict[Label, LocalPath] = {}
    """Stage or method name -> environment, for engines that cannot live beside ours: the name of one in
    `environments/`, made at its first use, or the path of an interpreter of your own, such as `venv/bin/python`."""
    policy: Policy = Policy()
    """What an artifact has to be besides good enough; nothing is measured for it."""
    recommend: RecommendConfig = RecommendConfig()
    """What is looked for among the artifacts that keep it."""
    price: DevicePrice | None = None
    """Of the device that serves; `configs/prices` has some to include. Without one no cost is told. Nothing is measured
    for it."""
    registry: RegistryConfig = RegistryConfig()
    """Where moves of aliases are written down, and who approves: `quantbench registry`."""
    deadlines: Deadlines = Deadlines()
    """When to give up on what does not get on; no part of any key."""
    tracking: TrackingConfig = TrackingConfig()
    notify: list[NoticeConfig] = []
    """Who is told of failures, verdicts and regressions of a run."""
    schedule: ScheduleConfig | None = None
    """When it is run by itself: `quantbench schedule`; runs do not read it."""
    profile: bool = False
    """Keep a profiler trace of a few engine steps of each measured model, taken after everything that is measured."""
    concurrency: ConcurrencyConfig = ConcurrencyConfig()
    """Which stages may work side by side."""
    executor: ExecutorConfig = LocalExecutor()
    """Where stages do their work; no part of any key."""
    fork_servers: bool = True
    """Import engines once a run and fork stages and model servers from there. CPU only; plain starts otherwise."""

    @model_validator(mode="after")
    def _requests_fit_the_context(self) -> Self:
        self.load.check_fits(self.serving.max_model_len)
        self.checks.check_fits(self.serving.max_model_len, self.serving.max_num_seqs)
        return self

    @model_validator(mode="after")
    def _optional_entries_are_there(self) -> Self:
        for name in self.optional:
            if name not in self.methods:
                raise ValueError(f"`optional` names {name}, which is no entry of `methods`: {', '.join(self.methods)}")
        return self

    @model_validator(mode="after")
    def _replicates_differ(self) -> Self:
        for name in self.replicates:
            if name not in self.methods:
                raise ValueError(
                    f"`replicates` names {name}, which is no entry of `methods`: {', '.join(self.methods)}"
                )
            method = self.methods[name].method
            if not load_method(method).needs_calibration:
                raise ValueError(
                    f"`replicates` of {name} would all be the same bytes: {method} looks at no calibration"
                )
        return self

    @model_validator(mode="after")
    def _speeds_that_are_asked_for_are_measured(self) -> Self:
        levels = self.load.concurrencies
        wanted = [limit.concurrency for limit in self.policy.loads]
        wanted += [self.recommend.concurrency] if self.recommend.concurrency is not None else []
        for level in wanted:
            if level not in levels:
                raise ValueError(
                    f"a speed with {level} requests at a time is asked for, and `load` measures"
                    f" {', '.join(map(str, levels)) or 'no closed loop'}"
                )
        return self

    @model_validator(mode="after")
    def _cheapest_has_a_price(self) -> Self:
        if self.recommend.goal == "cheapest" and self.price is None:
            raise ValueError(
                "`recommend: {goal: cheapest}` needs a `price`: write `include: ../prices/cpu.yaml`, or another of"
                " `configs/prices`, or `price:` with device, currency, per_hour, source and read_on"
            )
        return self

    @model_validator(mode="after")
    def _one_model_over_machines_or_stages(self) -> Self:
        if self.executor.kind == "ray" and self.serving.over_machines:
            raise ValueError(
                "`executor: {kind: ray}` gives each node a workspace of its own, and"
                " `serving.distributed_executor_backend: ray` reads a model from one path on all of them: leave one out"
            )
        return self

    def as_json(self) -> dict[str, Any]:
        """The whole config with defaults, as JSON."""
        return self.model_dump(mode="json")
