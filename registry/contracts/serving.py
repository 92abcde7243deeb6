"""How a model was served and what that took."""

from registry.contracts.base import Device, DType, Record


class Endpoint(Record):
    """A running OpenAI-compatible server; what evals and load tests are handed."""

    base_url: str
    """`http://127.0.0.1:<port>`, without a path."""
    served_model_name: str
    model_path: str
    """The directory that is being served; its tokenizer is the one to use."""
    max_model_len: int
    """Context length in tokens."""


class LoadPoint(Record):
    """One load test at a fixed number of concurrent requests. Percentiles cover completed requests only."""

    concurrency: int
    requests: int
    completed: int
    failed: int
    duration_seconds: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_second: float
    requests_per_second: float
    ttft_p50_seconds: float
    ttft_p99_seconds: float
    tpot_p50_seconds: float
    tpot_p99_seconds: float
    e2e_p50_seconds: float
    e2e_p99_seconds: float


class MemoryRecord(Record):
    """Four numbers that must not be mixed; None with a line in `notes` where one could not be read."""

    artifact_bytes: int
    """Safetensors on disk."""
    resident_weights_bytes: int | None = None
    """What the engine holds for weights, all ranks together."""
    kv_cache_tokens: int | None = None
    """Tokens that fit the KV cache under the configured budget."""
    peak_process_bytes: int | None = None
    """Peak of the server's whole process tree: PSS on CPU, NVML per process on GPU."""
    notes: list[str] = []


class ServingRecord(Record):
    model_digest: str
    engine: str
    engine_version: str
    device: Device
    device_name: str
    """The CPU's or GPU's model name."""
    dtype: DType
    tensor_parallel_size: int
    threads: int | None
    quantization_kernel: str | None
    """The kernel that the engine says it chose; None where it says nothing."""
    command: list[str]
    start_seconds: float
    """From launching the server to its first healthy answer."""
    forked: bool = False
    """Whether the server came from a process that had done its imports; production starts take those longer."""
    load_average: float
    """One-minute load average just before the load test."""
    smoke_answer: str
    """The server's greedy answer to the smoke prompt."""
    load_points: list[LoadPoint]
    memory: MemoryRecord
    warnings: list[str] = []
    """Fallbacks and other lines of the engine's log that a reviewer has to know."""
