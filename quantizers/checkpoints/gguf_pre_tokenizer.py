"""By which of llama.cpp's rules a tokenizer.json cuts texts into words.

llama.cpp's converter knows a tokenizer by the digest of what it makes of one long text, so a model with a vocabulary of
its own is not known to it, whatever its rule is. The rule itself stands in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.reading.json_text import read_json_object
from quantizers.checkpoints.gguf_vocabulary import DIGITS, GPT2, PRE_TOKENIZERS


def pre_tokenizer_name(folder: Path) -> str | None:
    """The value of `tokenizer.ggml.pre` for the tokenizer.json in `folder`; None where no rule that is known here is
    its own.

    Raises:
        UnreadableError: The file is not there, or is no JSON.
    """
    told = read_json_object(folder / "tokenizer.json")
    try:
        splits = _splits(told["pre_tokenizer"])
        ignore_merges = bool(told["model"].get("ignore_merges", False))
    except (LookupError, TypeError, AttributeError):
        return None
    known = (
        name for name, rule in PRE_TOKENIZERS.items() if (rule.splits, rule.ignore_merges) == (splits, ignore_merges)
    )
    return next(known, None)


def _splits(told: dict[str, Any]) -> tuple[str, ...]:
    """Expressions one after the other (LookupError for a step that none of llama.cpp's rules has)."""
    match told["type"]:
        case "Sequence":
            return tuple(split for step in told["pretokenizers"] for split in _splits(step))
        case "ByteLevel" if not told.get("add_prefix_space", True):
            return (GPT2,) if told.get("use_regex", True) else ()
        case "Digits" if told.get("individual_digits", False):
            return (DIGITS,)
        case "Split" if told["behavior"] == "Isolated" and not told.get("invert", False):
            return (str(told["pattern"]["Regex"]),)
    raise LookupError(told["type"])
