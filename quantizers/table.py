"""Which methods there are. Names only: a method's module is imported when the method is asked for."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, cast

from configs.errors import RequestError
from quantizers.base import MethodConfig, Quantizer
from registry.contracts.base import Method

METHODS: dict[Method, str] = {
    "gptq": "quantizers.gptq:GPTQ",
    "awq": "quantizers.awq:AWQ",
    "bnb_nf4": "quantizers.bitsandbytes_nf4:BitsAndBytesNF4",
    "bnb_int8": "quantizers.bitsandbytes_int8:BitsAndBytesInt8",
}
"""Method -> "module:Class" of its Quantizer."""


def load_method(name: str) -> Quantizer:
    """Import and make the method called `name`.

    Raises:
        RequestError: There is no such method; the error names the nearest one.
    """
    target = cast(Mapping[str, str], METHODS).get(name)
    if target is None:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
        raise RequestError(
            f"there is no quantization method {name!r}",
            remedy=(f"did you mean {near[0]!r}? " if near else "") + f"the methods are {', '.join(METHODS)}",
        )
    module, _, attribute = target.partition(":")
    return cast(Quantizer, getattr(importlib.import_module(module), attribute)())


def parse_config(raw: MethodConfig | Mapping[str, Any]) -> MethodConfig:
    """Turn a method entry of a recipe or a job into the method's own config type.

    Raises:
        RequestError: `method` is missing or names no method.
        pydantic.ValidationError: A parameter is unknown or has the wrong type.
    """
    if isinstance(raw, MethodConfig):
        return raw
    if "method" not in raw:
        raise RequestError("a method entry does not say its `method`", remedy=f"add one of {', '.join(METHODS)}")
    return load_method(raw["method"]).config_type.model_validate(raw)
