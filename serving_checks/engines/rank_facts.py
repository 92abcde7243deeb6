"""What each worker of a running server says about itself."""

from collections import Counter

from pydantic import Field

from registry.contracts.base import DType, Record

_EMBEDDINGS, _OUTPUT_LAYER = "embed_tokens.weight", "lm_head."
"""Names of tensors in the models that are served here."""


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

    @property
    def weights_bytes(self) -> int:
        """All that it holds for weights."""
        return sum(self.tensor_bytes.values())

    @property
    def unread_bytes(self) -> int:
        """Embedding tables that nothing multiplies by: beside an output layer, or kept by one with a packed copy."""
        tables = {name: size for name, size in self.tensor_bytes.items() if name.endswith(_EMBEDDINGS)}
        copies = {f"{name} (packed)" for name in tables}
        apart = any(name.startswith(_OUTPUT_LAYER) or name in copies for name in self.tensor_bytes)
        return sum(tables.values()) if apart else 0


def kernel_name(ranks: list[RankFacts]) -> str | None:
    """The kernels of all ranks, the one with most layers first, each with its layers a rank; None without a layer."""
    layers = sum((Counter(rank.kernels) for rank in ranks), Counter[str]())
    return ", ".join(f"{name} ({count // len(ranks)})" for name, count in layers.most_common()) or None


def unequal_kernels(ranks: list[RankFacts]) -> list[str]:
    """A sentence where ranks compute differently."""
    if all(rank.kernels == ranks[0].kernels for rank in ranks):
        return []
    return ["ranks multiply with different kernels: " + "; ".join(str(rank.kernels) for rank in ranks)]
