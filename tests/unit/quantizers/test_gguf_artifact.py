"""GGUF as an artifact's format: tensors by the checkpoint's names, rules for words, what is refused."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from configs.errors import RequestError, UnreadableError
from quantizers.base import load_method, own_bits, parse_config
from quantizers.checkpoints.gguf_pre_tokenizer import pre_tokenizer_name
from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.gguf_tokenizer import write_tokenizer
from quantizers.checkpoints.gguf_vocabulary import PRE_TOKENIZERS, read_vocabulary
from quantizers.checkpoints.stored_model import GGUF_FILE, gguf_file, stored_files
from tests.tiny_gguf import write_bpe

Q_PROJ, O_PROJ = (f"model.layers.0.self_attn.{name}_proj.weight" for name in ("q", "o"))
NORM = "model.layers.0.input_layernorm.weight"
NAMES = [Q_PROJ, O_PROJ, NORM, "model.embed_tokens.weight", "lm_head.weight"]
NUMBERS = np.random.default_rng(0)


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter orders the rows of queries: the two halves of a head, row by row."""
    halves: np.ndarray = weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)
    return halves


def write_file(path: Path, kind: str, weights: dict[str, np.ndarray]) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for name, values in weights.items():
        rounded = values.ndim >= 2
        stored = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0) if rounded else values
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType.Q8_0 if rounded else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights_of(rows: int = 64, columns: int = 96) -> np.ndarray:
    return NUMBERS.standard_normal((rows, columns)).astype(np.float32)


def test_tensors_have_the_checkpoint_s_names_order_and_values(tmp_path: Path) -> None:
    queries, output, norm = weights_of(), weights_of(), NUMBERS.standard_normal(96).astype(np.float32)
    stored = {
        "blk.0.attn_q.weight": permuted(queries, 4),
        "blk.0.attn_output.weight": output,
        "blk.0.attn_norm.weight": norm,
        "rope_freqs.weight": norm,
    }
    with GgufFile(write_file(tmp_path / GGUF_FILE, "llama", stored), NAMES) as file:
        assert {name: (info.dtype, info.shape) for name, info in file.headers.items()} == {
            Q_PROJ: ("Q8_0", (64, 96)),
            O_PROJ: ("Q8_0", (64, 96)),
            NORM: ("F32", (96,)),
        }
        assert file.headers[Q_PROJ].size_bytes == 64 * 3 * 34
        assert list(file.unnamed) == ["rope_freqs.weight"]
        assert "lm_head.weight" not in file
        assert np.abs(file.read(Q_PROJ).numpy() - queries).max() < 0.02
        assert np.abs(file.read(O_PROJ).numpy() - output).max() < 0.02
        assert np.array_equal(file.read(NORM).numpy(), norm)


@pytest.mark.parametrize(
    "spelling", ["block_sparse_moe.experts.{}.w1", "mlp.experts.{}.gate_proj"], ids=["mixtral", "qwen"]
)
def test_experts_are_found_in_the_tensor_that_holds_all_of_a_layer(spelling: str, tmp_path: Path) -> None:
    experts = np.stack([weights_of() for _ in range(3)])
    kind = "llama" if "sparse" in spelling else "qwen3moe"
    names = [f"model.layers.0.{spelling.format(number)}.weight" for number in range(4)]
    with GgufFile(write_file(tmp_path / GGUF_FILE, kind, {"blk.0.ffn_gate_exps.weight": experts}), names) as file:
        assert file.unnamed == {}
        assert [*file.headers] == names[:3]  # there is no fourth one in it
        for name, values in zip(names, experts, strict=False):
            assert (file.headers[name].shape, file.headers[name].size_bytes) == ((64, 96), 64 * 3 * 34)
            assert np.abs(file.read(name).numpy() - values).max() < 0.02


def test_what_the_converter_added_to_gemma_s_norms_is_taken_off(tmp_path: Path) -> None:
    queries, norm = weights_of(), NUMBERS.standard_normal(96).astype(np.float32)
    stored = {"blk.0.attn_q.weight": queries, "blk.0.attn_norm.weight": norm + 1}
    with GgufFile(write_file(tmp_path / GGUF_FILE, "gemma2", stored), NAMES) as file:
        assert np.abs(file.read(NORM).numpy() - norm).max() < 1e-6
        assert np.abs(file.read(Q_PROJ).numpy() - queries).max() < 0.02


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / GGUF_FILE, "llama", {"blk.0.attn_q.weight": weights_of()})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RequestError, match="is no whole GGUF file: it is cut off"):
        GgufFile(path, NAMES)


def test_an_artifact_s_weights_are_in_one_file_or_in_safetensors(tmp_path: Path) -> None:
    assert gguf_file(tmp_path) is None
    (tmp_path / "model.safetensors").touch()
    assert stored_files(tmp_path) == [tmp_path / "model.safetensors"]
    (tmp_path / GGUF_FILE).touch()
    assert stored_files(tmp_path) == [tmp_path / GGUF_FILE]


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_a_rule_for_words_is_known_by_tokenizer_json(pre: str, tmp_path: Path) -> None:
    write_tokenizer(read_vocabulary(write_bpe(tmp_path / "a.gguf", pre=pre)), tmp_path)
    found = pre_tokenizer_name(tmp_path)
    assert found is not None
    assert PRE_TOKENIZERS[found].splits == PRE_TOKENIZERS[pre].splits
    assert PRE_TOKENIZERS[found].ignore_merges == PRE_TOKENIZERS[pre].ignore_merges


DIGITS = {"type": "Digits", "individual_digits": True}
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
LETTERS = {"type": "Split", "pattern": {"Regex": r"\p{L}"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (WORDS, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [DIGITS, WORDS]}, "smollm"),
        ({"type": "Sequence", "pretokenizers": [DIGITS | {"individual_digits": False}, WORDS]}, None),
        ({"type": "Sequence", "pretokenizers": [WORDS, DIGITS]}, None),
        (WORDS | {"add_prefix_space": True}, None),
        (LETTERS, None),
        (LETTERS | {"behavior": "Removed"}, None),
        ({"type": "Split", "behavior": "Isolated"}, None),
        ({"type": "Metaspace"}, None),
        ({"type": "Sequence", "pretokenizers": 7}, None),
        ([], None),
        (None, None),
    ],
)
def test_steps_that_no_rule_has_have_no_name(steps: Any, name: str | None, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}, "pre_tokenizer": steps}))
    assert pre_tokenizer_name(tmp_path) == name


def test_without_tokenizer_json_there_is_no_rule_to_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        pre_tokenizer_name(tmp_path)


@pytest.mark.parametrize(("kind", "bits"), [("q4_0", 4), ("q4_k_m", 4), ("q5_k_m", 5), ("q8_0", 8)])
def test_bits_are_those_of_most_weights(kind: str, bits: int) -> None:
    assert own_bits("gguf", parse_config({"method": "gguf", "type": kind}).model_dump()) == bits


def test_rows_of_no_whole_block_are_refused_before_work() -> None:
    method, config = load_method("gguf"), parse_config({"method": "gguf"})
    assert method.violations(config, {"a": (8, 576)}, 1, "cpu", "bfloat16") == []
    (line,) = method.violations(config, {"a": (8, 576), "b": (8, 40), "c": (8, 72)}, 1, "cpu", "bfloat16")
    assert line.startswith("GGUF's blocks of 32 weights do not divide the 40 inputs of b (2 modules in all)")
