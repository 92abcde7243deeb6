"""How a model was served and what that took."""

from typing import Literal

from configs.quantities import Seconds
from registry.contracts.base import Device, DType, Record
from registry.contracts.machine_limits import MachineLimits, TokenWork


class Endpoint(Record):
    """A running OpenAI-compatible server; what evals and load tests are handed."""

    base_url: str
    """`http://127.0.0.1:<port>`, or where a server that runs already answers; without a path."""
    served_model_name: str
    model_path: str
    """The directory that is being served; its tokenizer is the one to use."""
    max_model_len: int
    """Context length in tokens."""
    prefix_block_tokens: int | None = None
    """Tokens that the server's prefix cache takes at once; None where it has none or does not say."""
    forced_tokens: int | None = None
    """Log-probabilities are told of tokens that are forced, one a request, in so many requests at once; None where the
    server tells those of tokens by their ids."""
    keeps_connections: bool = True
    """False for a server that ends connections while they are used again: each request takes one of its own then."""
    working_metrics: str | None = None
    """What the names of those metrics begin with that change while the server computes; None where it tells none."""
    api_key_variable: str | None = None
    """Name of the environment variable that holds the server's key, a bearer token; None where it wants none."""


class Percentiles(Record):
    """Of the raw values of all completed requests, in seconds. Never a mean of percentiles."""

    p50_seconds: float
    p90_seconds: float
    p95_seconds: float
    p99_seconds: float


class SLO(Record):
    """What a request has to keep to count as good; None where nothing is asked."""

    ttft_seconds: Seconds | None = None
    """Arrival at the client to the first token."""
    tpot_seconds: Seconds | None = None
    """Mean time between a request's tokens after its first."""
    e2e_seconds: Seconds | None = None


class LoadPoint(Record):
    """One load test under one load. Percentiles cover completed requests only; failed ones are counted."""

    profile: Literal["concurrent", "poisson"]
    """Closed loop, a number of requests kept in flight, or open loop, Poisson arrivals that wait for nobody."""
    prompts: str
    """Name of the prompt mix."""
    concurrency: int | None
    """Requests kept in flight; None in an open loop."""
    requests_per_second_offered: float | None
    """Arrivals per second of an open loop; None in a closed one."""
    requests: int
    completed: int
    failed: int
    """Refused, broken off, or without a token; those that timed out too."""
    timed_out: int
    duration_seconds: float
    prompt_tokens: int
    """Of completed requests, as the client counts them."""
    output_tokens: int
    output_tokens_per_second: float
    requests_per_second: float
    """Completed requests per second."""
    good_requests_per_second: float | None
    """Goodput: completed requests per second that kept the SLO; None without an SLO."""
    ttft: Percentiles
    tpot: Percentiles
    itl: Percentiles
    """Over all gaps between two tokens of all requests."""
    e2e: Percentiles
    client_queue: Percentiles
    """From a request's arrival until the client sent it; large values mean that the client was the bottleneck."""
    server_prompt_tokens: int | None
    """By the server's own counters, after minus before; None where it has none."""
    server_output_tokens: int | None
    requests_running_peak: int | None
    """Highest number of requests that the server's gauge showed at work."""
    requests_waiting_peak: int | None
    saturated: bool
    """Open loop: arrivals outran the server, so waiting grew with time and latencies depend on the test's length."""
    invalid: str | None = None
    """Why the point must not be believed, such as counters of client and server that disagree."""
    request_seconds: float | None = None
    """Sum over all requests, failed ones too, from sending to the end. None in records from before costs were told."""
    prefill_seconds: float | None = None
    """Sum over completed requests whose answers came in pieces, from sending to the first token."""
    decode_seconds: float | None = None
    """Sum over the same, from the first token to the end."""
    energy_joules: float | None = None
    """Of the device while requests were sent, its idle part included; None where it is not told."""


class RateSearch(Record):
    """The highest Poisson rate at which the SLO was kept."""

    slo: SLO
    share: float
    """Share of requests that have to keep the SLO."""
    highest_good_requests_per_second: float | None
    """None where even the lowest rate tried did not keep it."""
    tried: list[float]
    """Rates in requests per second, in the order tried; their points are among the load points."""


