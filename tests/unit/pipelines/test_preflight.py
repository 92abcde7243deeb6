"""Everything that is wrong with a run is told at once, with layer names, before work begins."""

import importlib.util
import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from configs.loading import load_yaml_model
from evals.suites.resolve import load_suite
from evals.suites.suite import Category, Suite
from pipelines.planning.compatibility import REFUSALS, VLLM_VERSION, Asked, Refusal, serving_violations
from pipelines.planning.context import JobContext
from pipelines.planning.preflight import (
    check_architecture,
    check_families,
    check_free_space,
    check_memory,
    check_rules,
    rule_violations,
    without_refused,
)
from pipelines.planning.stages import Stage, stages_of
from pipelines.recipe.run_config import RunConfig
from quantizers.base import METHODS
from quantizers.checkpoints.sources import FolderSource, HubSource, told_architecture
from registry.contracts import CheckpointRecord, ObjectRef, StageResult
from registry.contracts.base import Device, Method
from serving_checks.engines.table import ENGINES
from serving_checks.engines.vllm import VllmEngine
from tests.records import checkpoint_record
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, ROOT, run_config

GPU_MACHINE = MACHINE.model_copy(update={"device": "cuda", "fast_bfloat16": True, "gpu_memory_bytes": 80 << 30})


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
    assert any(line.startswith("nf4:") and "not shard prequantized bitsandbytes" in line for line in found)
    assert sum("16-bit types only" in line for line in found) == 3
    with pytest.raises(RequestError) as caught:
        check_rules(refused, checkpoint_record("sha256:c"))
    assert all(line in caught.value.what for line in found)


@pytest.mark.parametrize(
    ("serving", "machine", "told"),
    [
        ({"kv_cache_gib": 9}, {"memory_bytes": 16 << 30}, None),
        (
            {"kv_cache_gib": 9, "tensor_parallel_size": 2},
            {"memory_bytes": 16 << 30},
            "9 GiB on each of 2 ranks, and this machine has 16.0 GiB",
        ),
        ({"kv_cache_gib": 1000}, {"memory_bytes": 16 << 30}, "1000 GiB on each of 1 ranks, and this machine has 16.0"),
        ({"kv_cache_gib": 9, "tensor_parallel_size": 2}, {"device": "cuda", "gpu_memory_bytes": 16 << 30}, None),
        ({"kv_cache_gib": 20}, {"device": "cuda", "gpu_memory_bytes": 16 << 30}, "has 16.0 GiB on a GPU"),
        ({"kv_cache_gib": 20}, {"device": "cuda", "gpu_memory_bytes": None}, None),
    ],
)
def test_a_cache_that_the_machine_cannot_hold(
    serving: dict[str, object], machine: dict[str, object], told: str | None
) -> None:
    config, here = run_config(serving=serving), MACHINE.model_copy(update=machine)
    if told is None:
        check_memory(config.serving, here)
        return
    with pytest.raises(RequestError) as caught:
        check_memory(config.serving, here)
    assert told in caught.value.what


def test_a_method_that_gets_an_architecture_wrong_is_refused_before_work() -> None:
    phi = checkpoint_record("sha256:c").model_copy(update={"architecture": "PhiForCausalLM"})
    methods = {"awq": {"method": "awq", "group_size": 64}, "nf4": {"method": "bnb_nf4"}}
    (line,) = [line for line in rule_violations(context(methods=methods), phi) if "PhiForCausalLM" in line]
    assert line.startswith("awq: awq is not for PhiForCausalLM")


def test_a_method_is_refused_by_what_the_source_s_config_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["PhiForCausalLM"]}))
    methods = run_config(methods={"nf4": {"method": "bnb_nf4"}, "mine": {"method": "awq"}}).methods
    architecture = told_architecture(FolderSource(kind="folder", path=tmp_path))
    with pytest.raises(RequestError, match=r"\n  - mine: awq is not for PhiForCausalLM") as caught:
        check_families(methods, architecture)
    assert "nf4" not in caught.value.what
    check_families(methods, told_architecture(HubSource(kind="hub", id="org/phi3", revision="1" * 40)))


