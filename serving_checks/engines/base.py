"""What a serving engine is: a config, what it refuses, the command that starts it, and how it is read and reset.

A new engine is one file with a `ServingConfig` subclass and an `Engine` subclass, one line in `engines/table.py`, and
one test. Everything else asks the engine and names none.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from configs.base import StrictModel
from configs.quantities import Count, Ranks, Seconds, Tokens
from registry.contracts.base import Device, DType, Method, format_of
from registry.contracts.serving import Endpoint, ServingRecord
from serving_checks.engines.rank_facts import RankFacts
from serving_checks.processes.endings import Death

LOOPBACK = "127.0.0.1"


class ServingConfig(StrictModel):
    """How models are served. The same for the baseline and every artifact, so that their numbers can be compared."""

    tunable: ClassVar[tuple[str, ...]] = ()
    """Fields that change how fast the engine answers; the others change what is served, or where."""

    engine: str
    """Which engine serves; a subclass narrows it to its own name."""
    tensor_parallel_size: Ranks = 1
    """Over how many ranks each layer is split; has to divide the model's attention heads."""
    pipeline_parallel_size: Ranks = 1
    """Over how many groups of ranks the layers are shared out."""
    max_model_len: Tokens = Field(default=2048, ge=16)
    """Longest prompt and answer together, in tokens."""
    max_num_seqs: Count | None = Field(default=None, ge=1)
    """Most requests that are worked on at once; null where the engine is not told."""

    @property
    def ranks(self) -> int:
        """Processes of one server, on a GPU each with one of its own."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def shaping(self) -> dict[str, Any]:
        """What shapes a measurement's numbers, for its key."""
        return self.model_dump(mode="json")

    @property
    def over_machines(self) -> bool:
        """Whether ranks may be on other machines than the server."""
        return False


class LaunchedConfig(ServingConfig):
    """Servers that are started and stopped here."""

    port: int | None = Field(default=None, ge=1, le=65535)
    """Port on 127.0.0.1; a free one when left out."""
    start_deadline_seconds: Seconds = Field(default=600.0, gt=0)
    """When to give up on a server that does not become healthy."""


class ServerRequest(NamedTuple):
    """What is to be served, and where it runs."""

    config: ServingConfig
    model_dir: Path
    dtype: DType
    """What activations and unquantized weights are held in."""
    device: Device
    threads: int | None
    """CPU threads over all ranks; None for one per rank. Without meaning on a GPU."""
    trace_dir: Path | None = None
    """Where `profiling.profile` finds the engine's traces; without it the engine takes no order to profile."""
    gpus: Sequence[str] = ()
    """Those that it sees, as CUDA_VISIBLE_DEVICES names them; empty for all that are visible."""
    python: Path | None = None
    """That of the engine's environment; None for this process's own."""


class ServerCommand(NamedTuple):
    """What starts a server: arguments, and variables on top of the environment."""

    argv: list[str]
    env: dict[str, str]


class EngineFacts(NamedTuple):
    """How a model is served, in the engine's own words as far as it has any; None where it does not say."""

    warnings: list[str]
    """Fallbacks and others, each once, without those of every start."""
    kernel: str | None = None
    """The quantization kernels that it chose."""
    dtype: DType | None = None
    """Of activations and unquantized weights."""
    tensor_parallel_size: int | None = None
    eager: bool | None = None
    """No compilation and no graphs."""
    prefix_caching: bool | None = None
    max_num_seqs: int | None = None


class WatchedMetrics(NamedTuple):
    """Names on a server's Prometheus page that dashboards and autoscalers ask for."""

    model_label: str
    """Label that holds what clients call the model."""
    waiting: str
    running: str
    ttft: str
    """Histogram: to the first token, in seconds."""
    itl: str
    """Histogram: between two tokens of an answer, in seconds."""
    prompt_tokens: str
    generation_tokens: str
    cache_share: str
    """Of the KV cache that is in use, 0 to 1."""
    preemptions: str
    """Requests that were put off because the KV cache was full."""
    ended: str
    """Requests that were answered."""
    ended_label: str
    """Label that says how they ended."""


