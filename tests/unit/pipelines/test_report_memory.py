"""The sentence about freed memory, by hand."""

import pytest

from pipelines.report.memory import more_tokens, more_tokens_sentence
from registry.contracts.serving import MemoryRecord

MIB = 1 << 20


def memory(weights: list[int] | None, kv_bytes: int | None = 64 * MIB, tokens: int | None = 1024) -> MemoryRecord:
    return MemoryRecord(
        artifact_bytes=1, weights_bytes_by_rank=weights, kv_cache_bytes=kv_bytes, kv_cache_tokens=tokens
    )


def test_freed_bytes_become_tokens() -> None:
    """A token takes 64 KiB, so 150 MiB hold 2,400."""
    baseline, artifact = memory([200 * MIB]), memory([50 * MIB])
    assert more_tokens(baseline, artifact) == 2400
    assert more_tokens_sentence(baseline, artifact) == (
        "the same memory holds 2,400 more tokens of KV cache"
        " (computed: the artifact frees 150.0 MiB of weights, a token takes 65,536 bytes)"
    )


def test_a_token_takes_its_part_on_every_rank() -> None:
    assert more_tokens(memory([100 * MIB, 100 * MIB]), memory([25 * MIB, 25 * MIB])) == 1200


def test_larger_weights_hold_fewer() -> None:
    assert more_tokens(memory([50 * MIB]), memory([60 * MIB])) == -160
    assert "160 fewer tokens" in str(more_tokens_sentence(memory([50 * MIB]), memory([60 * MIB])))


@pytest.mark.parametrize(
    ("baseline", "artifact"),
    [
        (memory(None), memory([1])),
        (memory([1]), memory(None)),
        (memory([1]), memory([1], kv_bytes=None)),
        (memory([1]), memory([1], tokens=None)),
        (memory([1]), memory([1], tokens=0)),
        (memory([1, 1]), memory([1])),
    ],
)
def test_what_could_not_be_read_is_no_number(baseline: MemoryRecord, artifact: MemoryRecord) -> None:
    assert more_tokens(baseline, artifact) is None
    assert more_tokens_sentence(baseline, artifact) is None
