"""The numbers in a checkpoint, looked at once: are all finite, and do any lie beyond float16?"""

from __future__ import annotations

import math
from pathlib import Path

from configs.errors import RequestError
from quantizers.checkpoints.safetensors_header import FLOATS, read_headers

FLOAT16_MAX = 65504.0
"""The largest number that float16 holds (IEEE 754-2008, binary16)."""

_SHOWN = 4


def beyond_float16(folder: Path) -> dict[str, float]:
    """Read every tensor of `folder` once, one at a time.

    Returns:
        Tensor name -> its largest magnitude, of those that exceed float16.

    Raises:
        RequestError: A tensor holds NaN or infinity; all such tensors are counted and the first ones named.
    """
    from safetensors import safe_open

    largest: dict[str, float] = {}
    headers = read_headers(folder)
    for file in sorted({info.file for info in headers.values()}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                if headers[name].dtype in FLOATS and headers[name].size_bytes:
                    # NaN is the minimum and the maximum of every tensor that it is in.
                    low, high = opened.get_tensor(name).aminmax()
                    largest[name] = max(abs(float(low)), abs(float(high)))
    unsound = sorted(name for name, value in largest.items() if not math.isfinite(value))
    if unsound:
        more = f" and {len(unsound) - _SHOWN} more" if len(unsound) > _SHOWN else ""
        raise RequestError(
            f"the source's own weights are not finite: {', '.join(unsound[:_SHOWN])}{more} (NaN or infinity)",
            remedy="fetch the checkpoint again; where its publisher has it so too, no artifact can be made of it",
        )
    return {name: value for name, value in largest.items() if value > FLOAT16_MAX}