def test_heads_that_cannot_be_shared() -> None:
    found = rule_violations(context(serving={"tensor_parallel_size": 3}), checkpoint_record("sha256:c"))
    assert any("tensor parallel 3 cannot share 4 attention heads" in line for line in found)


def test_calibration_rows_longer_than_the_model_reads() -> None:
    long_rows = context(calibration={"source": "self", "samples": 4, "tokens": 8192})
    assert any(line.startswith("calibration:") for line in rule_violations(long_rows, checkpoint_record("sha256:c")))


def test_a_suite_that_asks_through_a_template_that_the_model_lacks() -> None:
    suite = load_suite("demo")
    first, *others = suite.categories
    chat = suite.model_copy(update={"categories": [first.model_copy(update={"chat_template": True}), *others]})
    asked = replace(context(), suite=chat)
    base_model = checkpoint_record("sha256:c").model_copy(update={"has_chat_template": False})
    (line,) = [line for line in rule_violations(asked, base_model) if "template" in line]
    assert line.startswith(f"suite demo asks {first.name} through the model's chat template, and it has none; add its")
    assert not rule_violations(asked, checkpoint_record("sha256:c"))
    check_rules(context(), base_model)


def test_answers_that_would_fill_the_context() -> None:
    category = Category(name="orders", description="", tasks=["ifeval"], metric="prompt_level_strict_acc")
    suite = Suite(name="mine", version="1", description="", categories=[category])
    short, long = (replace(context(serving={"max_model_len": length}), suite=suite) for length in (1281, 2048))
    (line,) = [line for line in rule_violations(short, checkpoint_record("sha256:c")) if "room" in line]
    assert line.startswith(
        "suite mine: answers to ifeval take up to 1280 tokens, and serving.max_model_len 1281 leaves no room"
    )
    assert not [line for line in rule_violations(long, checkpoint_record("sha256:c")) if "room" in line]


def test_the_compatibility_rows_belong_to_the_installed_engine() -> None:
    assert VllmEngine.version() == VLLM_VERSION, "read the engine's new version, then correct the table"


