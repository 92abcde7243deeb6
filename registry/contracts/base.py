"""What all records share."""

from typing import Literal

from pydantic import ConfigDict

from configs.base import StrictModel

DType = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Method = Literal[
    "gptq",
    "awq",
    "bnb_nf4",
    "bnb_int8",
    "rtn",
    "w8a8",
    "w8a8_gptq",
    "w4a16_gptq",
    "fp8",
    "nvfp4",
    "autoround",
    "gguf",
    "gptq_autogptq",
    "awq_autoawq",
    "gptq_imported",
    "awq_imported",
    "bnb_nf4_imported",
    "bnb_int8_imported",
    "rtn_imported",
    "w8a8_imported",
]
_IMPORTED: dict[Method, Method] = {
    "gptq_imported": "gptq",
    "awq_imported": "awq",
    "bnb_nf4_imported": "bnb_nf4",
    "bnb_int8_imported": "bnb_int8",
    "rtn_imported": "rtn",
    "w8a8_imported": "w8a8",
}
_FORMATS: dict[Method, Method] = {
    "w8a8_gptq": "w8a8",
    "w4a16_gptq": "rtn",
    "autoround": "gptq",
    "gptq_autogptq": "gptq",
    "awq_autoawq": "awq",
    **_IMPORTED,
}


def format_of(method: Method) -> Method:
    """The method by which a format is known: whose artifacts `method`'s are read, served and inspected like."""
    return _FORMATS.get(method, method)


def is_imported(method: Method) -> bool:
    """Whether `method` takes in what was quantized elsewhere, and quantizes nothing."""
    return method in _IMPORTED


class Record(StrictModel):
    """A fact that is kept. `schema_version` goes up when a field changes its meaning or goes away."""

    # What was measured may be no number; what was asked may not. JSON has no word for it, and null would be read as
    # `not known`, or as damage.
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")

    schema_version: int = 1
