"""What each worker of a running vLLM server says about itself (`worker_probe.py` answers)."""

from collections import Counter

from pydantic import Field

from registry.contracts.base import DType, Record
from registry.contracts.serving import Endpoint
from serving_checks.http_json import post_json

FALLBACK_KERNELS = {
    "linear": "unquantized layers are multiplied by torch's own linear: oneDNN refused them",
    "AutoAWQLinearMethod": "AWQ layers run on vLLM's unoptimized kernels: Marlin does not take their shape or device",
}
"""Kernels that vLLM takes when it can do no better (vllm/model_executor/layers/utils.py, quantization/auto_awq.py)."""


class RankFacts(Record):
    """One worker, as it sees itself after it has resolved its config and loaded its weights."""

    rank: int
    pid: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    tensor_bytes: dict[str, int] = Field(min_length=1)
    """Everything that it holds for weights, by name."""
    kernels: dict[str, int]
    """What multiplies by weight matrices -> number of layers."""
    dtype: DType
    eager: bool
    prefix_caching: bool
    max_num_seqs: int
    max_num_batched_tokens: int

    @property
    def weights_bytes(self) -> int:
        """All that it holds for weights."""
        return sum(self.tensor_bytes.values())


def ask_ranks(endpoint: Endpoint) -> list[RankFacts]:
    """One answer a worker, by rank; needs vLLM's development endpoints and `worker_probe.py` in its workers.

    Raises:
        OSError: The server does not answer, or not to this.
        ValueError: It answers something else (a pydantic.ValidationError is one).
    """
    answer = post_json(f"{endpoint.base_url}/collective_rpc", {"method": "rank_facts"})
    if not isinstance(answer, dict) or not answer.get("results"):
        raise ValueError(f"no worker answered: {str(answer)[:200]}")
    return sorted((RankFacts.model_validate(rank) for rank in answer["results"]), key=lambda facts: facts.rank)


def kernel_name(ranks: list[RankFacts]) -> str | None:
    """The kernels of all ranks, the one with most layers first, each with its layers a rank; None without a layer."""
    layers = sum((Counter(rank.kernels) for rank in ranks), Counter[str]())
    return ", ".join(f"{name} ({count // len(ranks)})" for name, count in layers.most_common()) or None


def kernel_warnings(ranks: list[RankFacts]) -> list[str]:
    """A sentence for each fallback, and one where ranks compute differently."""
    found = {name for rank in ranks for name in rank.kernels}
    said = [f"{name}: {meaning}" for name, meaning in FALLBACK_KERNELS.items() if name in found]
    if any(rank.kernels != ranks[0].kernels for rank in ranks):
        said.append("ranks multiply with different kernels: " + "; ".join(str(rank.kernels) for rank in ranks))
    return said
