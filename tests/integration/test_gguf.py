"""GGUF by llama.cpp in its environment: what llama.cpp and transformers read as the source, and what ruins it."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from quantizers.base import QuantizeJob
from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.safetensors_header import read_headers
from quantizers.checkpoints.sources import read_config
from quantizers.checkpoints.stored_model import gguf_file
from quantizers.inspection.agreement import agreement
from quantizers.inspection.dequantize import TensorFiles
from quantizers.inspection.gguf_file import ROPE_FACTORS, check_metadata, check_vocabulary, read_as_source
from registry.contracts import ArtifactRecord, InspectionCheck, StageResult
from tests.stage_in_environment import inspected, job_in, run, run_replaced
from tests.tiny_families import make_tiny_of, tiny_config
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.environment

ENGINE = "llamacpp_engine"


def job_of(folder: Path, source: Path, kind: str = "q8_0") -> QuantizeJob:
    return job_in(folder, source, [], {"method": "gguf", "type": kind})


def file_of(job: QuantizeJob) -> Path:
    assert job.output_dir is not None
    path = gguf_file(job.output_dir)
    assert path is not None
    return path


def failed(job: QuantizeJob, made: StageResult) -> list[InspectionCheck]:
    return [check for check in inspected(job, made).checks if not check.passed]


def write_value(path: Path, key: str, value: Any) -> None:
    """Change a number in a file's metadata, in place."""
    from gguf.gguf_reader import GGUFReader

    field = GGUFReader(path, "r+").fields[key]
    field.parts[field.data[0]][0] = value


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", hidden=256, intermediate=512, heads=8)


@pytest.fixture
def made(source: Path, tmp_path: Path) -> QuantizeJob:
    job = job_of(tmp_path, source)
    assert run(job).failure is None
    return job


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("q4_0", 4.5, 4.5), ("q4_k_m", 4.5, 5.5), ("q5_k_m", 5.5, 6.5), ("q8_0", 8.5, 8.5)],
)
def test_an_artifact_of_each_type_is_sound(kind: str, least: float, most: float, source: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, source, kind)
    made = run(job)
    assert made.failure is None
    record = ArtifactRecord.model_validate(made.record)
    assert least <= record.bits_per_weight <= most
    assert {module.name for module in record.quantized_modules} == set(job.checkpoint.linear_shapes)
    assert record.size_bytes == file_of(job).stat().st_size
    seen = inspected(job, made).checks
    assert [check for check in seen if not check.passed] == []
    assert {"embeddings", "vocabulary", "metadata"} <= {check.name for check in seen}
    assert job.output_dir is not None
    assert read_config(job.output_dir)["quantization_config"]["quant_method"] == "gguf"


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_mixture_s_experts_are_found_in_one_tensor_a_layer(model_type: str, tmp_path: Path) -> None:
    source = make_tiny_of(model_type, tmp_path / "model")
    job = job_of(tmp_path, source, "q4_k_m")
    made = run(job)
    assert made.failure is None
    told = {check.name: check for check in inspected(job, made).checks}
    assert [check for check in told.values() if not check.passed] == []
    assert "have their names" in told["expert_names"].detail
    assert "100.0 % of the Linear weights" in told["packed_dtypes"].detail


def test_what_llama_cpp_has_no_word_for_is_refused(tmp_path: Path) -> None:
    """It makes the weights of a token's experts add up to one, whatever the config says."""
    source = make_tiny_of("qwen3_moe", tmp_path / "model")
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"norm_topk_prob": False}))
    failure = run(job_of(tmp_path, source)).failure
    assert failure is not None
    assert "llama.cpp makes another model of this checkpoint" in failure.what
    assert failure.blame == "recipe"


def test_a_window_that_the_file_leaves_out_is_found(tmp_path: Path) -> None:
    source = make_tiny_of("mixtral", tmp_path / "model")
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": 256}))
    job = job_of(tmp_path, source)
    made = run(job)
    assert made.failure is None
    (check,) = failed(job, made)
    assert (check.name, "sliding_window is None and not 256" in check.detail) == ("metadata", True)


def test_a_file_that_llama_cpp_cannot_run_is_told_in_its_words(tmp_path: Path) -> None:
    """Phi's MLP is four times as wide as the model, to llama.cpp."""
    source = make_tiny_of("phi", tmp_path / "model")
    config = tiny_config("phi")
    config.intermediate_size = 256
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(source)
    failure = run(job_of(tmp_path, source)).failure
    assert failure is not None
    assert "llama.cpp does not run the file" in failure.what
    assert "blk.0.ffn_down.weight' has wrong shape" in failure.what


