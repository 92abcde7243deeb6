"""Prompts are as long as was asked, come from the text, and no two begin alike."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from configs.errors import RequestError
from serving_checks.load.config import Prompts
from serving_checks.load.prompts import PromptSource, read_text

_BEGIN = 0


class PieceTokenizer:
    """Pieces of up to `size` characters, a space before the first; the beginning gets a token of its own.

    With a size of 3 the cut "abcde|f" is read back as "abc|def", as tokenizers do in the middle of words.
    """

    def __init__(self, size: int = 4) -> None:
        self._piece = re.compile(rf" ?\S{{1,{size}}}")
        self._ids: dict[str, int] = {}
        self._pieces = ["<begin>"]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = [_BEGIN] if add_special_tokens else []
        for piece in self._piece.findall(text):
            if piece not in self._ids:
                self._ids[piece] = len(self._pieces)
                self._pieces.append(piece)
            ids.append(self._ids[piece])
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(self._pieces[one] for one in token_ids if not (skip_special_tokens and one == _BEGIN))


def source(seed: int = 0, text: str | None = None) -> PromptSource:
    return PromptSource(PieceTokenizer(), text or read_text(None), seed)


@pytest.mark.parametrize("tokens", [2, 16, 64, 500])
def test_a_prompt_is_as_long_as_the_server_will_count_it(tokens: int) -> None:
    tokenizer = PieceTokenizer()
    prompts = PromptSource(tokenizer, read_text(None), seed=0)
    for _ in range(20):
        prompt = prompts.prompt(tokens)
        assert len(tokenizer.encode(prompt.text)) == prompt.tokens == tokens


def test_prompts_are_pieces_of_the_text() -> None:
    words = set(read_text(None).split())
    for _ in range(20):
        inner = source().prompt(64).text.split()[:-1]
        assert inner
        assert set(inner) <= words


def test_equal_seeds_give_equal_prompts() -> None:
    assert [source(3).prompt(32) for _ in range(3)] == [source(3).prompt(32) for _ in range(3)]
    assert source(3).prompt(32) != source(4).prompt(32)


def test_no_two_prompts_begin_alike() -> None:
    tokenizer = PieceTokenizer()
    prompts = PromptSource(tokenizer, read_text(None), seed=0)
    begins = [tuple(tokenizer.encode(prompts.prompt(24).text)[:17]) for _ in range(2000)]
    assert len(set(begins)) == 2000


def test_a_mix_has_its_lengths_in_equal_numbers_and_no_order() -> None:
    config = Prompts(mixes=["mixed"], short=8, medium=16, long=32)
    lengths = [prompt.tokens for prompt in source().mix(config, "mixed", 30)]
    assert {length: lengths.count(length) for length in lengths} == {8: 10, 16: 10, 32: 10}
    assert any(before > after for before, after in pairwise(lengths))
    assert lengths[:3] * 10 != lengths
    assert [prompt.tokens for prompt in source().mix(config, "medium", 3)] == [16, 16, 16]


def test_a_text_that_is_used_up_is_told() -> None:
    few = source(text="One short sentence.")
    with pytest.raises(RequestError, match="no new prompt of 4 tokens, after") as caught:
        for _ in range(20):
            few.prompt(4)
    assert "a longer text under `prompts.file`" in caught.value.remedy


def test_a_file_of_texts(tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text("\n".join(json.dumps({"text": text}) for text in ("Erster Satz.", "Zweiter Satz.")) + "\n\n")
    assert read_text(lines) == "Erster Satz.\nZweiter Satz."
    plain = tmp_path / "text.txt"
    plain.write_text("Grüße aus Köln.", encoding="utf-8")
    assert read_text(plain) == "Grüße aus Köln."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.txt", None),
        ("empty.txt", b" \n"),
        ("latin.txt", b"Gr\xfc\xdfe"),
        ("broken.jsonl", b"{"),
        ("other.jsonl", b'{"prompt": "x"}'),
        ("list.jsonl", b"[1]"),
    ],
)
def test_a_file_without_texts_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RequestError, match=re.escape(f"load.prompts.file: {file}")):
        read_text(file)
