"""What `quantbench shadow replay` is asked: a log's prompts, two models, and what of it is kept."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from configs.base import StrictModel
from configs.quantities import Label, LocalPath, Name, Tokens
from evals.judging.known_answers import KnownAnswersConfig
from evals.judging.preference import DEFAULT_QUESTION, Question
from evals.judging.verdict_config import VerdictConfig
from pipelines.recipe.deadlines import Deadlines
from registry.contracts.base import DType
from serving_checks.engines.base import AttachedEngine
from serving_checks.engines.table import AnyServingConfig, default_config, engine_type
from serving_checks.replay.classes import ClassesConfig
from serving_checks.replay.config import AskingConfig, PromptsConfig


class ReplayedModelConfig(StrictModel):
    """One side: a folder, an object of the workspace's store, a row of a run, or a server that runs already."""

    model: LocalPath | None = None
    """A model's folder."""
    artifact: Annotated[str, StringConstraints(pattern=r"^(sha256:)?[0-9a-f]{6,64}$")] | None = None
    """A digest in the workspace's store, or its beginning."""
    run: Label | None = None
    """A run of the workspace, by its id or the beginning of it; `last` for the newest."""
    name: Label | None = None
    """Beside `run`: the row's name, such as `baseline`, or `recommended` for the artifact that the run recommends."""
    serving: AnyServingConfig | None = None
    """Where it is served otherwise than the other one. A server that runs already has `engine: openai` here."""
    dtype: DType | Literal["auto"] = "auto"
    """What activations are computed in; `auto` takes what the device multiplies fast and the engine accepts."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in ("model", "artifact", "run") if getattr(self, name) is not None]
        if (self.run is None) != (self.name is None):
            raise ValueError("`run` and `name` belong together: a run, and which of its models")
        if self.runs_already and named:
            raise ValueError(f"a server that runs already has its model: leave `{named[0]}` out")
        if not self.runs_already and len(named) != 1:
            raise ValueError("name one of `model`, `artifact` and `run`, or the server that runs already as `serving`")
        return self

    @property
    def runs_already(self) -> bool:
        """Whether its server is not started here."""
        return self.serving is not None and issubclass(engine_type(self.serving.engine), AttachedEngine)


class JudgeConfig(StrictModel):
    """A model that says which of two answers it prefers. It is sent prompts and answers."""

    serving: AnyServingConfig
    """A server that runs already: `engine: openai`."""
    question: Question = DEFAULT_QUESTION
    """With the places {prompt}, {first} and {second}; it has to ask for one letter, A, B or C for a tie."""
    max_output_tokens: Annotated[Tokens, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _runs_already(self) -> Self:
        if not issubclass(engine_type(self.serving.engine), AttachedEngine):
            raise ValueError("a judge is a server that runs already: `engine: openai`")
        return self


class ReplayConfig(StrictModel):
    """Real prompts through two models."""

    version: Literal[1]
    """Of this file's format."""
    name: Name
    """Of the folder in the workspace: the same name goes on where it stopped."""
    description: str = ""
    prompts: PromptsConfig
    champion: ReplayedModelConfig
    """The model that answers today."""
    candidate: ReplayedModelConfig
    """The one that may take its place."""
    serving: AnyServingConfig = Field(default_factory=default_config)
    """Of a side that has no `serving` of its own."""
    together: bool | None = None
    """Ask both at once, each first in turn. Null: where both run already. Else one after the other, so that the memory
    of one is enough."""
    asking: AskingConfig = AskingConfig()
    class_by: ClassesConfig | None = None
    """Where a prompt's class comes from; each class is judged by itself too."""
    answers: KnownAnswersConfig | None = None
    """Where known answers stand; none are when null."""
    judge: JudgeConfig | None = None
    keep_prompts: bool = False
    """Keep prompts and answers in the pairs. Else only their hashes and lengths are kept."""
    verdict: VerdictConfig = VerdictConfig()
    """How the pairs are to be judged. Frozen with the first pair, so that nobody chooses a rule by its outcome."""
    deadlines: Deadlines = Deadlines()
    """When to give up; those of a replay and of its servers are read."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where a GPU answers, else the CPU."""
    fork_servers: bool = True
    """Import the engine once, and fork servers from there. CPU only; plain starts otherwise."""

    @model_validator(mode="after")
    def _answers_fit_the_context(self) -> Self:
        most = self.asking.max_output_tokens
        for name, side in (("champion", self.champion), ("candidate", self.candidate)):
            context = (side.serving or self.serving).max_model_len
            if not side.runs_already and most >= context:
                raise ValueError(
                    f"asking.max_output_tokens {most} leaves no room for a prompt in the {context} tokens that the"
                    f" {name}'s server takes; lower it, or raise serving.max_model_len"
                )
        return self

    @property
    def asks_together(self) -> bool:
        """Whether both sides are asked at once."""
        return self.champion.runs_already and self.candidate.runs_already if self.together is None else self.together

    def shaping(self) -> dict[str, Any]:
        """What shapes the pairs, as JSON: what is not here may change while a replay is under way."""
        return self.model_dump(mode="json", exclude={"version", "description", "deadlines", "fork_servers"})
