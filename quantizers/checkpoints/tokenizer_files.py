"""Which files of a model folder make its tokenizer."""

import shutil
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


def carry_over(source: Path, target: Path) -> None:
    """Give `target` the source's tokenizer files and generation config, byte for byte, in place of what lies there."""
    generation = "generation_config.json"
    for written in (*tokenizer_files(target), target / generation):
        written.unlink(missing_ok=True)
    for path in (*tokenizer_files(source), *source.glob(generation)):
        shutil.copyfile(path, target / path.name)