class Container(NamedTuple):
    """How a cluster starts a server as it is started here."""

    image: str
    """With a tag that stays."""
    command: list[str]
    """What comes before the model's folder."""
    arguments: list[str]
    """What comes after it, without address and port."""
    model_format: str
    """What KServe calls artifacts that it serves."""
    env: dict[str, str]
    """Variables that it is served with."""
    module: list[str]
    """What Python starts without a container, before the model's folder."""
    metrics: WatchedMetrics
    triton_backend: str | None
    """What Triton calls the engine; None where it has none for it."""
    sagemaker_prefix: str | None
    """Of the variables that the engine's entry point for SageMaker makes arguments of; None where it has none."""


class MetricNames(StrictModel):
    """Names on an engine's Prometheus page, None where it has none.

    `name` is the sum of the samples called so over all labels; `name{label}` is the number that a label holds.
    """

    requests_running: str | None = None
    """Gauge: requests at work."""
    requests_waiting: str | None = None
    """Gauge: requests that wait for a place."""
    prompt_tokens: str | None = None
    """Counter, like those below, since the server's start."""
    generation_tokens: str | None = None
    requests_succeeded: str | None = None
    kv_cache_bytes: str | None = None
    """The KV cache's budget on each rank."""
    kv_cache_tokens: str | None = None
    """Tokens that fit the KV cache."""
    kv_cache_requests: str | None = None
    """Requests of the configured context length that fit at once."""


