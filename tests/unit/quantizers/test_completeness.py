"""Prepare holds tensors against the model's class, looks at every number, and records what later stages ask about."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from quantizers.checkpoints.checkpoint import PrepareJob, describe, positions, prepare, sliding_window
from quantizers.checkpoints.gguf_weights import load_weights
from quantizers.checkpoints.safetensors_header import WEIGHTS_INDEX
from quantizers.checkpoints.sources import FolderSource, check_source
from registry.contracts import CheckpointRecord
from registry.stage_process import StageClock
from tests import tiny_families
from tests.tiny_families import make_tiny_of
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.slow

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint, made once."""
    return make_tiny_llama(tmp_path_factory.mktemp("whole") / "model", hidden=64, intermediate=96, heads=2, kv_heads=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def tensors_of(folder: Path) -> Tensors:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def save(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> None:
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name, metadata={"format": "pt"})


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def prepared(source: Path, output: Path) -> CheckpointRecord:
    job = PrepareJob(
        stage="prepare",
        result_file=output.parent / "result.json",
        output_dir=output,
        source=FolderSource(kind="folder", path=source),
        dtype="float32",
    )
    return prepare(job, StageClock(output.parent / "progress"))[0]


def refused(folder: Path) -> str:
    shutil.rmtree(folder.parent / "output", ignore_errors=True)  # a stage's own is new each time
    with pytest.raises(RequestError) as caught:
        prepared(folder, folder.parent / "output")
    told = str(caught.value)
    assert str(folder.parent / "output") not in told, "our copy means nothing to the user"
    return told


def test_what_belongs_to_a_checkpoint_is_copied_and_recorded(folder: Path, tmp_path: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    (folder / "notes.md").write_text("")
    change(folder / "config.json", quantization_config=None)
    output = tmp_path / "output"
    record = prepared(folder, output)
    assert sorted(path.name for path in output.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (record.architecture, record.dtype) == ("LlamaForCausalLM", "bfloat16")
    assert record.linear_shapes["model.layers.1.mlp.down_proj"] == (64, 96)
    assert len(record.linear_shapes) == 14
    assert record.parameters == sum(tensor.numel() for tensor in tensors_of(folder).values())
    assert (record.num_attention_heads, record.num_key_value_heads, record.head_size) == (2, 1, 32)
    assert (record.positions, record.embedding_rows) == (512, 512)
    assert (record.has_chat_template, record.has_bos_or_eos, record.beyond_float16) == (True, True, {})
    assert (record.text_opening, "tokenizer.json" in record.tokenizer_proof) == ([], True)
    assert record.digest == describe(output, origin="").digest


def _without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def _with_bias(tensors: Tensors) -> Tensors:
    return tensors | {"model.layers.0.self_attn.q_proj.bias": tensors["model.norm.weight"].clone()}


def _cut(tensors: Tensors) -> Tensors:
    return tensors | {UP: tensors[UP][:-32]}


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_without(HEAD), f"missing: {HEAD}"),
        (_without(UP), f"missing: {UP}"),
        (_with_bias, "not part of it: model.layers.0.self_attn.q_proj.bias"),
        (_cut, f"{UP} is 64 x 64 instead of 96 x 64"),
        (lambda tensors: {name.removeprefix("model."): one for name, one in tensors.items()}, "missing: model."),
    ],
)
def test_tensors_that_are_not_the_class_s_are_named(
    folder: Path, edit: Callable[[Tensors], Tensors], told: str
) -> None:
    save(folder, edit(tensors_of(folder)))
    assert told in refused(folder)


def test_a_config_of_more_layers_than_there_are_is_told(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3)
    told = refused(folder)
    assert "missing: model.layers.2.input_layernorm.weight" in told
    assert "and 5 more" in told


def test_two_output_embeddings_that_differ_contradict_a_tied_config(folder: Path) -> None:
    change(folder / "config.json", tie_word_embeddings=True)
    assert f"says that {HEAD} is {EMBEDDING}" in refused(folder)
    tensors = tensors_of(folder)
    save(folder, tensors | {HEAD: tensors[EMBEDDING].clone()})
    assert prepared(folder, folder.parent / "equal").tie_word_embeddings
    # transformers would tie the other way round, vLLM would not.
    save(folder, _without(EMBEDDING)(tensors))
    assert f"missing: {EMBEDDING}" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", [UP, "model.norm.weight"])
def test_numbers_that_are_not_finite_are_the_source_s(folder: Path, value: float, dtype: str, name: str) -> None:
    import torch

    tensors = {key: tensor.to(getattr(torch, dtype)) for key, tensor in tensors_of(folder).items()}
    tensors[name].view(-1)[-3] = value
    save(folder, tensors)
    assert f"the source's own weights are not finite: {name}" in refused(folder)


@pytest.mark.parametrize(
    ("name", "dtype", "told"),
    [
        ("model.norm.weight", "int64", "model.norm.weight as I64"),  # all ones, so nothing is lost here
        (UP, "bool", f"{UP} as BOOL"),
        (UP, "float64", f"{UP} as F64"),
        ("", "int8", "hold no weight matrices in float32, bfloat16 or float16"),
    ],
)
def test_weights_that_are_stored_as_no_engine_computes_are_named(
    folder: Path, name: str, dtype: str, told: str
) -> None:
    import torch

    tensors = tensors_of(folder)
    save(folder, {key: tensor.to(getattr(torch, dtype)) if name in key else tensor for key, tensor in tensors.items()})
    assert told in refused(folder)


def test_a_weight_beyond_float16_is_recorded(folder: Path) -> None:
    tensors = tensors_of(folder)
    tensors[UP][3, 7] = -2.0e6
    tensors["model.norm.weight"][0] = 65280
    save(folder, tensors)
    assert prepared(folder, folder.parent / "output").beyond_float16 == {UP: pytest.approx(2.0e6, rel=0.01)}


