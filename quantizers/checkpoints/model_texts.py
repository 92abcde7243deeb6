"""The texts beside a checkpoint's weights: as strict as the engines that are going to read them, and within bounds."""

import codecs
from pathlib import Path

from configs.errors import UnreadableError
from configs.reading.json_text import read_json_object
from configs.reading.text import opened

_TOKENIZER_BYTES = 256 << 20
"""The largest in use take some 40 MB."""
_PARSED = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
)
_OTHERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")
"""Read by the tokenizers' own library, or by the reader of templates."""


def check_model_texts(folder: Path) -> None:
    """Refuse what a stage would stumble over after the work before it.

    Raises:
        UnreadableError: A file is no regular one, too large or no strict JSON; or it begins with a byte order mark,
            which transformers and the serving engines refuse, or take for a character of the text.
    """
    for name in (*_PARSED, *_OTHERS):
        path = folder / name
        if not path.exists():
            continue
        with opened(path, _TOKENIZER_BYTES) as file:
            marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        if marked:
            raise UnreadableError(
                "begins with a byte order mark, which model libraries do not read",
                file=path,
                line=1,
                remedy="take it out: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE",
            )
        if name in _PARSED:
            read_json_object(path)
