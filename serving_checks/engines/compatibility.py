"""What engines do not serve, as data: engine x method x tensor parallel x device, each row with its source."""

from typing import NamedTuple

from registry.contracts.base import Device, Method

VLLM_VERSION = "0.32.0"
"""The version that the rows of vllm were read from."""


class Refusal(NamedTuple):
    """A combination that an engine does not take. None in a column means: any."""

    engine: str
    method: Method | None
    device: Device | None
    sharded: bool | None
    because: str
    remedy: str
    source: str


REFUSALS = (
    Refusal(
        engine="vllm",
        method="bnb_nf4",
        device=None,
        sharded=True,
        because="it does not shard prequantized bitsandbytes weights over tensor-parallel ranks",
        remedy="set serving.tensor_parallel_size to 1 or take gptq or awq",
        source="vllm_bnb_plugin/bitsandbytes_loader.py",
    ),
    Refusal(
        engine="vllm",
        method="bnb_int8",
        device=None,
        sharded=True,
        because="it does not shard prequantized bitsandbytes weights over tensor-parallel ranks",
        remedy="set serving.tensor_parallel_size to 1 or take gptq or awq",
        source="vllm_bnb_plugin/bitsandbytes_loader.py",
    ),
    Refusal(
        engine="transformers",
        method=None,
        device=None,
        sharded=True,
        because="it runs a model in one process",
        remedy="set serving.tensor_parallel_size to 1",
        source="transformers/cli/serve.py",
    ),
)


def serving_violations(method: Method, device: Device, tensor_parallel: int, *, engine: str) -> list[str]:
    """Why `engine` would not serve an artifact of `method` so; empty where it would."""
    return [
        f"{engine}: {row.because} ({row.source}); {row.remedy}"
        for row in REFUSALS
        if row.engine == engine
        and row.method in (None, method)
        and row.device in (None, device)
        and row.sharded in (None, tensor_parallel > 1)
    ]
