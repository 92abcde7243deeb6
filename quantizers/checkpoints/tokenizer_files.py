"""Which files of a model folder make its tokenizer."""

from pathlib import Path

TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
)


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files in `folder`, chat template included, sorted."""
    return sorted(path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern))
