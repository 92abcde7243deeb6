"""The machine's limits by the real torch, in a process of their own. How high they are is the machine's matter."""

from pathlib import Path

import pytest

from serving_checks.readings.machine_limits import take_limits
from serving_checks.readings.machine_rates import _int_mm, _quantized_linear, check_int8

pytestmark = pytest.mark.engine


def test_every_rate_is_taken_on_one_thread_and_on_many() -> None:
    before = len([*Path("/proc/self/task").iterdir()])
    limits = take_limits("cpu", 2)
    assert limits.alone and (limits.alone.threads, limits.serving.threads) == (1, 2)
    assert limits.notes == []
    for rates in (limits.alone, limits.serving):
        for name in ("memory_bytes_per_second", "float32_flop_per_second", "bfloat16_flop_per_second"):
            assert getattr(rates, name) > 0
        assert (rates.int8_op_per_second or 0) > 0
    assert limits.swept_bytes >= 4 * (limits.cache_bytes or 0)
    assert len([*Path("/proc/self/task").iterdir()]) == before, "torch is not here"


def test_one_serving_thread_is_measured_once() -> None:
    limits = take_limits("cpu", 1)
    assert limits.serving == limits.alone


@pytest.mark.parametrize("product", [_int_mm, _quantized_linear])
def test_products_of_8_bits_are_exact(product) -> None:  # type: ignore[no-untyped-def]
    import torch

    check_int8(torch, "cpu", product)


def test_a_product_that_is_not_exact_is_refused() -> None:
    """Saturating pairs of sums, as some instructions do, are fast and wrong."""
    import torch

    def saturating(library, one, other):  # type: ignore[no-untyped-def]
        return lambda: (one.double() @ other.double()).clamp(max=2**15 - 1)

    with pytest.raises(RuntimeError, match="saturating does not give the exact product"):
        check_int8(torch, "cpu", saturating)
