"""Pairs of answers for tests: a record each, as a replay keeps them, and tables of many."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from registry.contracts import Answer, Pair
from registry.pairs import PairWriter

AT = datetime(2026, 1, 1, tzinfo=UTC)


def answer(**changed: Any) -> Answer:
    """A streamed answer of 20 tokens in a second."""
    fields: dict[str, Any] = {
        "status": 200,
        "finish_reason": "stop",
        "completion_tokens": 20,
        "first_token_seconds": 0.1,
        "seconds": 1.0,
        "text_hash": "t",
    }
    return Answer(**(fields | changed))


def failed() -> Answer:
    """No answer."""
    return Answer(status=500, error="server error")


def pair(number: int, champion: Answer | None = None, candidate: Answer | None = None, **changed: Any) -> Pair:
    """Two equal answers where nothing else is said."""
    fields: dict[str, Any] = {
        "id": f"p{number}",
        "number": number,
        "source": "replay",
        "at": AT + timedelta(seconds=number),
        "prompt_hash": "h",
        "prompt_characters": 10,
        "champion": champion or answer(),
        "candidate": candidate or answer(),
        "same": True,
    }
    return Pair(**(fields | changed))


def table_of(pairs: list[Pair]) -> pa.Table:
    """As `read_pair_table` gives it, from rows that need not be valid."""
    return pa.Table.from_pylist([one.model_dump(exclude={"schema_version"}) for one in pairs])


def write_pairs(folder: Path, pairs: list[Pair]) -> None:
    """Into `pairs/` of a replay's folder, in parts."""
    with PairWriter(folder, pairs_per_part=500) as writer:
        for one in pairs:
            writer.write(one)


def simulated_table(
    pairs: int,
    seed: int = 1,
    *,
    score_loss: float = 0.0,
    flips: float = 0.1,
    errors: tuple[float, float] = (0.002, 0.002),
    slower: float = 1.0,
    longer: float = 1.0,
    classes: tuple[str, ...] = ("",),
) -> pa.Table:
    """Pairs with a known truth, made in columns.

    Args:
        score_loss: Of a score of 0 or 1.
        flips: Share of the prompts whose score changes.
        errors: Share of answers of champion and candidate that fail, independently.
        slower: Ratio of the candidate's seconds, in the geometric mean; each pair spreads by a factor of 1.35.
        longer: The same of its tokens.
        classes: Of the prompts, as often as each other.
    """
    generator = np.random.default_rng(seed)
    upward, changed = (flips - score_loss) / 2, generator.random(pairs)
    champion_score = np.where(changed < upward, 0.0, np.where(changed < flips, 1.0, generator.random(pairs) < 0.7))
    candidate_score = np.where(changed < flips, 1.0 - champion_score, champion_score)
    tokens = generator.integers(20, 200, pairs)
    seconds = tokens * 0.02

    def side(score: np.ndarray, share: float, slow: float, long: float) -> pa.StructArray:
        fails = generator.random(pairs) < share
        took = seconds * slow * np.exp(generator.normal(0, math.log(1.35) / math.sqrt(2), pairs))
        written = np.rint(tokens * long * np.exp(generator.normal(0, math.log(1.35) / math.sqrt(2), pairs)))
        fields = {
            "error": pa.array(np.where(fails, "timeout", "")),
            "finish_reason": pa.array(np.where(generator.random(pairs) < 0.02, "length", "stop")),
            "refused": pa.array(generator.random(pairs) < 0.01),
            "completion_tokens": pa.array(written.astype(np.int64), mask=fails),
            "first_token_seconds": pa.array(took * 0.1, mask=fails),
            "seconds": pa.array(took, mask=fails),
            "score": pa.array(score, mask=fails),
            "mean_logprob": pa.array(-generator.exponential(0.5, pairs), mask=fails),
        }
        return pa.StructArray.from_arrays(list(fields.values()), list(fields))

    return pa.table(
        {
            "id": [f"p{number}" for number in range(pairs)],
            "number": np.arange(pairs),
            "prompt_class": np.array(classes)[generator.integers(0, len(classes), pairs)],
            "champion": side(champion_score, errors[0], 1.0, 1.0),
            "candidate": side(candidate_score, errors[1], slower, longer),
            "same": generator.random(pairs) < 0.8,
            "same_tool_calls": pa.array([None] * pairs, pa.bool_()),
            "agreement": generator.beta(20, 1, pairs),
            "champion_logprob": pa.array([None] * pairs, pa.float64()),
            "candidate_logprob": pa.array([None] * pairs, pa.float64()),
            "preference": pa.array([None] * pairs, pa.float64()),
        }
    )
