"""How a model expects a text to begin, as token ids: the one place that knows it.

Many models were trained with a token before every text (BOS) and answer with rubbish where it is left out; others never
saw one. The tokenizer says which; that it says what its source said is proved when the checkpoint is prepared.
"""

from collections.abc import Sequence
from typing import Any

from registry.hashing import digest_of

_ANY_TEXT = "a"


class TextEnding(ValueError):
    """The tokenizer also puts something after a text."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__(f"token ids {ids} after every text")
        self.ids = ids


def opening_of(tokenizer: Any) -> list[int]:
    """Token ids that `tokenizer` (of transformers) puts before every text; mostly BOS, or none.

    Raises:
        TextEnding: It puts some after a text too.
    """
    bare: list[int] = tokenizer(_ANY_TEXT, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(_ANY_TEXT, add_special_tokens=True)["input_ids"]
    place = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    if ending := whole[place + len(bare) :]:
        raise TextEnding(ending)
    return whole[:place]


def tokenizer_digest(tokenizer: Any) -> str:
    """Of all by which `tokenizer` (of transformers) makes ids of texts and texts of ids; names of files are no part."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Left behind by whoever used the tokenizer last; every call says them anew.
        backend.no_truncation()
        backend.no_padding()
    rules = tokenizer.get_vocab() if backend is None else backend.to_str()
    special = [str(tokenizer.special_tokens_map), sorted(tokenizer.all_special_ids)]
    return digest_of({"rules": rules, "special": special, "opening": opening_of(tokenizer)})


def text_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of `texts` as the model expects them to begin.

    A text that brings the opening along, as chat templates write it, gets no second one (lm-eval's `hf` and `vllm` do
    the same).
    """
    opening = opening_of(tokenizer)
    written: str = tokenizer.decode(opening) if opening else ""
    begun = [bool(opening) and text.startswith(written) for text in texts]
    rows: list[list[int]] = [[] for _ in texts]
    for brings in set(begun):
        places = [place for place, one in enumerate(begun) if one == brings]
        ids = tokenizer([texts[place] for place in places], add_special_tokens=not brings)["input_ids"]
        for place, row in zip(places, ids, strict=True):
            rows[place] = row
    return rows
