"""Token ids that a tokenizer gives and the model has no embedding for."""

from collections.abc import Sequence
from typing import Any

from configs.errors import RequestError


def refuse_beyond_embedding(
    rows: Sequence[Sequence[int]], tokenizer: Any, embedding_rows: int, called: str = "calibration row"
) -> None:
    """Refuse rows with a token id that the embedding does not hold, by number and name (RequestError).

    Args:
        called: What one of them is.
    """
    for number, row in enumerate(rows, start=1):
        if row and max(row) >= embedding_rows:
            token = max(row)
            raise RequestError(
                f"{called} {number} holds token {token} ({tokenizer.convert_ids_to_tokens(token)!r}), and the"
                f" model's embedding ends at {embedding_rows - 1}",
                remedy="take that token out of the text or the chat template, or name the tokenizer that belongs to the"
                " model",
            )