def test_transformers_reads_the_file_too(made: QuantizeJob) -> None:
    path = file_of(made)
    ours, _ = read_as_source(path, made.checkpoint_dir, "float32")
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-4)


def test_equal_work_gives_equal_bytes(source: Path, tmp_path: Path) -> None:
    one, other = (run(job_of(tmp_path / name, source, "q4_k_m")) for name in ("one", "other"))
    assert one.object is not None
    assert one.object == other.object


def test_rows_that_fill_no_large_block_get_another_type_and_that_is_told(tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "model", hidden=320, intermediate=512, heads=10)
    job = job_of(tmp_path, source, "q4_k_m")
    made = run(job)
    assert made.failure is None
    stored = ArtifactRecord.model_validate(made.record).parameters["tensors"]
    assert stored["Q5_0"] > stored["Q4_K"] > 0
    assert failed(job, made) == []


def test_what_the_converter_does_not_know_is_told(source: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, source)
    forgotten = "import conversion; del conversion.TEXT_MODEL_MAP['LlamaForCausalLM']"
    failure = run_replaced(job, ENGINE, forgotten).failure
    assert failure is not None
    assert "llama.cpp's converter does not know LlamaForCausalLM" in failure.what
    assert failure.blame == "recipe"


def test_a_tokenizer_by_a_rule_of_its_own_is_refused(tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "model")
    path = source / "tokenizer.json"
    told = json.loads(path.read_text())
    by_letter = {"type": "Split", "pattern": {"Regex": r"\p{L}"}, "behavior": "Isolated", "invert": False}
    told["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [by_letter, told["pre_tokenizer"]]}
    path.write_text(json.dumps(told))
    failure = run(job_of(tmp_path, source)).failure
    assert failure is not None
    assert "no rule by which this model's tokenizer cuts words" in failure.what
    assert failure.blame == "recipe"


def test_a_module_that_is_left_as_it_was_ends_the_stage(source: Path, tmp_path: Path) -> None:
    copied = (
        "from cyllama.llama import llama_cpp; whole = llama_cpp.model_quantize\n"
        "def copied(source, target, options): options.only_copy = True; whole(source, target, options)\n"
        "llama_cpp.model_quantize = copied"
    )
    failure = run_replaced(job_of(tmp_path, source), ENGINE, copied).failure
    assert failure is not None
    assert "left 14 of 14 Linears unquantized" in failure.what


def test_metadata_of_another_model_are_found(made: QuantizeJob) -> None:
    write_value(file_of(made), "llama.rope.freq_base", 500.0)
    check = check_metadata(file_of(made), made.checkpoint_dir)
    assert not check.passed
    assert "rope_theta is 500.0 and not 10000" in check.detail


def test_a_shorter_context_in_the_metadata_is_found(made: QuantizeJob) -> None:
    write_value(file_of(made), "llama.context_length", 64)
    check = check_metadata(file_of(made), made.checkpoint_dir)
    assert not check.passed
    assert "max_position_embeddings is 64 and not 512" in check.detail


def test_llama_3_s_rope_scaling_is_held_against_the_config(tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "model")
    path = source / "config.json"
    scaling = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, **scaling}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_parameters": rope}))
    job = job_of(tmp_path, source)
    made = run(job)
    assert made.failure is None
    assert failed(job, made) == []
    file = file_of(job)
    tensors, start = gguf_header.layout(file)
    with file.open("r+b") as opened:
        opened.seek(start + tensors[ROPE_FACTORS].offset)
        opened.write(struct.pack("<f", 2.0))
    check = check_metadata(file, source)
    assert not check.passed
    assert "llama.cpp would compute another model" in check.detail


def test_another_vocabulary_is_found(made: QuantizeJob) -> None:
    write_value(file_of(made), "tokenizer.ggml.eos_token_id", 0)
    check = check_vocabulary(file_of(made))
    assert not check.passed
    assert "eos token" in check.detail


def test_rows_in_another_order_are_no_agreement(made: QuantizeJob, source: Path) -> None:
    """As llama.cpp's own order of queries' rows would be, were it not undone."""
    name = "model.layers.0.self_attn.q_proj.weight"
    with TensorFiles(source) as files, GgufFile(file_of(made), read_headers(source)) as artifact:
        original, restored = files.read(name).float(), artifact.read(name)
        as_stored = restored.view(8, 2, -1, 256).transpose(1, 2).reshape(restored.shape)
    assert (agreement(original, restored)[0] or 0) > 0.99
    assert (agreement(original, as_stored)[0] or 0) < 0.5
