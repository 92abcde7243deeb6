"""A licence is what the source says in so many words, or not known; no card keeps a model from being taken."""

from pathlib import Path

import gguf
import pytest

from quantizers.checkpoints.declared_license import license_of_card, license_of_gguf


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n", "apache-2.0"),
        ("\ufeff---\r\nlicense: 'llama3.2'\r\n---\r\n", "llama3.2"),
        ("---\nlicense: other\nlicense_name: ours\n---", "other"),
        ("# A model\nlicense: mit\n", None),
        ("---\ntags: [a]\n---\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: mit\nlicense: apache-2.0\n---\n", None),
        ("---\nlicense: see <b>below</b>\n---\n", None),
        ("---\nlicense: 2\n---\n", None),
        ("---\nlicense: !!python/object:os.system x\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n" + "[" * 500 + "\n---\n", None),
        ("", None),
    ],
)
def test_the_card_s_own_word(tmp_path: Path, card: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert license_of_card(tmp_path) == expected


def test_what_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert license_of_card(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert license_of_card(tmp_path) is None


@pytest.mark.parametrize(
    ("declared", "expected"), [("apache-2.0", "apache-2.0"), ("see the website", None), (7, None), (None, None)]
)
def test_a_gguf_header_s_word(tmp_path: Path, declared: str | int | None, expected: str | None) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    if isinstance(declared, str):
        writer.add_license(declared)
    elif declared is not None:
        writer.add_uint32("general.license", declared)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert license_of_gguf(tmp_path / "model.gguf") == expected
