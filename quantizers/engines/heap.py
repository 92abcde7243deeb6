"""Memory that is free in this process, and the machine's again."""

import ctypes

_M_MMAP_THRESHOLD = -3
_LEAST_BYTES = 1 << 20
"""Of a block that is given back as soon as it is free: a matrix of a small model's Linear, in float32."""


def give_large_blocks_back() -> None:
    """Have blocks of a mebibyte and more mapped one by one from now on, as mallopt(3) of glibc does.

    Engines free wide matrices between narrow ones that they keep, and glibc raises its own limit up to 32 MiB with each
    block that is freed: the room of such a matrix stays with the heap then. A mixture of 1 B parameters took 5.6 GiB to
    round where 2.2 were in use, and GPTQ of 135 M 1.6 where 1.2 were (docs/findings.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LEAST_BYTES)
