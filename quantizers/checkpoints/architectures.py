"""Which architectures there are, and which method makes them: what `tools/model_table.py` found out by trying.

Every architecture that transformers, GPTQModel and vLLM of the locks all know is made as a tiny random model, quantized
by each method and inspected. What failed is refused before work, in the words of that trial.
"""

import functools
from importlib.resources import files

from configs.reading.json_text import parse_json
from registry.contracts.base import Method, Record

DATA_FILE = "architectures.json"


class Architecture(Record):
    """One architecture that the engines share."""

    model_type: str
    """transformers' name for it."""
    experts: bool
    """Whether it is a mixture of experts."""
    refused: dict[Method, str]
    """Method -> why it does not make this architecture."""
    unsmoothed: str = ""
    """Why SmoothQuant cannot go before `w8a8_gptq`; empty where it can, or where the method does not make it at all."""


class ArchitectureTable(Record):
    """What was found out with the libraries of the locks."""

    versions: dict[str, str]
    """Distribution -> version that was asked and tried; where another is installed, the table has to be made anew."""
    architectures: dict[str, Architecture]
    unknown: dict[str, str]
    """Architectures of transformers and vLLM that are not served or made here -> why."""


@functools.cache
def architecture_table() -> ArchitectureTable:
    """The table as it was made last (`python -m tools.model_table`)."""
    return ArchitectureTable.model_validate(parse_json(files(__package__).joinpath(DATA_FILE).read_text("utf-8")))
