"""Headers that promise what no file holds: refused within a process's limits of memory and processor time."""

import json
import struct
from pathlib import Path

import pytest

from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.safetensors_header import read_headers
from tests.bounds import run_bounded

U32, STRING, ARRAY = 4, 8, 9
MANY = 2**62


def number(value: int, layout: str = "<Q") -> bytes:
    return struct.pack(layout, value)


def text(value: str) -> bytes:
    return number(len(value.encode())) + value.encode()


def gguf(*keys: bytes, key_count: int | None = None, tensors: bytes = b"", tensor_count: int = 0) -> bytes:
    counts = number(tensor_count) + number(len(keys) if key_count is None else key_count)
    return b"GGUF" + number(3, "<I") + counts + b"".join(keys) + tensors


def key(name: str, value_type: int, value: bytes) -> bytes:
    return text(name) + number(value_type, "<I") + value


def tensor(dimensions: int, shape: bytes) -> bytes:
    return text("w") + number(dimensions, "<I") + shape + number(0, "<I") + number(0)


NESTED = b"".join(number(ARRAY, "<I") + number(1) for _ in range(100_000))
CUT = "its header is cut off, or promises more than the file holds"
GGUF = {
    "keys": (gguf(key_count=MANY), CUT),
    "tensors": (gguf(tensor_count=MANY, tensors=bytes(100_000)), CUT),
    "strings": (gguf(key("a", ARRAY, number(STRING, "<I") + number(MANY) + bytes(100_000))), CUT),
    "numbers": (gguf(key("a", ARRAY, number(U32, "<I") + number(MANY) + bytes(100_000))), CUT),
    "string": (gguf(key("a", STRING, number(MANY))), CUT),
    "name": (gguf(number(MANY)), "a text in its header is too long"),
    "lists in lists": (gguf(key("a", ARRAY, NESTED)), "it holds lists in lists, more than 4 levels deep"),
    "dimensions": (
        gguf(tensors=tensor(2**32 - 1, bytes(10**6)), tensor_count=1),
        "its tensor w has 4294967295 dimensions",
    ),
    "sizes": (gguf(tensors=tensor(4, number(MANY) * 4), tensor_count=1), "it is cut off: its header promises"),
    "alignment": (gguf(key("general.alignment", STRING, text("x"))), "its general.alignment is 'x'"),
    "no alignment": (gguf(key("general.alignment", U32, number(0, "<I"))), "its general.alignment is 0"),
    "type": (gguf(key("a", 77, b"")), "it holds a value of the unknown type 77"),
    "version": (b"GGUF" + number(9, "<I"), "it is GGUF version 9"),
    "nothing": (b"", CUT),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_header_is_bounded(tmp_path: Path, name: str) -> None:
    content, message = GGUF[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        gguf_header.tensors(path)
    assert str(caught.value).startswith(message)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return number(len(content) if length is None else length) + content + data


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes


SAFETENSORS = {
    "length": (safetensors({}, length=MANY), "its header is longer than the file, or than any header is"),
    "short": (b"abc", "its header is longer than the file, or than any header is"),
    "deep": (safetensors(b"[" * 10**6), "values stand more than 100 levels deep"),
    "twice": (safetensors(b'{"w": 1, "w": 1}'), "line 1: the key 'w' stands twice in one object"),
    "digits": (safetensors(b'{"w": ' + b"9" * 10**5 + b"}"), "line 1: the number 9999"),
    "list": (safetensors([]), ""),
    "negative": (safetensors({"w": entry(shape=[-1], data_offsets=[0, -4])}), "w has a shape or a place that is no"),
    "fraction": (safetensors({"w": entry(shape=[1.5])}, b"1234"), "w has a shape or a place that is no number"),
    "product": (safetensors({"w": entry(shape=[2**62, 2**62])}, b"1234"), "w has 4 bytes for"),
    "overlap": (safetensors({"v": entry(), "w": entry()}, b"1234"), "w begins inside another tensor, or behind a gap"),
    "words": (safetensors({"w": entry(data_offsets="ab")}, b"1234"), "w has a shape or a place that is no number"),
    "latin": (safetensors(b'{"\xff": 1}'), "line 1: byte 2 (0xff) is not UTF-8"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_safetensors_header_is_bounded(tmp_path: Path, name: str) -> None:
    content, message = SAFETENSORS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(Exception) as caught:
        read_headers(tmp_path)
    assert str(caught.value).startswith(f"{path} is not a whole safetensors file: {message}")


def test_hostile_headers_take_little(tmp_path: Path) -> None:
    for name, (content, _) in GGUF.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
    for name, (content, _) in SAFETENSORS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    # A list of a hundred million empty texts: there, but more than a header holds.
    with (tmp_path / "sparse.gguf").open("wb") as file:
        file.write(gguf(key("a", ARRAY, number(STRING, "<I") + number(10**8))))
        file.truncate(10**9)
    done = run_bounded(
        "import pathlib, sys\n"
        "from configs.errors import RequestError\n"
        "from quantizers.checkpoints import gguf_header\n"
        "from quantizers.checkpoints.safetensors_header import read_headers\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: read_headers(path) if path.is_dir() else gguf_header.tensors(path)\n"
        "    except (RequestError, ValueError): print(path.name)\n",
        str(tmp_path),
    )
    assert done.stdout.splitlines() == sorted([*SAFETENSORS, "sparse.gguf", *(f"{name}.gguf" for name in GGUF)]), (
        done.stderr
    )
