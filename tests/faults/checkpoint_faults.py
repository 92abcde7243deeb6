"""What can be wrong with a model folder, as rules."""

import json
import os
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.faults.hostile import VALUES, CheckpointFault, edited, edits

_WEIGHTS = "model.safetensors"
_CONFIG_TEXTS = (
    b"", b"[]", b"null", b"{", b"\0", b'{"a":' * 5000, b"[" * 100000, b"\xff\xfe{}", b'{"vocab_size": 1e999}',
    b'{"model_type": "nope"}', b"9" * 10000,
)  # fmt: skip
_TEMPLATES = (
    "{% for %}", "{{ 1/0 }}", "{{ x.__class__.__mro__ }}", "", "{% for i in range(10**9) %}{% endfor %}", "\0",
)  # fmt: skip


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / _WEIGHTS)


def _save(folder: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})


def _config(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


def _set(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps(_config(folder) | values))


def _one(folder: Path, draw: Any) -> tuple[dict[str, Any], str]:
    tensors = _tensors(folder)
    return tensors, draw(st.sampled_from(sorted(tensors)))


def _missing(folder: Path, draw: Any) -> str:
    tensors, name = _one(folder, draw)
    del tensors[name]
    _save(folder, tensors)
    return name


def _renamed(folder: Path, draw: Any) -> str:
    tensors, name = _one(folder, draw)
    tensors[name + "_"] = tensors.pop(name)
    _save(folder, tensors)
    return name


def _foreign(folder: Path, draw: Any) -> str:
    tensors, name = _one(folder, draw)
    tensors["model.layers.7." + name.rpartition("layers.")[2]] = tensors[name].clone()
    _save(folder, tensors)
    return name


def _reshaped(folder: Path, draw: Any) -> str:
    tensors, name = _one(folder, draw)
    tensors[name] = tensors[name].reshape(-1)[:-1].clone() if draw(st.booleans()) else tensors[name][None].clone()
    _save(folder, tensors)
    return name


def _not_finite(folder: Path, draw: Any) -> str:
    tensors, name = _one(folder, draw)
    flat = tensors[name].reshape(-1)
    flat[draw(st.integers(0, len(flat) - 1))] = draw(st.sampled_from((float("nan"), float("inf"), float("-inf"))))
    _save(folder, tensors)
    return name


def _integers(folder: Path, draw: Any) -> str:
    import torch

    tensors, name = _one(folder, draw)
    tensors[name] = tensors[name].to(draw(st.sampled_from((torch.int8, torch.int64, torch.bool))))
    _save(folder, tensors)
    return name


def _header(folder: Path, draw: Any) -> str:
    content = (folder / _WEIGHTS).read_bytes()
    length = draw(st.sampled_from((0, 1, 2**20, 2**40, 2**63 - 1, 2**64 - 1)))
    (folder / _WEIGHTS).write_bytes(struct.pack("<Q", length) + content[8:])
    return f"header of {length} bytes"


def _cut(folder: Path, draw: Any) -> str:
    size = (folder / _WEIGHTS).stat().st_size
    os.truncate(folder / _WEIGHTS, draw(st.integers(0, size - 1)))
    return "cut"


def _header_text(folder: Path, draw: Any) -> str:
    text = draw(st.sampled_from((b"", b"[]", b"{", b"null", b'{"a": {}}', b"\xff\xfe", b"[" * 5000)))
    (folder / _WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
    return repr(text[:20])


def _no_index(folder: Path, draw: Any) -> str:
    tensors = _tensors(folder)
    names = sorted(tensors)
    half = draw(st.integers(1, len(names) - 1))
    from safetensors.torch import save_file

    (folder / _WEIGHTS).unlink()
    for number, part in enumerate((names[:half], names[half:]), 1):
        save_file({name: tensors[name] for name in part}, folder / f"model-{number:05}-of-00002.safetensors")
    return "two shards and no index"


def _index(folder: Path, draw: Any) -> str:
    """Two shards with a sound index: another spelling of the same checkpoint."""
    _no_index(folder, draw)
    from safetensors import safe_open

    places = {}
    for path in sorted(folder.glob("model-*.safetensors")):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return "two shards"


def _shard_gone(folder: Path, draw: Any) -> str:
    _index(folder, draw)
    (folder / f"model-0000{draw(st.sampled_from('12'))}-of-00002.safetensors").unlink()
    return "a shard is missing"


def _half_downloaded(folder: Path, draw: Any) -> str:
    (folder / _WEIGHTS).rename(folder / draw(st.sampled_from((f"{_WEIGHTS}.incomplete", f"{_WEIGHTS}.part", "x.tmp"))))
    return "half-downloaded"


def _pointer(folder: Path, draw: Any) -> str:
    (folder / _WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    return "a pointer of Git LFS"


def _adapter(folder: Path, draw: Any) -> str:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    (folder / _WEIGHTS).rename(folder / "adapter_model.safetensors")
    return "an adapter"


def _quantized(folder: Path, draw: Any) -> str:
    _set(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    return "quantized already"


def _leftover(folder: Path, draw: Any) -> str:
    """Plain weights stay plain, whatever lies beside them."""
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    return "a quantizer's file beside plain weights"


def _shape_config(folder: Path, draw: Any) -> str:
    key = draw(
        st.sampled_from(
            ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim")
        )
    )
    _set(folder, **{key: draw(st.sampled_from((0, -1, 1, 3, 7, 100, 10**9, 1.5, "128", None, [1], True)))})
    return key


def _any_config(folder: Path, draw: Any) -> str:
    config = _config(folder)
    changes = draw(edits(config))
    (folder / "config.json").write_text(json.dumps(edited(config, changes), default=str))
    return f"config.json: {changes!r}"[:300]


def _config_text(folder: Path, draw: Any) -> str:
    text = draw(st.sampled_from(_CONFIG_TEXTS))
    (folder / "config.json").write_bytes(text)
    return repr(text[:30])


def _remote_code(folder: Path, draw: Any) -> str:
    (folder / "evil.py").write_text("import pathlib\npathlib.Path('/tmp/executed').touch()\n")
    _set(folder, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}, model_type="evil")
    return "asks for code of its own"


def _any_tokenizer(folder: Path, draw: Any) -> str:
    name = draw(st.sampled_from(("tokenizer.json", "tokenizer_config.json", "generation_config.json")))
    tree = json.loads((folder / name).read_text())
    tree.get("model", {}).pop("vocab", None) if draw(st.booleans()) and name == "tokenizer.json" else None
    changes = draw(edits(tree))
    (folder / name).write_text(json.dumps(edited(tree, changes), default=str))
    return f"{name}: {changes!r}"[:300]


def _tokenizer_text(folder: Path, draw: Any) -> str:
    name = draw(st.sampled_from(("tokenizer.json", "tokenizer_config.json")))
    (folder / name).write_bytes(draw(st.sampled_from((b"", b"[]", b"{", b"null", b"\0\0", b"[" * 50000, b"\xff\xfe"))))
    return name


def _tokenizer_gone(folder: Path, draw: Any) -> str:
    (folder / "tokenizer.json").unlink()
    return "no tokenizer"


def _long_tokenizer(folder: Path, draw: Any) -> str:
    from tests.tiny_llama import make_tiny_tokenizer

    make_tiny_tokenizer(folder, 540)
    tree = json.loads((folder / "tokenizer.json").read_text())
    size = len(tree["model"]["vocab"])
    tree["model"]["vocab"] |= {f"zz{number}": size + number for number in range(600 - size)}
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    return "more tokens than embedding rows"


def _template(folder: Path, draw: Any) -> str:
    text = draw(st.sampled_from(_TEMPLATES))
    (folder / "chat_template.jinja").write_text(text)
    return f"template {text[:20]!r}"


def _odd_file(folder: Path, draw: Any) -> str:
    what = draw(st.sampled_from(("fifo", "device", "folder", "loop", "socket", "dangling")))
    path = folder / draw(st.sampled_from(("config.json", _WEIGHTS, "tokenizer.json", "extra.json")))
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "socket":
        import socket

        here = Path.cwd()
        os.chdir(path.parent)
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to("/nowhere")
    return f"{path.name} is a {what}"


def _beside(folder: Path, draw: Any) -> str:
    name = draw(st.sampled_from((".git/config", "README.md", "original/params.json", "notes ü?.txt", ".DS_Store")))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("nothing of interest")
    return f"{name} beside it"


def _null_quantization(folder: Path, draw: Any) -> str:
    _set(folder, quantization_config=None)
    return "quantization_config: null"


def _sampling(folder: Path, draw: Any) -> str:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.6, "top_p": 0.9}))
    return "temperature without do_sample"


