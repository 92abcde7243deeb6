"""Which files of a model folder make its tokenizer."""

from pathlib import Path

from configs.reading.json_text import read_json_object

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


def has_chat_template(folder: Path) -> bool:
    """Whether a template of any form lies in `folder`; one that is null is none."""
    config = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file():
        return True
    return config.is_file() and bool(read_json_object(config).get("chat_template"))
