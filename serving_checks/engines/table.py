"""Which serving engines there are. One line an engine; no engine itself is imported by its adapter's module."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, cast

from pydantic import Discriminator, Tag

from serving_checks.engines.base import Engine, ServingConfig

ENGINES: Mapping[str, str] = {
    "vllm": "serving_checks.engines.vllm:VllmEngine",
    "transformers": "serving_checks.engines.transformers_serve:TransformersEngine",
    "llamacpp": "serving_checks.engines.llamacpp:LlamaCppEngine",
    "openai": "serving_checks.engines.openai_address:OpenAIAddress",
}
"""Engine -> "module:Class"; the first is the one of configs that name none."""


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


def default_config() -> ServingConfig:
    """What a recipe without a word about serving means."""
    return engine_type(next(iter(ENGINES))).config_type.model_validate({})


def _named(config: Any) -> str:
    """The engine that a config or its JSON is for."""
    named = config.get("engine") if isinstance(config, dict) else getattr(config, "engine", None)
    return next(iter(ENGINES)) if named is None else str(named)


if TYPE_CHECKING:
    AnyServingConfig = ServingConfig
else:
    # Built from the table, so that a new engine needs no line here.
    AnyServingConfig = Annotated[
        Union[tuple(Annotated[engine_type(name).config_type, Tag(name)] for name in ENGINES)],  # noqa: UP007
        Discriminator(
            _named, custom_error_type="engine", custom_error_message=f"the serving engines are {', '.join(ENGINES)}"
        ),
    ]