def _value(folder: Path, draw: Any) -> str:
    key = draw(
        st.sampled_from(("rms_norm_eps", "rope_theta", "max_position_embeddings", "bos_token_id", "eos_token_id"))
    )
    value = draw(VALUES)
    config = _config(folder)
    (folder / "config.json").write_text(json.dumps(config | {key: value}, default=str))
    return f"{key}: {value!r}"[:200]


CHECKPOINTS: tuple[CheckpointFault, ...] = (
    CheckpointFault("missing tensor", _missing, "refused", r"tensor|missing|lacks|weight"),
    CheckpointFault("renamed tensor", _renamed, "refused", r"tensor|missing|lacks|weight"),
    CheckpointFault("foreign tensor", _foreign, "refused", r"tensor|foreign|expected|layers"),
    CheckpointFault("wrong shape", _reshaped, "refused", r"shape|\["),
    CheckpointFault("not finite", _not_finite, "refused", r"finite|nan|inf"),
    CheckpointFault("integers", _integers, "refused", r"dtype|int|bool|I8|I64"),
    CheckpointFault("length of the header", _header, "refused", r"safetensors"),
    CheckpointFault("header", _header_text, "refused", r"safetensors"),
    CheckpointFault("cut weights", _cut, "refused", r"safetensors"),
    CheckpointFault("shards without an index", _no_index, "either"),
    CheckpointFault("shards", _index, "as before"),
    CheckpointFault("shard gone", _shard_gone, "refused", r"shard|missing|of-00002"),
    CheckpointFault("half downloaded", _half_downloaded, "refused", r"weights|safetensors|download|incomplete"),
    CheckpointFault("pointer", _pointer, "refused", r"LFS|pointer|safetensors"),
    CheckpointFault("adapter", _adapter, "refused", r"adapter"),
    CheckpointFault("quantized", _quantized, "refused", r"quantized"),
    CheckpointFault("a quantizer's leftover", _leftover, "as before"),
    CheckpointFault("sizes in config.json", _shape_config, "either"),
    CheckpointFault("config.json edited", _any_config, "either"),
    CheckpointFault("a value of config.json", _value, "either"),
    CheckpointFault("config.json's text", _config_text, "refused", r"config"),
    CheckpointFault("own code", _remote_code, "refused", r"evil|code|model_type|auto_map|not known"),
    CheckpointFault("tokenizer edited", _any_tokenizer, "either"),
    CheckpointFault("tokenizer's text", _tokenizer_text, "either"),
    CheckpointFault("no tokenizer", _tokenizer_gone, "refused", r"tokenizer"),
    CheckpointFault("long tokenizer", _long_tokenizer, "either"),
    CheckpointFault("template", _template, "either"),
    CheckpointFault("odd file", _odd_file, "either"),
    CheckpointFault("files beside", _beside, "as before"),
    CheckpointFault("null quantization", _null_quantization, "as before"),
    CheckpointFault("sampling without do_sample", _sampling, "as before"),
)
