"""A process of its own that measures memory bandwidth and matrix rates, since torch is heavy and its threads stay.

    python -P -m serving_checks.readings.machine_rates <cpu|cuda> <threads> <result file>

Each rate is the best of some passes: whatever else runs can only take away from it. Bandwidth is that of reading, which
is what decoding does with weights.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from registry.contracts.base import Device
from registry.contracts.machine_limits import MachineLimits, Rates
from registry.files import write_text_atomically

_PASS_SECONDS = 0.15
"""Of one rate: bandwidth and four products, on one thread and on all, take two seconds with their preparations."""
_LEAST_PASSES = 3
_PRODUCT_SECONDS = 0.01
"""A product of matrices that takes less is mostly overhead, so larger ones are taken."""
_SMALLEST_SIDE, _LARGEST_SIDE, _LARGEST_SIDE_OF_GPU = 512, 4096, 8192
_LEAST_SWEPT, _MOST_SWEPT, _SWEPT_OF_GPU = 256 << 20, 2 << 30, 2 << 30
_CACHES = 4
"""The sweep is so many times the cache: what of it stays from pass to pass is then lost in the rest."""
_LEAST_BYTES_PER_SECOND, _LEAST_OPERATIONS_PER_SECOND = 2**30, 1e9
"""Less than any machine of the last ten years gives on one thread."""
_OTHERS = 0.25
"""Cores that others may take without a word."""
_TICKS = os.sysconf("SC_CLK_TCK")


class _Torch(NamedTuple):
    """The library on a device, and how to wait for the latter."""

    library: Any
    device: Device
    settle: Callable[[], None]

    @property
    def largest_side(self) -> int:
        return _LARGEST_SIDE if self.device == "cpu" else _LARGEST_SIDE_OF_GPU


def measure(device: Device, threads: int) -> MachineLimits:
    """Measure here and now, on the CPUs that this process may use."""
    import torch

    on = _Torch(torch, device, torch.cuda.synchronize if device == "cuda" else lambda: None)
    torch.backends.cuda.matmul.allow_tf32 = False
    notes: list[str] = []
    cache = cache_bytes() if device == "cpu" else None
    swept = _swept_bytes(cache) if device == "cpu" else _SWEPT_OF_GPU
    with torch.inference_mode(), _watched() as watched:
        # One thread first: those of a larger team spin for a while after their work.
        alone = _rates(on, 1, swept, notes) if device == "cpu" else None
        serving = alone if alone and threads == 1 else _rates(on, threads if alone else None, swept, notes)
    return MachineLimits(
        device=device,
        alone=alone,
        serving=serving,
        cache_bytes=cache,
        swept_bytes=swept,
        seconds=watched.seconds,
        others_cores=watched.others_cores,
        doubts=doubts(alone, serving, watched.others_cores),
        notes=list(dict.fromkeys(notes)),
    )


def doubts(alone: Rates | None, serving: Rates, others_cores: float | None) -> list[str]:
    """Why rates cannot be what the machine gives; empty where nothing speaks against them."""
    found = []
    if others_cores is not None and others_cores > _OTHERS:
        found.append(f"other processes kept {others_cores:.1f} cores busy while the machine's limits were measured")
    for rates in dict.fromkeys(filter(None, (alone, serving))):
        where = "" if rates.threads is None else f" on {_threads(rates.threads)}"
        for name, value, least in _with_floors(rates):
            if value is not None and value < least:
                found.append(f"{name}{where} is {value:.3g} a second, less than any machine gives")
    if alone and serving.threads and serving.threads > 1:
        for (name, one, _), (_, many, _) in zip(_with_floors(alone), _with_floors(serving), strict=True):
            if one and many and many < 0.9 * one:
                found.append(f"{name} is lower on {_threads(serving.threads)} than on one: {many:.3g} and {one:.3g}")
    return found


def _with_floors(rates: Rates) -> list[tuple[str, float | None, float]]:
    return [
        ("memory bandwidth", rates.memory_bytes_per_second, _LEAST_BYTES_PER_SECOND),
        ("the float32 rate", rates.float32_flop_per_second, _LEAST_OPERATIONS_PER_SECOND),
        ("the bfloat16 rate", rates.bfloat16_flop_per_second, _LEAST_OPERATIONS_PER_SECOND),
        ("the int8 rate", rates.int8_op_per_second, _LEAST_OPERATIONS_PER_SECOND),
    ]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _rates(on: _Torch, threads: int | None, swept: int, notes: list[str]) -> Rates:
    if threads is not None:
        on.library.set_num_threads(threads)
    taken: dict[str, float | None] = {}
    takes: dict[str, Callable[[], float]] = {
        "memory_bytes_per_second": lambda: _bandwidth(on, swept),
        "float32_flop_per_second": lambda: _matrix_rate(on, on.library.float32),
        "bfloat16_flop_per_second": lambda: _matrix_rate(on, on.library.bfloat16),
        "int8_op_per_second": lambda: _int8_rate(on),
    }
    for name, take in takes.items():
        try:
            value = take()
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            # torch's errors for what a device does not do, and for memory; one rate less is no reason to have none.
            notes.append(f"{name} was not measured: {str(error).strip().splitlines()[0][:200] or type(error).__name__}")
            continue
        taken[name] = value if math.isfinite(value) and value > 0 else None
        if taken[name] is None:
            notes.append(f"{name} was not measured: it came out as {value}")
    return Rates(threads=threads, **taken)


def _bandwidth(on: _Torch, size: int) -> float:
    """Bytes a second of reading `size` bytes, by the faster of two reductions."""
    # Written by the team that reads it: on several memory nodes a page lies where its first writer runs.
    floats = on.library.empty(size // 4, dtype=on.library.float32, device=on.device).fill_(1.0)
    integers = floats.view(on.library.int32)
    return size / min(_best_seconds(on, floats.sum, 0.5), _best_seconds(on, integers.amax, 0.5))


def _matrix_rate(on: _Torch, dtype: Any) -> float:
    """Operations a second of a product of square matrices."""

    def product(side: int) -> Callable[[], Any]:
        one, other = (on.library.randn(side, side, device=on.device).to(dtype) for _ in range(2))
        return lambda: one @ other

    return _rate_of(on, product)


def _int8_rate(on: _Torch) -> float:
    """The faster of torch's two 8-bit products, of which the one or the other falls back to a loop on some CPUs."""
    found = []
    for product in (_int_mm, _quantized_linear) if on.device == "cpu" else (_int_mm,):
        check_int8(on.library, on.device, product)
        found.append(_rate_of(on, functools.partial(_int8_product, on, product)))
    return max(found)


