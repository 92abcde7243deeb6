"""What all records share."""

from typing import Literal

from pydantic import ConfigDict

from configs.base import StrictModel

DType = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Method = Literal["gptq", "awq", "bnb_nf4", "bnb_int8", "rtn", "w8a8"]


class Record(StrictModel):
    """A fact that is kept. `schema_version` goes up when a field changes its meaning or goes away."""

    # What was measured may be no number; what was asked may not.
    model_config = ConfigDict(allow_inf_nan=True)

    schema_version: int = 1