def test_the_disk_has_to_hold_the_source_and_twice_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 1 << 30
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100 * gib, 80 * gib, 20 * gib))
    source = FolderSource(kind="folder", path=tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(16 * gib)  # A hole: it takes no space here.
    results = {"prepare": StageResult(stage="prepare", object=ObjectRef(digest="sha256:c", size_bytes=16 * gib))}
    check_free_space(tmp_path, Stage("prepare", "", {}), source, {})
    check_free_space(tmp_path, Stage("measure", "gptq", {}), source, results)
    with pytest.raises(StageError, match=r"quantize:gptq may write 32832 MiB .* where 20480 MiB are free"):
        check_free_space(tmp_path, Stage("quantize", "gptq", {}), source, results)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(20 * gib)
    with pytest.raises(StageError, match="prepare may write 20544 MiB") as caught:
        check_free_space(tmp_path, Stage("prepare", "", {}), source, {})
    assert "--workspace" in caught.value.remedy
    # What is linked is not written again.
    (tmp_path / "model.safetensors").chmod(0o444)
    check_free_space(tmp_path, Stage("prepare", "", {}), source, {})


def test_a_size_that_is_not_known_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = HubSource(kind="hub", id="org/model", revision="0" * 40)
    with caplog.at_level(logging.WARNING):
        check_free_space(tmp_path, Stage("prepare", "", {}), source, {})
    assert "how large the source is shows only while it is downloaded" in caplog.text


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: f"{row.engine}-{row.method}")
def test_a_row_s_source_still_says_so(row: Refusal) -> None:
    package, _, name = row.source.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    text = Path(spec.submodule_search_locations[0], name).read_text()
    assert row.says in text, "read the engine's new version, then correct the table"
    if row.engine == "transformers" and (row.tensor_parallel or row.pipeline_parallel):
        assert not re.search(r"tensor_parallel|pipeline_parallel|tp_size|tp_plan", text)


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (("bnb_nf4", "cuda", 2, 1, "vllm"), "does not shard prequantized bitsandbytes"),
        (("bnb_int8", "cpu", 3, 1, "vllm"), "does not shard prequantized bitsandbytes"),
        (("bnb_nf4", "cuda", 1, 2, "vllm"), None),
        (("gptq", "cpu", 2, 1, "vllm"), None),
        (("gptq", "cuda", 2, 2, "vllm"), None),
        (("gptq", "cpu", 1, 2, "vllm"), "CPU"),
        ((None, "cpu", 1, 2, "vllm"), "CPU"),
        ((None, "cuda", 8, 2, "vllm"), None),
        ((None, "cuda", 2, 1, "transformers"), "one process"),
        (("gptq", "cuda", 1, 2, "transformers"), "one process"),
        ((None, "cpu", 1, 1, "transformers"), None),
        ((None, "cuda", 4, 2, "sglang"), None),
        (("gguf", "cuda", 1, 1, "vllm"), "reads no GGUF"),
        (("gguf", "cpu", 1, 1, "transformers"), "no folder with one"),
        (("gguf", "cpu", 1, 1, "llamacpp"), None),
        (("nvfp4", "cpu", 1, 1, "vllm"), "no kernel for NVFP4 on a CPU"),
        (("nvfp4", "cuda", 2, 1, "vllm"), None),
        (("fp8", "cpu", 1, 1, "vllm"), None),
        (("w4a16_gptq", "cpu", 1, 1, "vllm"), None),
    ],
)
def test_the_table(asked: tuple[Method | None, Device, int, int, str], refused: str | None) -> None:
    found = serving_violations(Asked(*asked))
    assert len(found) == (refused is not None)
    assert refused is None or refused in found[0]


def test_a_pipeline_on_a_cpu_is_told_once() -> None:
    found = rule_violations(context(serving={"pipeline_parallel_size": 2}), checkpoint_record("sha256:c"))
    assert [line for line in found if "pipeline" in line] == found
    assert len(found) == 1
    assert "serving.pipeline_parallel_size" in found[0]


def test_one_rank_is_refused_to_none() -> None:
    asked = [(method, engine) for method in METHODS for engine in ENGINES if engine != "llamacpp"]
    refused = [one for one in asked if serving_violations(Asked(one[0], "cuda", 1, engine=one[1]))]
    assert refused == [("gguf", "vllm"), ("gguf", "transformers")]


def test_llama_cpp_serves_its_own_format_and_what_is_in_none() -> None:
    asked = [None, *METHODS]
    served = [method for method in asked if not serving_violations(Asked(method, "cpu", 1, engine="llamacpp"))]
    assert served == [None, "gguf"]
    assert "comes for CPUs" in serving_violations(Asked("gguf", "cuda", 1, engine="llamacpp"))[0]


def test_an_engine_without_log_probabilities_cannot_be_evaluated() -> None:
    found = rule_violations(context(serving={"engine": "transformers"}), checkpoint_record("sha256:c"))
    assert len(found) == 1
    assert "transformers gives no log-probabilities" in found[0]