def _int8_product(on: _Torch, product: Callable[..., Callable[[], Any]], side: int) -> Callable[[], Any]:
    one, other = (
        on.library.randint(low, 128, (side, side), dtype=on.library.int8, device=on.device) for low in (0, -128)
    )
    return product(on.library, one, other)


def _int_mm(library: Any, one: Any, other: Any) -> Callable[[], Any]:
    """Integers of 32 bits; cuBLASLt wants the second matrix by columns."""
    by_columns = other.t().contiguous().t()
    return lambda: library._int_mm(one, by_columns)


def _quantized_linear(library: Any, one: Any, other: Any) -> Callable[[], Any]:
    """What oneDNN gives to quantized models: unsigned by signed, to float32; scales of 1 leave the integers."""
    side = one.shape[0]
    packed = library.ops.onednn.qlinear_prepack(other.t().contiguous(), [side, side])
    unsigned, ones, zeros = one.to(library.uint8), library.ones(side), library.zeros(side, dtype=library.int64)
    return lambda: library.ops.onednn.qlinear_pointwise(
        unsigned, 1.0, 0, packed, ones, zeros, None, 1.0, 0, library.float32, "none", [], ""
    )


def check_int8(library: Any, device: str, product: Callable[..., Callable[[], Any]]) -> None:
    """Raise RuntimeError where an 8-bit product is not exact: its rate would be one of something else.

    Both signs are in it, and sums that 16 bits do not hold, at which some instructions saturate.
    """
    one = library.arange(32 * 32, device=device).remainder(128).reshape(32, 32).to(library.int8)
    other = library.arange(32 * 32, device=device).remainder(113).sub(20).reshape(32, 32).to(library.int8)
    if not library.equal(product(library, one, other)().double(), one.double() @ other.double()):
        raise RuntimeError(f"torch's {product.__name__.strip('_')} does not give the exact product")


