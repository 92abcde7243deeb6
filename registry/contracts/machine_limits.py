"""What a machine can do at most, and what a token asks of it: the two sides of the roofline (Williams et al., 2009)."""

from typing import Literal

from registry.contracts.base import Device, Record

MatrixDType = Literal["float32", "bfloat16", "float16", "int8"]
"""What matrices are multiplied in."""


class Rates(Record):
    """The highest rates that some passes reached; None with a line in `MachineLimits.notes` where one is missing."""

    threads: int | None
    """None on a GPU."""
    memory_bytes_per_second: float | None = None
    """Of a sweep over memory that no cache holds."""
    float32_flop_per_second: float | None = None
    """A multiplication and its addition are two operations, here and below."""
    bfloat16_flop_per_second: float | None = None
    int8_op_per_second: float | None = None
    """8-bit factors, sums of 32 bits."""

    def of_matrices(self, dtype: MatrixDType) -> float | None:
        """Operations a second. Tensor cores multiply both 16-bit types at one rate; on CPUs float16 is not taken."""
        if dtype == "float16":
            return self.bfloat16_flop_per_second if self.threads is None else None
        known = {
            "float32": self.float32_flop_per_second,
            "bfloat16": self.bfloat16_flop_per_second,
            "int8": self.int8_op_per_second,
        }
        return known[dtype]


class MachineLimits(Record):
    """What was measured of the machine while no server ran."""

    device: Device
    alone: Rates | None
    """One thread; None on a GPU."""
    serving: Rates
    """As many threads as a server has; of one GPU."""
    cache_bytes: int | None
    """The last level's, all that the threads may run on together; None where the machine does not say."""
    swept_bytes: int
    """The memory that the bandwidth was taken from."""
    seconds: float
    """What it took, imports left out."""
    others_cores: float | None
    """Cores that other processes kept busy meanwhile; None where the kernel does not say."""
    doubts: list[str] = []
    """Why the rates may be too low, each a sentence: a share of them is then too high."""
    notes: list[str] = []
    """What could not be measured, and why."""


class TokenWork(Record):
    """What a token asks of the machine, by the model's config.json and the names of its tensors."""

    linear_parameters: int
    """Weights in the layers' Linears."""
    head_parameters: int
    """Weights of the last Linear, which gives the logits."""
    kv_values: int
    """That the KV cache holds of one token, all layers together."""
    attention_flop: int
    """For each pair of a token and one before it, all layers together."""
    sliding_window: int | None = None
    """Tokens that layers look back, where some do not see all: what is read further back is not counted."""
    multiplied_in: MatrixDType
    """What the layers' Linears are multiplied in: activations' dtype, or int8 where activations are quantized too."""
