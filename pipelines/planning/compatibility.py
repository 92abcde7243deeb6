"""What engines do not serve, as data: method x engine x tensor parallel x pipeline parallel x device, with sources."""

from typing import NamedTuple

from registry.contracts.base import Device, Method

VLLM_VERSION = "0.32.0"
"""The version that vLLM's rows were read from."""


class Refusal(NamedTuple):
    """A combination that a serving engine does not take. None in a column means: any."""

    because: str
    remedy: str
    source: str
    """File, below the environment's packages, that the row was read from."""
    says: str
    """A piece of that file; when it is gone, the row has to be read anew."""
    method: Method | None = None
    engine: str = "vllm"
    tensor_parallel: bool | None = None
    """True: over more than one rank."""
    pipeline_parallel: bool | None = None
    device: Device | None = None


_BITSANDBYTES_SHARDED = Refusal(
    because="it does not shard prequantized bitsandbytes weights over tensor-parallel ranks",
    remedy="set serving.tensor_parallel_size to 1 or take gptq or awq",
    source="vllm_bnb_plugin/bitsandbytes_loader.py",
    says="Prequant BitsAndBytes models with tensor parallelism is not",
    tensor_parallel=True,
)
_TRANSFORMERS_ONE_PROCESS = Refusal(
    because="it runs a model in one process",
    remedy="set serving.tensor_parallel_size and serving.pipeline_parallel_size to 1 or take the engine vllm",
    source="transformers/cli/serve.py",
    says="continuous_batching: Annotated[",
    engine="transformers",
)

REFUSALS = (
    _BITSANDBYTES_SHARDED._replace(method="bnb_nf4"),
    _BITSANDBYTES_SHARDED._replace(method="bnb_int8"),
    Refusal(
        because="a later stage's CPU worker fails on an assertion at the first request: no warm-up made its buffers",
        remedy="set serving.pipeline_parallel_size to 1",
        source="vllm/v1/worker/gpu_model_runner.py",
        says="assert self.intermediate_tensors is not None",
        pipeline_parallel=True,
        device="cpu",
    ),
    _TRANSFORMERS_ONE_PROCESS._replace(tensor_parallel=True),
    _TRANSFORMERS_ONE_PROCESS._replace(pipeline_parallel=True),
)


def serving_violations(
    method: Method | None, device: Device, tensor_parallel: int, pipeline_parallel: int = 1, engine: str = "vllm"
) -> list[str]:
    """Why `engine` would not serve a model so; empty where it would.

    Args:
        method: That made the artifact; None for the baseline.
        tensor_parallel: Ranks that share each layer.
        pipeline_parallel: Ranks that share the layers out among them.
    """
    asked = (method, engine, tensor_parallel > 1, pipeline_parallel > 1, device)
    return [
        f"{engine}: {row.because} ({row.source}); {row.remedy}"
        for row in REFUSALS
        if all(
            column in (None, value)
            for column, value in zip(
                (row.method, row.engine, row.tensor_parallel, row.pipeline_parallel, row.device), asked, strict=True
            )
        )
    ]
