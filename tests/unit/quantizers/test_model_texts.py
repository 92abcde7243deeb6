"""Texts beside the weights that engines would refuse after hours are refused at once."""

import json
import os
from pathlib import Path

import pytest

from configs.errors import UnreadableError
from quantizers.checkpoints.model_texts import check_model_texts


def refused(folder: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        check_model_texts(folder)
    return str(caught.value).replace(f"{folder}/", "")


def test_sound_texts_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_max_length": 10**30, "quantization_config": None}))
    (tmp_path / "tokenizer.json").write_text('{"a": 1, "a": 2}')
    (tmp_path / "merges.txt").write_bytes("Ġ t\r\n".encode())
    check_model_texts(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "special_tokens_map.json"])
def test_a_byte_order_mark_is_refused(tmp_path: Path, name: str) -> None:
    """As transformers does, whose words are: Unexpected UTF-8 BOM."""
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf{}")
    assert refused(tmp_path) == (
        f"{name}:1: begins with a byte order mark, which model libraries do not read\n"
        "  remedy: take it out: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE"
    )


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b'{\n"temperature": 0.6,\n"temperature": 0.7}', ":3: the key 'temperature' stands twice in one object"),
        (b'{\n"top_p": Infinity}', ":2: Infinity is no number of JSON"),
        (b'{"a": ' + b"[" * 5000, ": values stand more than 100 levels deep"),
        (b"[]", ": it holds no JSON object"),
        ('{"a": "Brücke"}'.encode("latin-1"), ":1: byte 9 (0xfc) is not UTF-8"),
    ],
)
def test_what_is_no_strict_json_is_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    assert refused(tmp_path).startswith(f"generation_config.json{fact}")


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    assert refused(tmp_path).startswith("tokenizer.json: is larger than 256 MiB")
    (tmp_path / "tokenizer.json").unlink()
    os.mkfifo(tmp_path / "merges.txt")
    assert refused(tmp_path).startswith("merges.txt: is a pipe, not a file")
