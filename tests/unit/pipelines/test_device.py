"""The dtype policy follows what the CPU multiplies fast and what engines accept."""

import pytest

from pipelines.planning.device import MachineRecord, detect_machine
from quantizers.base import METHODS
from registry.contracts.base import Method
from serving_checks.engines.vllm import VllmEngine


def machine(fast_bfloat16: bool) -> MachineRecord:
    return MachineRecord(
        device="cpu", device_name="test", fast_bfloat16=fast_bfloat16, cpu_flags=[], threads=2, memory_bytes=1 << 30
    )


@pytest.mark.parametrize("method", [None, *METHODS])
def test_everything_is_bfloat16_where_that_is_fast(method: Method | None) -> None:
    assert machine(True).quantize_dtype(method) == "bfloat16"
    assert machine(True).serve_dtype(VllmEngine.serves_in_16_bits_only(method)) == "bfloat16"


def test_float32_where_bfloat16_is_slow_and_the_engines_take_it() -> None:
    slow = machine(False)
    assert {method: slow.serve_dtype(VllmEngine.serves_in_16_bits_only(method)) for method in (None, *METHODS)} == {
        None: "float32",
        "bnb_int8": "float32",
        "w8a8": "float32",
        "w8a8_gptq": "float32",
        "fp8": "float32",
        "gguf": "float32",
        "rtn": "bfloat16",
        "w4a16_gptq": "bfloat16",
        "nvfp4": "bfloat16",
        "autoround": "bfloat16",
        "gptq": "bfloat16",
        "awq": "bfloat16",
        "bnb_nf4": "bfloat16",
        "gptq_autogptq": "bfloat16",
        "awq_autoawq": "bfloat16",
    }
    assert slow.quantize_dtype("gptq") == slow.quantize_dtype("awq") == "float32"


def test_this_machine_is_described() -> None:
    found = detect_machine("cpu")
    assert found.device == "cpu"
    assert found.threads >= 1
    assert found.memory_bytes > 1 << 28
    assert found.fast_bfloat16 == bool({"amx_bf16", "avx512_bf16"} & set(found.cpu_flags))
