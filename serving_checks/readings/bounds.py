"""The share of what the machine allows that a load test reached: the roofline of decoding and of reading prompts. Pure.

A decode step reads every weight once, whatever the number of requests, and each request's KV cache; it multiplies each
weight once a request. Reading a prompt multiplies each weight once a token, and reads it once. Memory and arithmetic
overlap, so the slower of the two bounds the step, and a share is that bound's time over the measured time. Left out
are activations, norms, sampling, the server's own work and scales' arithmetic: no engine reaches 1, and a share above 1
says that a number is wrong.
"""

import math
from typing import Literal, NamedTuple

from registry.contracts.base import DType
from registry.contracts.machine_limits import MachineLimits, MatrixDType, TokenWork
from registry.contracts.serving import LoadPoint, ServingRecord

Limit = Literal[
    "memory bandwidth", "float32 arithmetic", "bfloat16 arithmetic", "float16 arithmetic", "int8 arithmetic"
]

BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_ARITHMETIC: dict[MatrixDType, Limit] = {
    "float32": "float32 arithmetic",
    "bfloat16": "bfloat16 arithmetic",
    "float16": "float16 arithmetic",
    "int8": "int8 arithmetic",
}


class Share(NamedTuple):
    """What a load test reached of the bound that applies to it."""

    phase: Literal["decode", "prefill"]
    share: float
    """Measured over bound, both in tokens a second: 1 is all that the machine gives."""
    limit: Limit
    """What bounds it: the slower of the two."""
    tokens_per_second: float
    """Measured in this phase alone: of answers while they are decoded, or of a prompt until its first token."""
    bound_tokens_per_second: float
    inputs: str
    """What the bound was computed from, such as `0.25 GiB a step with 8 requests, 14.2 GiB/s`."""
    doubts: tuple[str, ...] = ()
    """Why the share may be too high."""

    @property
    def percent(self) -> str:
        """`31 %`; marked where it cannot be."""
        return percent_text(self.share)

    @property
    def sentence(self) -> str:
        """All of it, for a tooltip or a note."""
        told = (
            f"{self.phase}: {self.percent} of what {self.limit} allows,"
            f" {self.tokens_per_second:,.4g} of {self.bound_tokens_per_second:,.4g} tokens/s ({self.inputs})"
        )
        return "; ".join((told, *self.doubts))


def percent_text(share: float) -> str:
    """`31 %`, `0.4 %`; `130 % (?)` for what cannot be."""
    text = f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.2g} %"
    return f"{text} (?)" if share > 1 else text


def decode_share(serving: ServingRecord, point: LoadPoint) -> Share | None:
    """Of a closed loop: the bound's time of a step over the median time between two tokens of a request.

    None where the machine or the model's work is not known, the point is open or not to be believed, or an answer has
    one token. Prompts of others that are read between two tokens count as lost time, as they are for who waits.
    """
    known = _known(serving, point)
    if known is None or point.concurrency is None:
        return None
    limits, work, scale = known
    seconds = point.tpot.p50_seconds
    resident = serving.memory.resident_weights_bytes
    if not _measured(seconds) or point.output_tokens <= point.completed or resident is None:
        return None
    requests = min(point.concurrency, point.requests_running_peak or point.concurrency)
    # Half the answer is there on the average.
    context = (point.prompt_tokens + point.output_tokens / 2) / point.completed
    weights = resident - (serving.memory.unread_weights_bytes or 0)
    cached = requests * _seen(work, context) * work.kv_values * BYTES[serving.dtype]
    step_bytes = weights + cached
    operations = requests * (2 * (work.linear_parameters + work.head_parameters) + _attention(work, context))
    found = _slower(serving, limits, work, scale, step_bytes, operations)
    if found is None:
        return None
    limit, bound, rate = found
    many = "1 request" if requests == 1 else f"{requests} requests"
    amount = _gibibytes(step_bytes) if limit == "memory bandwidth" else _operations(operations)
    return _share("decode", limit, bound / seconds, requests / seconds, f"{amount} a step with {many}, {rate}", limits)


def prefill_share(serving: ServingRecord, point: LoadPoint) -> Share | None:
    """Of a closed loop of one request: the bound's time of its prompt over the median time to the first token.

    None as for `decode_share`, and at other levels, where a request also waits for others.
    """
    known = _known(serving, point)
    if known is None or point.concurrency != 1:
        return None
    limits, work, scale = known
    seconds, tokens = point.ttft.p50_seconds, point.prompt_tokens / point.completed
    resident = serving.memory.resident_weights_bytes
    if not _measured(seconds) or not tokens or resident is None:
        return None
    weights = resident - (serving.memory.unread_weights_bytes or 0)
    # A token sees half the prompt on the average; the head is asked for the last one only.
    operations = tokens * (2 * work.linear_parameters + _attention(work, tokens / 2)) + 2 * work.head_parameters
    found = _slower(serving, limits, work, scale, weights, operations)
    if found is None:
        return None
    limit, bound, rate = found
    amount = _gibibytes(weights) if limit == "memory bandwidth" else _operations(operations)
    inputs = f"{amount} for {tokens:,.0f} tokens, {rate}"
    return _share("prefill", limit, bound / seconds, tokens / seconds, inputs, limits)


def _known(serving: ServingRecord, point: LoadPoint) -> tuple[MachineLimits, TokenWork, int] | None:
    """Limits, work, and how many such machines work together: GPUs do, ranks of a CPU share its threads."""
    if serving.limits is None or serving.work is None or point.invalid is not None or not point.completed:
        return None
    gpus = serving.tensor_parallel_size * serving.pipeline_parallel_size
    return serving.limits, serving.work, gpus if serving.device == "cuda" else 1


def _measured(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0


def _slower(
    serving: ServingRecord, limits: MachineLimits, work: TokenWork, scale: int, read_bytes: float, operations: float
) -> tuple[Limit, float, str] | None:
    """What bounds, its seconds and its rate in words; None where neither rate is known, or the one that may apply."""
    found: list[tuple[Limit, float, str]] = []
    bandwidth = limits.serving.memory_bytes_per_second
    # What a cache holds is read faster than memory is: then arithmetic alone is a bound.
    cached = limits.cache_bytes is not None and read_bytes <= limits.cache_bytes
    if bandwidth and not cached:
        found.append(("memory bandwidth", read_bytes / bandwidth / scale, f"{scale * bandwidth / 2**30:,.1f} GiB/s"))
    multiplied_in = work.multiplied_in
    rate = limits.serving.of_matrices(multiplied_in)
    if rate:
        unit = "Gop/s" if multiplied_in == "int8" else "GFLOP/s"
        found.append((_ARITHMETIC[multiplied_in], operations / rate / scale, f"{scale * rate / 1e9:,.0f} {unit}"))
    return max((one for one in found if one[1] > 0), key=lambda one: one[1], default=None)


def _share(
    phase: Literal["decode", "prefill"], limit: Limit, share: float, speed: float, inputs: str, limits: MachineLimits
) -> Share:
    above = ("above 100 % is not possible: the limit, the model's work or the time is wrong",) if share > 1 else ()
    return Share(phase, share, limit, speed, speed / share, inputs, (*above, *limits.doubts))


def _seen(work: TokenWork, context: float) -> float:
    return min(context, work.sliding_window or context)


def _attention(work: TokenWork, context: float) -> float:
    """Operations of a token that sees so many others."""
    return work.attention_flop * _seen(work, context)


def _gibibytes(size: float) -> str:
    gib = size / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{size / 2**20:.1f} MiB"


def _operations(count: float) -> str:
    return f"{count / 1e9:,.3g} G operations"
