"""Which serving engines there are. Names only: an engine's module is imported when the engine is asked for."""

import importlib
from collections.abc import Mapping
from typing import cast

from serving_checks.engines.base import Engine, ServingConfig

ENGINES: Mapping[str, str] = {
    "vllm": "serving_checks.engines.vllm:VllmEngine",
}
"""Engine -> "module:Class"."""


def engine_type(name: str) -> type[Engine]:
    """Import the engine called `name`.

    Raises:
        KeyError: There is none; a config that names another is refused where it is read.
    """
    module, _, attribute = ENGINES[name].partition(":")
    return cast(type[Engine], getattr(importlib.import_module(module), attribute))


def engine_of(config: ServingConfig) -> Engine:
    """The engine that `config` is for."""
    return engine_type(config.engine)(config)
