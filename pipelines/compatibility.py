"""What vLLM does not serve, as data: method x tensor parallel x device, each row with its source."""

from typing import NamedTuple

from registry.contracts.base import Device, Method

VLLM_VERSION = "0.32.0"
"""The version that the rows were read from."""


class Refusal(NamedTuple):
    """A combination that the serving engine does not take. None in a column means: any."""

    method: Method | None
    device: Device | None
    sharded: bool | None
    because: str
    remedy: str
    source: str


REFUSALS = (
    Refusal(
        method="bnb_nf4",
        device=None,
        sharded=True,
        because="vLLM does not shard prequantized bitsandbytes weights over tensor-parallel ranks",
        remedy="set serving.tensor_parallel_size to 1 or take gptq or awq",
        source="vllm_bnb_plugin/bitsandbytes_loader.py",
    ),
    Refusal(
        method="bnb_int8",
        device=None,
        sharded=True,
        because="vLLM does not shard prequantized bitsandbytes weights over tensor-parallel ranks",
        remedy="set serving.tensor_parallel_size to 1 or take gptq or awq",
        source="vllm_bnb_plugin/bitsandbytes_loader.py",
    ),
)


def serving_violations(method: Method, device: Device, tensor_parallel: int) -> list[str]:
    """Why vLLM would not serve an artifact of `method` so; empty where it would."""
    return [
        f"{row.because} ({row.source}); {row.remedy}"
        for row in REFUSALS
        if row.method in (None, method) and row.device in (None, device) and row.sharded in (None, tensor_parallel > 1)
    ]
