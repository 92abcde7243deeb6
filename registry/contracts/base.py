"""What all records share."""

from typing import Literal

from configs.base import StrictModel

DType = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Method = Literal["gptq", "awq", "bnb_nf4", "bnb_int8"]


class Record(StrictModel):
    """A fact that is kept. `schema_version` goes up when a field changes its meaning or goes away."""

    schema_version: int = 1
