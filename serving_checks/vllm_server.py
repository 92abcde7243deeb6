"""One vLLM server as a context manager: started, waited for, read, and gone afterwards."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pydantic import Field

from configs.base import StrictModel
from configs.errors import RequestError, StageError
from registry.contracts.base import Device, DType
from registry.contracts.serving import Endpoint
from serving_checks import server_log
from serving_checks.http_json import get_text
from serving_checks.supervisor import Supervised

_HOST = "127.0.0.1"
_PYTHON_MODULE = [sys.executable, "-P", "-m"]
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_IMPORTED_AHEAD = (
    _SERVER_MODULE,
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.benchmarks.serve",
    "serving_checks.vllm_fork_patch",
)
"""What a server or the load generator imports before it knows its model; the model class saves a little more."""
_POLL_SECONDS = 0.3
SERVED_MODEL_NAME = "model"


class VllmServerConfig(StrictModel):
    """How models are served. The same for the baseline and every artifact, so that their numbers can be compared."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """Over how many ranks each layer is split; has to divide the model's attention heads."""
    max_model_len: int = Field(default=2048, ge=16)
    """Longest prompt and answer together, in tokens."""
    max_num_seqs: int = Field(default=32, ge=1)
    """Most requests that are worked on at once."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of one engine step, prompts and answers together; the engine's default when null."""
    enable_prefix_caching: bool | None = None
    """Keep the KV cache of prompts for others that begin alike; the engine's default when null."""
    enable_chunked_prefill: bool | None = None
    """Let a long prompt take several steps, beside the answers of others; the engine's default when null."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the KV cache of each rank, in GiB. Fixed rather than 'all that is left', so that peaks compare."""
    enforce_eager: bool = True
    """Skip compilation: a shorter start; on a GPU, slower answers."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port on 127.0.0.1; a free one when left out."""
    start_deadline_seconds: float = Field(default=600.0, gt=0)
    """When to give up on a server that does not become healthy."""


class ServerRequest(NamedTuple):
    """What is to be served, and where it runs."""

    config: VllmServerConfig
    model_dir: Path
    dtype: DType
    """What activations and unquantized weights are held in."""
    device: Device
    threads: int | None
    """CPU threads over all ranks; None for one per rank. Without meaning on a GPU."""
    trace_dir: Path | None = None
    """Where `profiling.profile` finds the engine's traces; without it the engine takes no order to profile."""


class ServerCommand(NamedTuple):
    """What starts a server: arguments, and variables on top of the environment."""

    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class RunningServer:
    """A healthy server, for as long as the `serve` block lasts."""

    endpoint: Endpoint
    start_seconds: float
    """From launching it to its first healthy answer; without the imports where it was forked."""
    forked: bool
    command: list[str]
    command_line: str
    """The same as a shell command, variables included."""
    log_file: Path
    pid: int
    peak_memory_bytes: Callable[[], int | None]
    """Highest PSS of the whole process tree so far."""

    @property
    def kernel(self) -> str | None:
        """The quantization kernel that the engine says it chose."""
        return server_log.kernel_of(self.log_file.read_text(errors="replace"))

    @property
    def warnings(self) -> list[str]:
        """Fallbacks and other warnings of the log so far."""
        return server_log.warnings_of(self.log_file.read_text(errors="replace"))


