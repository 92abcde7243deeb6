"""What a source itself says of its licence: the card beside the weights, or a GGUF file's header. Never a guess."""

import re
from pathlib import Path

from configs.errors import UnreadableError
from configs.reading.text import MalformedError, read_text
from quantizers.checkpoints import gguf_header

CARD = "README.md"

_CARD_BYTES = 4 << 20
_METADATA = re.compile(r"\A\s*---\n(.*?)\n---(?:\n|\Z)", re.DOTALL)
"""A card's beginning, as huggingface_hub finds it (repocard.py, REGEX_YAML_BLOCK)."""
_GGUF_KEY = "general.license"
_NAME = re.compile(r"[\w][\w.+-]{0,63}")
"""The hub's names and SPDX's; whoever writes a sentence there names no licence."""


def license_of_card(folder: Path) -> str | None:
    """`license` of the model card in a folder, as it stands there; None where there is none that can be read."""
    # Here: environments of other engines, which import this module's package, have no YAML.
    import yaml

    from configs.reading.yaml_text import YAML_BYTES, compose, mapping_pairs, scalar

    try:
        found = _METADATA.match(read_text(folder / CARD, _CARD_BYTES))
        root = compose(found[1]) if found and len(found[1]) <= YAML_BYTES else None
        if not isinstance(root, yaml.MappingNode):
            return None
        named = [value for key, _, value in mapping_pairs(root) if key == "license"]
        # A card with another licence further down names none that is sure.
        return _name(scalar(named[0])) if len(named) == 1 and isinstance(named[0], yaml.ScalarNode) else None
    except (UnreadableError, MalformedError):
        # A card is no part of the model: a broken one says nothing, and is no reason to refuse.
        return None


def license_of_gguf(path: Path) -> str | None:
    """The licence that the header of a sound GGUF file names; None where it names none."""
    return _name(gguf_header.metadata(path, (_GGUF_KEY,), lists=False).get(_GGUF_KEY))


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None