def test_shards_without_an_index_get_one(folder: Path, tmp_path: Path) -> None:
    tensors = tensors_of(folder)
    record = prepared(folder, tmp_path / "single")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, half in enumerate((names[:9], names[9:]), start=1):
        save(folder, {name: tensors[name] for name in half}, f"model-{number:05}-of-00002.safetensors")
    sharded = prepared(folder, tmp_path / "sharded")
    assert sharded.linear_shapes == record.linear_shapes
    index = json.loads((tmp_path / "sharded" / WEIGHTS_INDEX).read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert not (folder / WEIGHTS_INDEX).exists()


def test_a_template_that_is_null_is_none(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    change(folder / "tokenizer_config.json", chat_template=None)
    assert not describe(folder, origin="").has_chat_template


def test_a_tokenizer_with_neither_begin_nor_end_is_recorded(folder: Path) -> None:
    change(folder / "tokenizer_config.json", bos_token=None, eos_token=None)
    assert not describe(folder, origin="").has_bos_or_eos


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "dynamic", "factor": 2.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
    ],
)
def test_rope_scaling_counts_as_vllm_counts_it(folder: Path, scaling: dict[str, object] | None, expected: int) -> None:
    from transformers import AutoConfig

    change(folder / "config.json", rope_parameters=None, rope_scaling=scaling)
    assert positions(AutoConfig.from_pretrained(folder)) == expected


def test_a_window_is_told_only_where_layers_are_of_several_kinds() -> None:
    from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig

    kinds = ["sliding_attention", "full_attention"]
    assert sliding_window(Gemma3TextConfig(num_hidden_layers=2, layer_types=kinds, sliding_window=64)) == 64
    assert sliding_window(MistralConfig(num_hidden_layers=2, sliding_window=64)) is None
    assert sliding_window(LlamaConfig()) is None


@pytest.mark.parametrize(
    ("model_type", "left_whole", "head_size"),
    [
        ("qwen3_5_text", {f"model.layers.{n}.linear_attn.in_proj_{one}" for n in range(3) for one in "ab"}, 32),
        ("gemma4_text", {"model.per_layer_model_projection"}, 64),
        ("llama", set(), 32),
    ],
)
def test_what_no_method_quantizes_is_recorded(
    tmp_path: Path, model_type: str, left_whole: set[str], head_size: int
) -> None:
    record = describe(make_tiny_of(model_type, tmp_path / "model"), origin="")
    assert set(record.left_whole) == left_whole
    assert left_whole.isdisjoint(record.linear_shapes)
    assert (record.head_size, record.num_key_value_heads) == (head_size, 2), "of the widest of layers that differ"


def test_a_draft_head_is_passed_over(tmp_path: Path) -> None:
    import torch

    folder = make_tiny_of("qwen3_5_text", tmp_path / "model")
    before = describe(folder, origin="")
    save(folder, tensors_of(folder) | {"mtp.layers.0.mlp.up_proj.weight": torch.rand(64, 64)})
    record = describe(folder, origin="")
    assert record.passed_over == ["mtp.layers.0.mlp.up_proj.weight"]
    assert before.passed_over == []
    assert (record.linear_shapes, record.parameters) == (before.linear_shapes, before.parameters)


def test_experts_that_no_method_takes_apart_are_refused_by_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 4 has them by a switch of its config: attention alone would be rounded, in all checks' eyes soundly."""
    switched = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}
    monkeypatch.setitem(tiny_families._OWN, "gemma4_text", switched)
    folder = make_tiny_of("gemma4_text", tmp_path / "model")
    assert "a layer's experts in one tensor (model.layers.0.experts.down_proj and 3 more)" in refused(folder)
    with pytest.raises(RequestError, match="no method takes apart"):
        check_source(FolderSource(kind="folder", path=folder))


def write_llama_gguf(path: Path, leave_out: str = "", add: str = "") -> Path:
    """A whole GGUF Llama of one layer, but for what is asked; its weights are small numbers."""
    import gguf
    import numpy as np

    hidden, wide, vocabulary = 64, 96, 80
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(vocabulary)
    matrices = {
        "attn_q": (hidden, hidden),
        "attn_k": (32, hidden),
        "attn_v": (32, hidden),
        "attn_output": (hidden, hidden),
    }
    matrices |= {"ffn_gate": (wide, hidden), "ffn_up": (wide, hidden), "ffn_down": (hidden, wide)}
    shapes: dict[str, tuple[int, ...]] = {f"blk.0.{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"blk.0.{name}.weight": (hidden,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {"token_embd.weight": (vocabulary, hidden), "output_norm.weight": (hidden,)}
    shapes |= {add: (16,)} if add else {}
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        if name != leave_out:
            writer.add_tensor(name, generator.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_whole_gguf_file_is_read(tmp_path: Path) -> None:
    model = load_weights(write_llama_gguf(tmp_path / "model.gguf"), "bfloat16")
    assert model.config.tie_word_embeddings
    assert model.config.vocab_size == 80


def test_what_a_gguf_file_lacks_is_not_left_to_random_numbers(tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", leave_out="blk.0.ffn_up.weight")
    with pytest.raises(RequestError, match=r"missing: model\.layers\.0\.mlp\.up_proj\.weight"):
        load_weights(path, "bfloat16")


def test_what_the_conversion_would_pass_over_is_named(tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", add="rope_freqs.weight")
    with pytest.raises(RequestError, match=r"passes over: rope_freqs\.weight \(1 in all\)"):
        load_weights(path, "bfloat16")
