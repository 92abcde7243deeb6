"""`transformers serve` with continuous batching (transformers 5.19, cli/serve.py), the second real engine.

It completes texts (not token ids) and chats under the usual paths, and streams. It has no metrics page, ignores
`logprobs`, answers 422 to fields it does not know (`ignore_eos`, `repetition_penalty`), gathers several tokens into one
event of a stream, and takes no limit on the requests at work. Its /v1/models looks into the hub's cache folder and
fails without one.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UnreadableError
from configs.quantities import Gibibytes, Tokens
from configs.reading.json_text import read_json_object
from registry.contracts.base import DType
from registry.contracts.serving import Endpoint
from serving_checks.engines.base import (
    LOOPBACK,
    EngineFacts,
    LaunchedConfig,
    LaunchedEngine,
    ServerCommand,
    ServerRequest,
)
from serving_checks.processes.endings import Death

_BLOCK_TOKENS = 256
"""Of one block of the paged cache: `ContinuousBatchingConfig.page_size` (generation/configuration_utils.py)."""
_DTYPE_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<error>\w*(?:Error|Exception)): (?P<text>.+)", re.MULTILINE)
_WARNING = re.compile(r"^(?:\[\w+\] )?(?P<text>.*\b(?:[Ff]alling back|not supported|does not support|deprecated)\b.*)$")
_OF_EVERY_START = "register_constant() on Enum subclasses"
"""Torch's, of torchao's import: it says nothing about how the model is served."""


class TransformersServerConfig(LaunchedConfig):
    """How transformers serves models."""

    engine: Literal["transformers"]
    tensor_parallel_size: Literal[1] = 1
    """`transformers serve` does not split a model."""
    max_num_seqs: None = None
    """`transformers serve` takes no such limit: it works on as many requests as its cache holds."""
    kv_cache_gib: Gibibytes = Field(default=1.0, gt=0)
    """Memory for the KV cache, in GiB, rounded down to whole blocks of 256 tokens."""
    max_num_batched_tokens: Tokens = Field(default=512, ge=1)
    """Most tokens of one step. The attention mask takes this many times the cache's tokens, in memory too."""


class TransformersEngine(LaunchedEngine):
    """One `transformers serve` process a model."""

    name = "transformers"
    config_type = TransformersServerConfig
    distributions = ("transformers",)
    plugins = ("torch", "accelerate", "gptqmodel", "bitsandbytes", "optimum")
    formats_in_16_bits_only = frozenset({"gptq", "awq", "bnb_nf4", "rtn", "nvfp4"})
    """As the artifacts are inspected: through transformers, in the dtype that they were written for."""
    config: TransformersServerConfig

    @property
    def fixed_length(self) -> Mapping[str, Any]:
        """See `Engine.fixed_length`: a request's own generation config, in which no token is the end.

        Null would stand for the model's end, -1 stands for none (generation/continuous_batching/requests.py).
        """
        return {"generation_config": json.dumps({"eos_token_id": -1})}

    def refusals(self, request: ServerRequest) -> list[str]:
        """See `Engine.refusals`."""
        found = []
        # It takes `name@revision` and `folder:file.gguf` for a model's name (cli/serving/utils.py).
        if {"@", ":"} & set(str(request.model_dir)):
            found.append(
                f"`transformers serve` reads @ and : in {request.model_dir} as marks; serve it from another path"
            )
        try:
            positions = _text_config(request.model_dir).get("max_position_embeddings")
            blocks = self._blocks(request)
        except (UnreadableError, ValueError, AttributeError, LookupError, TypeError) as error:
            return [*found, f"{request.model_dir / 'config.json'} cannot be read: {error!r}; name a model directory"]
        if isinstance(positions, int) and self.config.max_model_len > positions:
            found.append(
                f"max_model_len {self.config.max_model_len} is beyond the {positions} tokens that the model reads"
            )
        if blocks * _BLOCK_TOKENS < self.config.max_model_len:
            found.append(
                f"kv_cache_gib {self.config.kv_cache_gib} holds {blocks * _BLOCK_TOKENS} tokens, less than"
                f" max_model_len {self.config.max_model_len}; raise the one or lower the other"
            )
        return found

    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        """See `Engine.command`."""
        options = {
            "host": LOOPBACK,
            "port": port,
            "device": request.device,
            "dtype": request.dtype,
            "cb-num-blocks": self._blocks(request),
            "cb-max-batch-tokens": self.config.max_num_batched_tokens,
        }
        argv = [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", str(request.model_dir)]
        argv += ["--continuous-batching"]
        argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "NO_COLOR": "1"}
        return ServerCommand(
            argv, env | ({"OMP_NUM_THREADS": str(request.threads or 1)} if request.device == "cpu" else {})
        )

    def served_model_name(self, request: ServerRequest) -> str:
        """See `Engine.served_model_name`: the folder, and no other name is taken."""
        return str(request.model_dir)

    def facts(self, endpoint: Endpoint, log: str) -> EngineFacts:
        """See `Engine.facts`; it names no kernel and tells no setting."""
        found = [match["text"].strip() for line in log.splitlines() if (match := _WARNING.match(line))]
        return EngineFacts(warnings=[line for line in dict.fromkeys(found) if _OF_EVERY_START not in line])

    def death_of(self, log: str) -> Death | None:
        """See `LaunchedEngine.death_of`."""
        found = [*_EXCEPTION.finditer(log)]
        if not found:
            return None
        reason = f"{found[-1]['error']}: {found[-1]['text'].strip()}"
        if "emory" in reason:
            return Death(reason, "lower `kv_cache_gib` or `max_num_batched_tokens`, or free memory", "machine")
        return Death(reason, "read the log, mend what it names, and run the command by hand to try", "engine")

    def _blocks(self, request: ServerRequest) -> int:
        """Blocks of the cache that the budget pays for: keys and values of all layers, 256 tokens each."""
        config = _text_config(request.model_dir)
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        values = 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head_dim
        block_bytes = int(values) * _DTYPE_BYTES[request.dtype] * _BLOCK_TOKENS
        return int(self.config.kv_cache_gib * 2**30) // block_bytes


def _text_config(model_dir: Path) -> dict[str, Any]:
    """The model's config.json; of its text part where it has several."""
    config = read_json_object(model_dir / "config.json")
    return config.get("text_config") or config