def llama_shapes(hidden: int, heads: int, wide: int, layers: int, vocabulary: int = 128256) -> CheckpointRecord:
    """Of Llama 3.1, with 8 key-value heads and an untied head (its config.json)."""
    linears = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // heads * 8, hidden),
        "self_attn.v_proj": (hidden // heads * 8, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    of_a_layer = sum(rows * columns for rows, columns in linears.values()) + 2 * hidden
    return checkpoint_record("sha256:c").model_copy(
        update={
            "linear_shapes": {
                f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in linears.items()
            },
            "parameters": layers * of_a_layer + 2 * vocabulary * hidden + hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "positions": 131072,
            "head_size": 128,
        }
    )


def test_the_cuda_recipe_fits_its_model() -> None:
    """bfloat16 everywhere, groups of 128, two ranks."""
    config = load_yaml_model(ROOT / "configs" / "recipes" / "llama_8b_cuda.yaml", RunConfig)
    checkpoint = llama_shapes(hidden=4096, heads=32, wide=14336, layers=32)
    assert checkpoint.parameters == 8_030_261_248
    machine = GPU_MACHINE
    assert config.evaluation.suite == "core"
    assert rule_violations(JobContext(config, machine, load_suite("core"), []), checkpoint) == []
    stages = stages_of(config, machine, FINGERPRINTS)
    assert [stage.name for stage in stages] == [
        "prepare",
        "soundness",
        "measure:baseline",
        *(f"{kind}:{name}" for name in ("rtn-int4", "w8a8") for kind in ("quantize", "inspect", "measure")),
        "calibrate",
        "quantize:gptq-int4",
        "inspect:gptq-int4",
        "measure:gptq-int4",
        "quantize:awq-int4",
        "inspect:awq-int4",
        "measure:awq-int4",
    ]
    assert {stage.dtype for stage in stages} == {"bfloat16"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"positions": 128}, "serving.max_model_len 2048 exceeds the model's 128 positions; set it to 128 or less"),
        (
            {"head_size": 24},
            "128, 160, 192, 224, 256 and 512; this model's is 24",
        ),
        ({"has_bos_or_eos": False}, "the tokenizer has neither BOS nor EOS"),
    ],
)
def test_what_the_model_cannot_do_is_told_once_with_the_numbers(changes: dict[str, object], told: str) -> None:
    checkpoint = checkpoint_record("sha256:c").model_copy(update=changes)
    (line,) = rule_violations(context(), checkpoint)
    assert told in line


def test_every_head_size_is_taken_on_a_gpu() -> None:
    assert not serving_violations(Asked(None, "cuda", 1, head_size=24))
    assert serving_violations(Asked(None, "cpu", 1, head_size=24))
    assert not serving_violations(Asked(None, "cpu", 1, engine="transformers", head_size=24))


@pytest.mark.parametrize(
    ("method", "with_amx"), [("gptq", True), ("w4a16_gptq", True), ("w8a8_gptq", True), ("fp8", False), (None, True)]
)
def test_quantized_experts_are_served_on_a_cpu_with_amx_or_on_none(method: Method | None, with_amx: bool) -> None:
    without = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
    asked = Asked(method, "cpu", 1, cpu_flags={*without, "amx_bf16"}, bits=4, experts=True)
    assert (not serving_violations(asked)) == with_amx
    assert bool(serving_violations(asked._replace(cpu_flags=without))) == (method is not None)
    assert not serving_violations(asked._replace(device="cuda"))
    assert not serving_violations(asked._replace(experts=False))


def test_a_mixture_that_is_not_served_here_is_refused_by_what_its_config_says() -> None:
    """Or left out, where its entry may be: a run of hours would end with an artifact that nobody serves."""
    methods = {"mine": {"method": "rtn"}}
    without = MACHINE.model_copy(update={"cpu_flags": ["avx512f", "avx512bw", "avx512dq", "avx512vl"]})
    config = run_config(methods=methods)
    with pytest.raises(RequestError, match=r"\n  - mine: vllm: its CPU kernels for quantized experts") as caught:
        check_architecture(config, without, "MixtralForCausalLM")
    assert "take gguf with serving.engine llamacpp" in caught.value.what
    for architecture in ("MistralForCausalLM", None):
        check_architecture(config, without, architecture)
    check_architecture(config, MACHINE.model_copy(update={"device": "cuda"}), "MixtralForCausalLM")
    glm = run_config(methods={"mine": {"method": "gptq", "group_size": 64}, "other": {"method": "rtn"}})
    with pytest.raises(RequestError, match=r"\n  - mine: vllm: it asks of a GPTQ artifact whether gate_proj") as caught:
        check_architecture(glm, MACHINE, "Glm4ForCausalLM")
    assert "other" not in caught.value.what
    check_architecture(glm, MACHINE, "GlmForCausalLM")
    small = run_config(methods=methods | {"nf4": {"method": "bnb_nf4"}})
    with pytest.raises(RequestError, match=r"\n  - nf4: vllm: its tree of this model has two decoders") as caught:
        check_architecture(small, MACHINE, "Gemma3nForCausalLM")
    assert "mine" not in caught.value.what
    both = run_config(methods=methods | {"nf4": {"method": "bnb_nf4"}}, optional=["mine"])
    left, why = without_refused(both, without, "MixtralForCausalLM")
    assert ([*left.methods], [*why]) == (["nf4"], ["mine"])


