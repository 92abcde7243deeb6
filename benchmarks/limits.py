"""How well the machine's limits repeat, and what numpy and the C library reach on the same threads.

PYTHONPATH=. python -P benchmarks/limits.py --takes 5

The spread is that of all takes, highest less lowest over the median. The others are independent of torch: memory is
read by the C library's memchr, matrices are multiplied by numpy's BLAS, which has no type of fewer bits.
"""

import argparse
import ctypes
import math
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipelines.planning.device import detect_machine
from registry.contracts import MachineLimits
from serving_checks.readings.machine_limits import take_limits

_RATES = {
    "memory_bytes_per_second": ("memory, read", "GiB/s", 2**30),
    "float32_flop_per_second": ("float32", "GFLOP/s", 1e9),
    "bfloat16_flop_per_second": ("bfloat16", "GFLOP/s", 1e9),
    "int8_op_per_second": ("int8", "Gop/s", 1e9),
}
_PASSES = 7
_SIDE = 2048


def main(takes: int) -> None:
    """Print a line a rate, and what is to be doubted."""
    machine = detect_machine()
    found = [take_limits(machine.device, machine.serving_threads) for _ in range(takes)]
    others = {} if machine.device == "cuda" else _others(machine.serving_threads, found[0].swept_bytes)
    seconds = statistics.median(one.seconds for one in found)
    print(f"{machine.device_name}, {machine.serving_threads} threads, {takes} takes of {seconds:.1f} s")
    print(f"{'':14}{'unit':>9}{'median':>9}{'spread':>9}{'numpy, C':>10}")
    for name, (title, unit, scale) in _RATES.items():
        rates = [rate for one in found if (rate := getattr(one.serving, name)) is not None]
        if not rates:
            print(f"{title:14}{unit:>9}  not measured")
            continue
        middle = statistics.median(rates)
        other = f"{others[name] / scale:10.1f}" if name in others else f"{'–':>10}"
        spread = 100 * (max(rates) - min(rates)) / middle
        print(f"{title:14}{unit:>9}{middle / scale:9.1f}{spread:7.1f} %{other}")
    for line in _doubts(found):
        print(line)


def _doubts(found: list[MachineLimits]) -> list[str]:
    told = [line for one in found for line in (*one.doubts, *one.notes)]
    return [f"{told.count(line)} of {len(found)}: {line}" for line in dict.fromkeys(told)]


def _others(threads: int, swept: int) -> dict[str, float]:
    # Read when numpy is loaded.
    os.environ |= {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    import numpy as np

    one, other = (np.random.default_rng(seed).standard_normal((_SIDE, _SIDE), dtype=np.float32) for seed in (0, 1))
    swept_bytes = np.ones(swept, dtype=np.uint8)
    part = swept // threads
    find = ctypes.CDLL(None).memchr
    find.argtypes, find.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            # A foreign call lets other threads go on; what is looked for is not there.
            places = [swept_bytes.ctypes.data + number * part for number in range(threads)]
            list(pool.map(lambda place: find(place, 7, part), places))

        return {
            "memory_bytes_per_second": threads * part / _best_seconds(read),
            "float32_flop_per_second": 2 * _SIDE**3 / _best_seconds(lambda: one @ other),
        }


def _best_seconds(work: Callable[[], object]) -> float:
    best = math.inf
    for _ in range(_PASSES):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=5)
    main(parser.parse_args().takes)