def free_port(wanted: int | None) -> int:
    """`wanted` if nothing listens there, any free port for None.

    Raises:
        RequestError: Something listens on `wanted`.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted or 0))
        except OSError as error:
            raise RequestError(
                f"port {wanted} on {_HOST} cannot be used: {error.strerror}",
                remedy="leave `port` out to get a free one, or stop what listens there",
            ) from None
        return int(probe.getsockname()[1])


def check_servable(request: ServerRequest) -> None:
    """Refuse before anything is started what is known to fail minutes later.

    Raises:
        RequestError: No model there, or a combination that vLLM 0.32 does not take.
    """
    model_dir, dtype, ranks = request.model_dir, request.dtype, request.config.tensor_parallel_size
    config_file = model_dir / "config.json"
    try:
        quantization = json.loads(config_file.read_text()).get("quantization_config") or {}
    except (OSError, ValueError) as error:
        raise RequestError(f"{config_file} cannot be read: {error}", remedy="name a model directory") from None
    method = quantization.get("quant_method")
    if dtype == "float32" and (method in ("gptq", "awq") or quantization.get("load_in_4bit")):
        raise RequestError(
            f"{model_dir} ({method}, 4 bits) cannot be served in float32",
            remedy="serve it in bfloat16 or float16: the engine's 4-bit kernels take 16-bit activations only",
        )
    if method == "bitsandbytes" and ranks > 1:
        raise RequestError(
            f"{model_dir}: prequantized bitsandbytes weights cannot be split over {ranks} ranks",
            remedy="set `tensor_parallel_size: 1`",
        )


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
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, place)) for place in places)}


def vllm_command(request: ServerRequest, port: int) -> ServerCommand:
    """The command that serves `model_dir` (vLLM 0.32; bitsandbytes artifacts through vllm-bnb-plugin).

    The `vllm` script is not used: it asks for a distribution called `vllm`, and the CPU build has another name.
    """
    config = request.config
    options = {
        "model": str(request.model_dir),
        "served-model-name": SERVED_MODEL_NAME,
        "host": _HOST,
        "port": port,
        "dtype": request.dtype,
        "max-model-len": config.max_model_len,
        "max-num-seqs": config.max_num_seqs,
        "kv-cache-memory-bytes": round(config.kv_cache_gib * 2**30),
        "tensor-parallel-size": config.tensor_parallel_size,
        "worker-extension-cls": "serving_checks.worker_probe.WorkerProbe",
    }
    argv = [*_PYTHON_MODULE, _SERVER_MODULE]
    argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    argv += ["--enforce-eager"] if config.enforce_eager else []
    if config.max_num_batched_tokens is not None:
        argv += ["--max-num-batched-tokens", str(config.max_num_batched_tokens)]
    switches = {
        "enable-prefix-caching": config.enable_prefix_caching,
        "enable-chunked-prefill": config.enable_chunked_prefill,
    }
    argv += [f"--{name if on else f'no-{name}'}" for name, on in switches.items() if on is not None]
    if request.trace_dir:
        argv += ["--profiler-config", json.dumps(_profiler_config(request.trace_dir))]
    return ServerCommand(argv, _variables(config, request.device, request.threads))


def _profiler_config(trace_dir: Path) -> dict[str, str | bool]:
    """Opens /start_profile and /stop_profile. The profiler itself is made by the first of them, nothing before it."""
    return {
        "profiler": "torch",
        "torch_profiler_dir": str(trace_dir),
        # Stacks make a trace tens of times larger, and the API server's own work is no engine step.
        "torch_profiler_with_stack": False,
        "ignore_frontend": True,
    }


def vllm_fork_server(
    config: VllmServerConfig, device: Device, threads: int | None, address: Path
) -> ServerCommand | None:
    """The command of a fork server for the servers of this config (`fork_server.py`).

    Returns:
        None where servers have to be started in the plain way: on a GPU, whose driver does not survive a fork, and with
        several ranks, which vLLM's CPU platform insists on spawning.
    """
    if device != "cpu" or config.tensor_parallel_size > 1:
        return None
    argv = [*_PYTHON_MODULE, "serving_checks.fork_server", str(address), *_IMPORTED_AHEAD]
    return ServerCommand(argv, _variables(config, device, threads))


def _variables(config: VllmServerConfig, device: Device, threads: int | None) -> dict[str, str]:
    shared = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # Opens /collective_rpc, by which the workers tell their weights; the server listens on loopback only.
        "VLLM_SERVER_DEV_MODE": "1",
    }
    if device != "cpu":
        return shared
    # vLLM compiles a few small functions whatever `enforce_eager` says: 6 s of the first answer with log-probabilities.
    eager = {"TORCHDYNAMO_DISABLE": "1"} if config.enforce_eager else {}
    return shared | eager | _cpu_variables(config.tensor_parallel_size, threads)


def _await_health(child: Supervised, base_url: str, deadline_seconds: float) -> float:
    """Wait for /health; the seconds since the call."""
    start = time.monotonic()
    while True:
        exit_code = child.wait(_POLL_SECONDS)
        if exit_code is not None:
            death = server_log.death_of(child.log_file.read_text(errors="replace"), exit_code)
            raise StageError(
                f"the server died at start with exit code {exit_code}: {death.reason}\n"
                f"  command: {child.command_line}\n  last lines of {child.log_file}:\n{child.log_tail()}",
                remedy=death.remedy,
            )
        try:
            get_text(f"{base_url}/health", timeout_seconds=2.0)
            return time.monotonic() - start
        except OSError:
            pass
        if time.monotonic() - start > deadline_seconds:
            raise StageError(
                f"the server was not healthy after {deadline_seconds:.0f} s and was stopped\n"
                f"  command: {child.command_line}\n  last lines of {child.log_file}:\n{child.log_tail()}",
                remedy="raise `start_deadline_seconds` if the machine is slow, or run the command by hand and watch it",
            )


CommandOf = Callable[[ServerRequest, int], ServerCommand]


@contextmanager
def serve(
    request: ServerRequest, log_file: Path, command_of: CommandOf = vllm_command, fork_server: Path | None = None
) -> Iterator[RunningServer]:
    """Serve a model on loopback for the length of the block.

    Args:
        log_file: Gets the server's output.
        fork_server: Address of what `vllm_fork_server` started, if there is one; the server is then ready in seconds.
        command_of: Makes the command for a request and a port; another engine has its own.

    Raises:
        RequestError: The port is taken, or the model cannot be served like this; nothing was started.
        StageError: The server died at start or was not healthy in time; it and all its children are gone.
    """
    check_servable(request)
    config = request.config
    port = free_port(config.port)
    command = command_of(request, port)
    base_url = f"http://{_HOST}:{port}"
    with (
        # vLLM leaves its sockets behind, two files a server. The name is short because a socket's path has to be.
        TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as scratch,
        Supervised(
            command.argv, env=command.env | {"TMPDIR": scratch}, log_file=log_file, fork_server=fork_server
        ) as child,
    ):
        start_seconds = _await_health(child, base_url, config.start_deadline_seconds)
        yield RunningServer(
            endpoint=Endpoint(
                base_url=base_url,
                served_model_name=SERVED_MODEL_NAME,
                model_path=str(request.model_dir),
                max_model_len=config.max_model_len,
            ),
            start_seconds=start_seconds,
            command=command.argv,
            command_line=child.command_line,
            log_file=log_file,
            pid=child.pid,
            forked=child.forked,
            peak_memory_bytes=lambda: child.peak_memory_bytes,
        )