@pytest.mark.parametrize("method", ["gptq", "autoround", "awq", "w8a8", "w8a8_gptq"])
def test_transformers_does_not_serve_experts_that_it_does_not_read(method: Method) -> None:
    asked = Asked(method, "cuda", 1, engine="transformers", experts=True)
    (line,) = serving_violations(asked)
    assert "set serving.engine to vllm" in line
    assert not serving_violations(asked._replace(experts=False))
    assert not serving_violations(asked._replace(engine="vllm"))
    assert not serving_violations(asked._replace(method="fp8"))


@pytest.mark.parametrize("missing", ["avx512f", "avx512bw", "avx512dq", "avx512vl"])
def test_packed_weights_need_avx512_on_a_cpu(missing: str) -> None:
    old = MACHINE.model_copy(update={"cpu_flags": [flag for flag in MACHINE.cpu_flags if flag != missing]})
    methods = {name: {"method": name} for name in ("bnb_int8", "bnb_nf4")}
    four_bits = {name: {"method": name, "group_size": 64} for name in ("gptq", "awq", "rtn")}
    asked = replace(context(methods=methods | four_bits), machine=old)
    found = rule_violations(asked, checkpoint_record("sha256:c"))
    assert [line.partition(":")[0] for line in found] == ["gptq", "awq", "rtn"]
    assert all("made of AVX512 instructions, which this CPU lacks" in line for line in found)
    assert not rule_violations(replace(asked, machine=MACHINE), checkpoint_record("sha256:c"))


@pytest.mark.parametrize("missing", ["avx512f", "avx512_vnni"])
def test_integers_are_multiplied_on_a_cpu_with_vnni_only(missing: str) -> None:
    flags = ["avx512bw", "avx512dq", "avx512f", "avx512vl", "avx512_vnni"]
    new = MACHINE.model_copy(update={"cpu_flags": flags})
    old = MACHINE.model_copy(update={"cpu_flags": [flag for flag in flags if flag != missing]})
    asked = replace(context(methods={"w8a8": {"method": "w8a8"}}), machine=old)
    (line,) = rule_violations(asked, checkpoint_record("sha256:c"))
    assert line.startswith("w8a8: vllm: it multiplies 8-bit integers through oneDNN")
    assert not rule_violations(replace(asked, machine=new), checkpoint_record("sha256:c"))
    assert not serving_violations(Asked("w8a8", "cuda", 1, cpu_flags=[]))


@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_packed_weights_in_8_bits_are_not_served_on_a_cpu(method: Method) -> None:
    asked = context(methods={"mine": {"method": method, "group_size": 64, "bits": 8}})
    (line,) = rule_violations(asked, checkpoint_record("sha256:c"))
    assert "no CPU kernel for packed weights in 8 bits" in line
    assert not serving_violations(Asked(method, "cuda", 1, bits=8))