def _rate_of(on: _Torch, product_of: Callable[[int], Callable[[], Any]]) -> float:
    """Operations a second, at the first side whose product takes long enough to be timed."""
    side = _SMALLEST_SIDE
    while True:
        product = product_of(side)
        product()
        seconds = _timed(on, product)
        if seconds >= _PRODUCT_SECONDS or side >= on.largest_side:
            return float(2 * side**3 / min(seconds, _best_seconds(on, product)))
        side *= 2


def _best_seconds(on: _Torch, work: Callable[[], Any], share: float = 1.0) -> float:
    """The shortest of the passes that fit `share` of the time of a rate."""
    work()
    begin, best, passes = time.perf_counter(), math.inf, 0
    while passes < _LEAST_PASSES or time.perf_counter() - begin < share * _PASS_SECONDS:
        best = min(best, _timed(on, work))
        passes += 1
    return best


def _timed(on: _Torch, work: Callable[[], Any]) -> float:
    on.settle()
    begin = time.perf_counter()
    work()
    on.settle()
    return time.perf_counter() - begin


def cache_bytes(cpus: set[int] | None = None, root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Size of the last-level caches of `cpus` (None: those of this process), each once; None where sysfs has none."""
    caches: dict[tuple[int, str], int] = {}
    for cpu in os.sched_getaffinity(0) if cpus is None else cpus:
        levels: dict[tuple[int, str], int] = {}
        for index in (root / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                level, size, shared = (_read(index / name) for name in ("level", "size", "shared_cpu_list"))
                levels[int(level), shared] = int(size.removesuffix("K")) << 10
            except (OSError, ValueError):  # a file that is missing, or no number: this cache is not told
                continue
        if levels:
            last = max(levels)
            caches[last] = levels[last]
    return sum(caches.values()) or None


def _read(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()


def _swept_bytes(cache: int | None) -> int:
    """Well beyond the caches, and never so much that memory gets short."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = min(max(_LEAST_SWEPT, _CACHES * (cache or 0)), _MOST_SWEPT)
    return min(wanted, max(available // 4, 64 << 20)) >> 12 << 12


class _Watched:
    """What a block took, once it is over."""

    seconds: float
    others_cores: float | None = None
    """Cores that others kept busy meanwhile."""


@contextmanager
def _watched() -> Iterator[_Watched]:
    """Count the seconds of the block, and what others computed meanwhile on the CPUs of this process."""
    watched = _Watched()
    begin, own, busy = time.perf_counter(), time.process_time(), _busy_seconds()
    yield watched
    watched.seconds, after = time.perf_counter() - begin, _busy_seconds()
    if busy is not None and after is not None:
        # Ticks are rounded, so a little less than nothing is nothing.
        watched.others_cores = max(0.0, (after - busy - (time.process_time() - own)) / watched.seconds)


def _busy_seconds() -> float | None:
    """All that was computed on the CPUs of this process since the start, and what a hypervisor took (proc(5), stat)."""
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
        busy = [ticks for name, *ticks in lines if name in mine]
        return sum(int(one) for ticks in busy for one in (*ticks[:3], *ticks[5:8])) / _TICKS
    except (OSError, ValueError, IndexError):
        return None


def main(device: Device, threads: int, result_file: Path) -> None:
    """Measure and write what was found."""
    write_text_atomically(result_file, measure(device, threads).model_dump_json())


if __name__ == "__main__":
    main("cuda" if sys.argv[1] == "cuda" else "cpu", int(sys.argv[2]), Path(sys.argv[3]))
