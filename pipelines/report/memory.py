"""What the bytes that quantization frees are worth: room for tokens."""

from registry.contracts.serving import MemoryRecord


def more_tokens(baseline: MemoryRecord, artifact: MemoryRecord) -> int | None:
    """How many more tokens of KV cache fit the same memory when the artifact stands in the baseline's place.

    Computed, not measured: the freed weight bytes of all ranks over what a token takes on all ranks, which is each
    rank's KV budget times the ranks over the tokens that fit it. Below zero where the artifact's weights are larger.

    Args:
        baseline, artifact: Of servers with equally many ranks.

    Returns:
        None where one of the numbers could not be read, or the ranks differ.
    """
    cost = _bytes_per_token(artifact)
    before, after = baseline.weights_bytes_by_rank, artifact.weights_bytes_by_rank
    if cost is None or not before or not after or len(before) != len(after):
        return None
    return int((sum(before) - sum(after)) / cost)


def more_tokens_sentence(baseline: MemoryRecord, artifact: MemoryRecord) -> str | None:
    """The same as a sentence that says where the number is from; None as above."""
    tokens, cost = more_tokens(baseline, artifact), _bytes_per_token(artifact)
    freed = (baseline.resident_weights_bytes or 0) - (artifact.resident_weights_bytes or 0)
    if tokens is None or cost is None:
        return None
    verb, kind = ("frees", "more") if freed >= 0 else ("takes", "fewer")
    return (
        f"the same memory holds {abs(tokens):,} {kind} tokens of KV cache"
        f" (computed: the artifact {verb} {abs(freed) / 2**20:,.1f} MiB of weights, a token takes {cost:,.0f} bytes)"
    )


def _bytes_per_token(record: MemoryRecord) -> float | None:
    if not record.kv_cache_bytes or not record.kv_cache_tokens or not record.weights_bytes_by_rank:
        return None
    return record.kv_cache_bytes * len(record.weights_bytes_by_rank) / record.kv_cache_tokens