def test_a_weight_beyond_float16_forbids_what_goes_through_it() -> None:
    methods = {name: {"method": name, "group_size": 64} for name in ("gptq", "awq")}
    methods |= {name: {"method": name} for name in ("bnb_int8", "bnb_nf4")}
    linear = {"model.layers.0.mlp.down_proj.weight": 2.0e6}
    checkpoint = checkpoint_record("sha256:c").model_copy(update={"beyond_float16": linear})
    found = rule_violations(context(methods=methods), checkpoint)
    assert [line.partition(":")[0] for line in found] == ["gptq", "awq", "bnb_int8"]
    assert all("the weights of model.layers.0.mlp.down_proj.weight reach 2e+06, and float16" in line for line in found)
    # Only what a method rounds goes through float16, unless a dtype says so.
    outside = checkpoint.model_copy(update={"beyond_float16": {"model.norm.weight": 1.0e5}})
    assert not rule_violations(context(methods=methods), outside)
    narrow = {"nf4": {"method": "bnb_nf4", "compute_dtype": "float16"}}
    (line,) = rule_violations(context(methods=narrow), outside)
    assert line.startswith("nf4: the weights of model.norm.weight reach 100000")
    found = rule_violations(context(methods=narrow, dtype={"serve": "float16"}), outside)
    assert [line.partition(":")[0] for line in found] == ["baseline", "nf4"]


def test_optional_entries_are_left_out_where_the_machine_cannot_serve_them() -> None:
    demo = load_yaml_model(ROOT / "configs" / "recipes" / "demo.yaml", RunConfig)
    new = MACHINE.model_copy(update={"cpu_flags": [*MACHINE.cpu_flags, "avx512_vnni"]})
    assert without_refused(demo, new) == (demo, {})
    kept, left_out = without_refused(demo, MACHINE)
    assert set(demo.methods) - set(kept.methods) == set(left_out) == {"w8a8"}
    assert RunConfig.model_validate_json(kept.model_dump_json()) == kept
    assert "avx512_vnni" in left_out["w8a8"].lower() or "VNNI" in left_out["w8a8"]
    kept, left_out = without_refused(demo, MACHINE.model_copy(update={"cpu_flags": ["avx2"]}))
    assert list(kept.methods) == ["int8", "nf4"]
    assert set(left_out) == {"w8a8", "rtn", "gptq", "awq"}


def test_what_the_machine_cannot_make_is_left_out_too() -> None:
    originals = load_yaml_model(ROOT / "configs" / "recipes" / "originals.yaml", RunConfig)
    kept, left_out = without_refused(originals, MACHINE)
    assert set(originals.methods) - set(kept.methods) == set(left_out) == {"gptq-autogptq"}
    assert "AutoGPTQ quantizes with CUDA only" in left_out["gptq-autogptq"]
    with_gpu = MACHINE.model_copy(update={"device": "cuda", "gpu_memory_bytes": 80 << 30})
    assert without_refused(originals, with_gpu) == (originals, {})


def test_what_no_machine_takes_is_not_left_out_for_this_one() -> None:
    config = run_config(
        methods={"nf4": {"method": "bnb_nf4"}, "gptq": {"method": "gptq", "group_size": 64}},
        optional=["nf4"],
        serving={"tensor_parallel_size": 2},
    )
    assert without_refused(config, MACHINE) == (config, {})


def test_what_is_not_optional_stays_and_is_refused() -> None:
    config = run_config(methods={"mine": {"method": "w8a8"}, "int8": {"method": "bnb_int8"}})
    assert without_refused(config, MACHINE) == (config, {})
    with pytest.raises(RequestError, match="mine: vllm"):
        check_rules(replace(context(), config=config), checkpoint_record("sha256:c"))


def test_a_run_of_which_nothing_is_left_is_refused() -> None:
    config = run_config(
        methods={"mine": {"method": "gptq", "group_size": 64}}, optional=["mine"], replicates={"mine": 2}
    )
    with pytest.raises(RequestError, match="mine: vllm"):
        without_refused(config, MACHINE.model_copy(update={"cpu_flags": []}))
    with pytest.raises(ValidationError, match="names mien, which is no entry"):
        run_config(optional=["mien"])