class MemoryRecord(Record):
    """Four numbers that must not be mixed; None with a line in `notes` where one could not be read."""

    artifact_bytes: int
    """Safetensors on disk."""
    weights_bytes_by_rank: list[int] | None = None
    """What the engine holds for weights, asked of each rank."""
    unread_weights_bytes: int | None = None
    """Of those, all ranks together: embedding tables that are not also the output layer. A step reads a row a token."""
    kv_cache_bytes: int | None = None
    """The budget of each rank: equal for all models of a run."""
    kv_cache_tokens: int | None = None
    """Tokens that fit the KV cache under that budget."""
    kv_cache_requests: float | None = None
    """Requests of the configured context length that fit at once."""
    peak_process_bytes: int | None = None
    """Peak of the server's whole process tree: PSS on CPU, NVML per process on GPU."""
    notes: list[str] = []

    @property
    def resident_weights_bytes(self) -> int | None:
        """All ranks together."""
        return sum(self.weights_bytes_by_rank) if self.weights_bytes_by_rank else None


class CheckRecord(Record):
    """One proof about a server, made from outside."""

    check: Literal["batching", "sharding", "starvation"]
    outcome: Literal["pass", "fail", "not_run"]
    reason: str
    """A sentence with the numbers that decided."""
    numbers: dict[str, float] = {}
    """What was measured, units in the names."""
    proved_on: str | None = None
    """The model whose server was asked, where it was another one that runs the same engine and kernel alike."""


SCHEDULING_CHECKS = ("batching", "starvation")
"""What they prove is true of an engine with a kernel, whatever the weights are."""


class ProofScope(Record):
    """What a proof about scheduling holds for: two servers that are alike in this batch and schedule alike."""

    engine: str
    engine_version: str
    device_name: str
    dtype: DType
    kernel: str
    """The kernels by which the engine multiplies."""
    tensor_parallel_size: int
    threads: int | None
    eager: bool | None
    prefix_caching: bool | None
    max_num_seqs: int | None


class ProfileRecord(Record):
    """Where the time of a few engine steps went."""

    trace_file: str
    """In the measurement's object; opens in Perfetto or chrome://tracing."""
    operators: list[tuple[str, float, float]]
    """Name, own seconds, share of all; the dearest first."""


class ServingRecord(Record):
    model_digest: str
    engine: str
    engine_version: str
    device: Device
    device_name: str
    """The CPU's or GPU's model name."""
    dtype: DType
    tensor_parallel_size: int
    pipeline_parallel_size: int = 1
    """As it was asked for."""
    threads: int | None
    eager: bool | None
    """No compilation and no graphs; None where the engine does not say."""
    prefix_caching: bool | None
    """None where the engine does not say."""
    max_num_seqs: int | None
    quantization_kernel: str | None
    """The kernel that the engine says it chose; None where it says nothing."""
    command: list[str]
    start_seconds: float | None
    """From launching the server to its first healthy answer; None where it ran already."""
    forked: bool = False
    """Whether the server came from a process that had done its imports; production starts take those longer."""
    started_beside: bool = False
    """Whether another stage worked when the server was launched, so that its start took longer than it would alone."""
    load_average: float
    """One-minute load average just before the load test; stages that worked until then are in it."""
    smoke_answer: str
    """The server's greedy answer to the smoke prompt."""
    load_points: list[LoadPoint]
    load_requests_file: str | None = None
    """Parquet in the measurement's object, a row a request of all load points."""
    rate_search: RateSearch | None = None
    checks: list[CheckRecord] = []
    scheduling_left: bool = False
    """Batching and fairness were not proved here, since they had been on a server that is alike (`ProofScope`)."""
    profile: ProfileRecord | None = None
    memory: MemoryRecord
    energy_source: str | None = None
    """What counted the load tests' energy, such as `RAPL package-0 + dram of package-0`; None where nothing did."""
    energy_notes: list[str] = []
    """Why there is none, of the machine or of a load test."""
    limits: MachineLimits | None = None
    """Of the machine, measured when the server was gone; None in records from before, and where it was not ours."""
    work: TokenWork | None = None
    """None as above, and where config.json does not tell it."""
    warnings: list[str] = []
    """Fallbacks and other lines of the engine's log that a reviewer has to know."""

    @property
    def scheduling_checks(self) -> list[CheckRecord]:
        """Proofs of batching and fairness that were made on this server itself."""
        return [check for check in self.checks if check.check in SCHEDULING_CHECKS and check.proved_on is None]

    @property
    def proof_scope(self) -> ProofScope | None:
        """What a proof on this server is true of; None where the engine does not say which kernel it has."""
        if self.quantization_kernel is None:
            return None
        fields = {name: getattr(self, name) for name in ProofScope.model_fields if name in type(self).model_fields}
        return ProofScope.model_validate(fields | {"kernel": self.quantization_kernel})

    @property
    def proves(self) -> ProofScope | None:
        """What was proved here of all servers that are alike; None where a proof failed or none was made."""
        made = self.scheduling_checks
        return self.proof_scope if made and all(check.outcome == "pass" for check in made) else None
