"""Sources: what is refused before a stage starts, and what the record of a checkpoint says."""

import json
import struct
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.errors import RequestError
from quantizers.checkpoints.sources import (
    FolderSource,
    GgufSource,
    HubSource,
    PackageGgufSource,
    SourceConfig,
    check_source,
    checkpoint_bytes,
)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
TENSORS = {
    "model.embed_tokens.weight": ("BF16", (16, 8)),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", (8, 8)),
    "model.layers.0.mlp.down_proj.weight": ("BF16", (8, 24)),
    "model.layers.0.input_layernorm.weight": ("BF16", (8,)),
}


ITEM_BYTES = {"F32": 4, "I32": 4, "BF16": 2, "U8": 1}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file of zeros, written by hand."""
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = ITEM_BYTES[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def write_folder(path: Path) -> Path:
    """A folder that looks like a model, made without any library."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    write_safetensors(path / "model.safetensors", TENSORS)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def refused(path: Path) -> str:
    with pytest.raises(RequestError) as error:
        check_source(FolderSource(kind="folder", path=path))
    assert error.value.remedy
    return error.value.what


def test_a_sound_folder_passes(folder: Path) -> None:
    check_source(FolderSource(kind="folder", path=folder))


def test_pickle_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pickle weights only (pytorch_model.bin)" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_auto_map_is_refused(folder: Path, name: str) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    assert "never run" in refused(folder)


def test_python_files_are_refused(folder: Path) -> None:
    (folder / "modeling_llama.py").write_text("")
    assert "modeling_llama.py" in refused(folder)


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(folder)


def test_an_unsupported_architecture_is_refused_with_the_nearest(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["LlamaForCausalLMs"]}))
    with pytest.raises(RequestError) as error:
        check_source(FolderSource(kind="folder", path=folder))
    assert "nearest supported one is LlamaForCausalLM;" in error.value.remedy


def test_a_quantized_checkpoint_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "gptq"}}))
    assert "quantized already (gptq)" in refused(folder)


@pytest.mark.parametrize("content", ["[]", "{", "{}"])
def test_a_config_of_no_model_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in refused(folder)


def test_a_folder_of_anything_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "is no model: it has no config.json" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nowhere")


def test_cut_off_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "not a whole safetensors file" in refused(folder)


def test_an_index_may_not_reach_outside(folder: Path) -> None:
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "../elsewhere.safetensors" in refused(folder)


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def write_gguf(path: Path, architecture: str = "llama") -> GgufSource:
    """A GGUF file by hand: keys of several types, a 4 x 6 matrix and 6 biases; its weights are zeros."""
    keys = [
        gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text(architecture),
        gguf_text("llama.rope.freq_base") + struct.pack("<If", 6, 1e4),
        gguf_text("tokenizer.ggml.model") + struct.pack("<I", 8) + gguf_text("llama"),
        gguf_text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + gguf_text("a") + gguf_text("bc"),
        gguf_text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8),
        gguf_text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 0, 3) + bytes(3),
    ]
    tensors = [
        gguf_text("blk.0.weight") + struct.pack("<IQQIQ", 2, 6, 4, 3, 0),
        gguf_text("blk.0.bias") + struct.pack("<IQIQ", 1, 6, 0, 32),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(32 + 6 * 4))
    return GgufSource(kind="gguf", path=path)


def test_the_checkpoints_size_is_known_beforehand(folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    assert checkpoint_bytes(FolderSource(kind="folder", path=folder)) == weights
    assert checkpoint_bytes(write_gguf(tmp_path / "model.gguf")) == 2 * (4 * 6 + 6)


@pytest.mark.parametrize("kept_bytes", [30, 100, 200])
def test_a_gguf_header_that_is_cut_off_is_refused(tmp_path: Path, kept_bytes: int) -> None:
    source = write_gguf(tmp_path / "model.gguf")
    source.path.write_bytes(source.path.read_bytes()[:kept_bytes])
    with pytest.raises(RequestError, match=r"the header of .*model\.gguf is broken"):
        checkpoint_bytes(source)


def test_a_hub_models_size_is_known_once_it_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = HubSource(kind="hub", id="org/model", revision="0" * 40)
    assert checkpoint_bytes(source) is None
    snapshot = tmp_path / "models--org--model" / "snapshots" / source.revision
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(bytes(48))
    assert checkpoint_bytes(source) == 48
    (snapshot / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 16000}, "weight_map": {}}')
    assert checkpoint_bytes(source) == 16000


def test_gguf_is_judged_by_its_header(tmp_path: Path) -> None:
    check_source(write_gguf(tmp_path / "model.gguf"))
    with pytest.raises(RequestError, match=r"'mamba' in .* is not supported"):
        check_source(write_gguf(tmp_path / "model.gguf", "mamba"))
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(RequestError, match="does not begin with GGUF"):
        check_source(GgufSource(kind="gguf", path=tmp_path / "model.gguf"))


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(RequestError, match="'no-such-distribution' is not installed"):
        check_source(PackageGgufSource(kind="package_gguf", package="no-such-distribution"))
    with pytest.raises(RequestError, match="matches: none"):
        check_source(PackageGgufSource(kind="package_gguf", package="pydantic"))


def test_a_hub_source_needs_a_revision() -> None:
    with pytest.raises(ValidationError, match="revision"):
        TypeAdapter(SourceConfig).validate_python({"kind": "hub", "id": "a/b"})