class Engine(ABC):
    """One serving engine with its config; `serving_checks.engines.table.engine_of` makes it."""

    name: ClassVar[str]
    config_type: ClassVar[type[ServingConfig]]
    distributions: ClassVar[tuple[str, ...]]
    """Packages that the engine comes as, one for a kind of device; empty where it is installed elsewhere."""
    plugins: ClassVar[tuple[str, ...]] = ()
    """Packages beside it that shape what is measured."""
    environment: ClassVar[str] = "main"
    """Which of `environments/` its servers run in: `main` beside ourselves, or one of its own."""
    formats_in_16_bits_only: ClassVar[frozenset[Method]] = frozenset()
    """Those that it does not serve in float32."""
    formats_of_plugins: ClassVar[Mapping[Method, str]] = {}
    """Those that it serves by a package beside it, which its container has not."""

    gives_logprobs: ClassVar[bool] = False
    """Answers completions with log-probabilities: of the prompt, and of tokens that are asked for by their ids."""
    forces_tokens: ClassVar[bool] = False
    """Tells the log-probability of a token that `logit_bias` forces, as it is without that: a token a request."""
    keeps_connections: ClassVar[bool] = True
    """Ends no connection that a client may be about to use again."""
    takes_token_ids: ClassVar[bool] = False
    """Completes a prompt of token ids as well as a text."""
    tells_ranks: ClassVar[bool] = False
    """Answers `ranks`."""
    working_metrics: ClassVar[str | None] = None
    """What the names of those metrics begin with that change only while it works; None where it has none."""
    greedy: ClassVar[Mapping[str, Any]] = {"temperature": 0.0}
    """Request fields by which the likeliest token is always taken, whatever the model's own defaults are."""

    def __init__(self, config: ServingConfig) -> None:
        self.config = config

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Distribution -> version of what is installed of the engine and its plugins; reads metadata only."""
        installed = {}
        for name in (*cls.distributions, *cls.plugins):
            with suppress(PackageNotFoundError):
                installed[name] = version(name)
        return installed

    @classmethod
    def version(cls) -> str | None:
        """The engine's own; None where it is not installed here."""
        installed = cls.versions()
        return next((installed[name] for name in cls.distributions if name in installed), None)

    @property
    def metrics(self) -> MetricNames:
        """What the engine's /metrics page calls things."""
        return MetricNames()

    @property
    def fixed_length(self) -> Mapping[str, Any]:
        """Request fields by which an answer has as many tokens as `max_tokens` says, and not fewer.

        Empty where the engine has none: answers may then be shorter, and what is counted is what came.
        """
        return {}

    def token_fields(self, *, chat: bool, logprobs: bool) -> Mapping[str, Any]:
        """Request fields by which an answer tells its prompt's and its own tokens by their ids.

        Args:
            chat: Of the chat API; else of the completions API.
            logprobs: Each token's log-probability is wanted too.

        Returns:
            Empty where the engine does not tell them.
        """
        return {}

    @property
    def api_key_variable(self) -> str | None:
        """Name of the environment variable that holds the server's key; None where it wants none."""
        return None

    @property
    def runs_here(self) -> bool:
        """Whether the server is on this machine."""
        return True

    def remedy_for(self, status: int) -> str | None:
        """What to change in the config when the server answers a request with `status`; None where it is no help."""
        return None

    @classmethod
    def serves_in_16_bits_only(cls, method: Method | None) -> bool:
        """Whether it serves artifacts of `method` (None: unquantized) in no wider dtype."""
        return method is not None and format_of(method) in cls.formats_in_16_bits_only

    @classmethod
    def command_for_users(cls, serving: ServingRecord, max_model_len: int) -> str | None:
        """What somebody types in a model's folder to serve it as it was measured; None where there is no such command.

        Args:
            max_model_len: Context length in tokens.
        """
        return None

    def container(self, model: str, dtype: str, measured: ServingRecord | None = None) -> Container | None:
        """How a cluster serves a model by this config; None for an engine that is not served so.

        Args:
            model: What clients call it.
            dtype: Of activations, or `auto`.
            measured: How it was served when it was measured: in that version, on that device, with those threads.
        """
        return None

    @abstractmethod
    def refusals(self, request: ServerRequest) -> list[str]:
        """Find what is known to fail before anything is started.

        Returns:
            Whole sentences, each with its remedy; empty where the engine is going to serve `request`.
        """

    def refusals_of_machines(self, file: Path, log_file: Path) -> list[str]:
        """Ask the machines that a server's ranks may be on; only where `config.over_machines`.

        Args:
            file: In the folder that models are served from; has to be seen on each machine.
            log_file: Gets what is said meanwhile.

        Returns:
            Whole sentences, each with its remedy; empty where they take a server.
        """
        return []

    def fork_server(self, device: Device, threads: int | None, address: Path) -> ServerCommand | None:
        """The command of a fork server for this engine's servers (`fork_server.py`), listening on `address`.

        Returns:
            None where servers have to be started in the plain way.
        """
        return None

    def served_model_name(self, request: ServerRequest) -> str:
        """What requests have to call the model."""
        return "model"

    def prefix_block_tokens(self, endpoint: Endpoint) -> int | None:
        """Tokens that the server's prefix cache takes at once; None where it has none or does not say."""
        return None

    def reset_caches(self, base_url: str) -> bool:
        """Have the server forget the prompts seen so far, so that the next measurement starts as the first did.

        Returns:
            False where the engine takes no such order.

        Raises:
            OSError: The server did not answer, or refuses.
        """
        return False

    def resident_weights_bytes(self, endpoint: Endpoint, log: str) -> list[int]:
        """What each rank holds for weights, in bytes.

        Raises:
            ValueError: The engine does not tell; the text says why.
            OSError: The server does not answer.
        """
        raise ValueError(f"the engine {self.name} does not tell")

    def ranks(self, endpoint: Endpoint) -> list[RankFacts]:
        """What each of the server's workers says about itself, by rank.

        Raises:
            ValueError: The engine does not tell; the text says why.
            OSError: The server does not answer.
        """
        raise ValueError(f"the engine {self.name} does not tell")

    @abstractmethod
    def facts(self, endpoint: Endpoint, log: str) -> EngineFacts:
        """How a running server serves, from its answers and what it has printed so far."""


class LaunchedEngine(Engine):
    """An engine whose servers are started and stopped here."""

    config: LaunchedConfig
    health_path: ClassVar[str] = "/health"
    """Answers 200 once the server takes requests."""

    @abstractmethod
    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        """The command that serves `request` on `port` of 127.0.0.1."""

    def shared_memory_of(self, log: str) -> set[str]:
        """Files in /dev/shm that the log of a server names; what it dies too soon to be watched with."""
        return set()

    @abstractmethod
    def death_of(self, log: str) -> Death | None:
        """Why a server ended, as far as its log names an error; None where it names none."""


class AttachedEngine(Engine):
    """An engine whose server runs already, and goes on when the tests are done."""

    @abstractmethod
    def attach(self, request: ServerRequest) -> Endpoint:
        """Find the server.

        Raises:
            RequestError: Nothing answers there, or not as it should, or it does not serve the model.
        """
