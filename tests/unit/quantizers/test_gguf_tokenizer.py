"""Tokenizers out of GGUF metadata: written, read back as transformers reads them, held against llama.cpp's rules."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from quantizers.checkpoints import gguf_header, gguf_vocabulary
from quantizers.checkpoints.gguf_tokenizer import write_tokenizer
from quantizers.checkpoints.gguf_vocabulary import PRE_TOKENIZERS, check_vocabulary, read_vocabulary
from quantizers.checkpoints.llama_cpp_tokens import LlamaCpp
from quantizers.checkpoints.tokenizer_proof import ProvedTokenizer, prove_gguf
from tests.tiny_gguf import train_sentencepiece, write_bpe, write_spm

TEXTS = [
    "",
    "The fox  and   the dog",
    " leading",
    "x\n\n7 a  5\n12345",
    "it's IT'S don't",
    "Übergröße привет 世界 😀",
    "tab\tend ",
]


def proved(source: Path, folder: Path) -> ProvedTokenizer:
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    vocabulary = read_vocabulary(source)
    write_tokenizer(vocabulary, folder)
    return prove_gguf(vocabulary, folder, source)


def ids_of(folder: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    return ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    return path


@pytest.mark.parametrize(("said", "opening"), [(None, [1]), (True, [1]), (False, [])])
def test_sentencepiece_begins_with_bos_unless_told_otherwise(
    tmp_path: Path, folder: Path, said: bool | None, opening: list[int]
) -> None:
    source = write_spm(tmp_path / "a.gguf", add_bos_token=said)
    assert proved(source, folder).opening == opening
    assert ids_of(folder, "the river")[: len(opening) + 1] == [*opening, ids_of(folder, "the river")[len(opening)]]
    assert ids_of(folder, "") == opening


@pytest.mark.parametrize(
    ("pre", "said", "begins"),
    [("smollm", None, False), ("smollm", True, True), ("llama-bpe", None, True), ("llama-bpe", False, False)],
)
def test_byte_level_begins_with_bos_where_file_or_rule_says_so(
    tmp_path: Path, folder: Path, pre: str, said: bool | None, begins: bool
) -> None:
    source = write_bpe(tmp_path / "a.gguf", pre=pre, add_bos_token=said)
    bos = read_vocabulary(source).bos
    assert proved(source, folder).opening == ([bos] if begins else [])
    assert ids_of(folder, "") == ([bos] if begins else [])


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_rule_for_words_is_written_as_llama_cpp_reads_it(tmp_path: Path, folder: Path, pre: str) -> None:
    assert "texts have the token ids" in proved(write_bpe(tmp_path / "a.gguf", pre=pre), folder).proof


@pytest.mark.parametrize("prefix", [True, False])
def test_the_reference_agrees_with_sentencepiece_itself(tmp_path: Path, prefix: bool) -> None:
    own = train_sentencepiece(tmp_path, dummy_prefix=prefix)
    reference = LlamaCpp(read_vocabulary(write_spm(tmp_path / "a.gguf", add_space_prefix=prefix, add_bos_token=False)))
    # Two spaces are a token that the file adds; sentencepiece's own model does not know it.
    texts = [text for text in TEXTS if "  " not in text]
    assert [reference.ids(text) for text in texts] == [own.encode(text) for text in texts]


@pytest.mark.parametrize(
    "names", [("llama-bpe", "llama-bpe"), ("qwen2", "qwen2"), ("tekken", "tekken"), ("gpt-4o",) * 2]
)
def test_words_are_cut_as_transformers_own_expressions_cut_them(names: tuple[str, str]) -> None:
    import regex
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    (ours,), theirs = PRE_TOKENIZERS[names[0]].splits, GGUF_PRE_TOKENIZER_SPLITS[names[1]]
    for text in TEXTS:
        assert regex.findall(ours, text) == regex.findall(theirs, text)


def test_smollm_cuts_digits_apart_before_anything_else(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    reference = LlamaCpp(read_vocabulary(write_bpe(tmp_path / "a.gguf")))
    for text in TEXTS:
        spelled = [word for word, _ in cut.pre_tokenize_str(text)]
        assert ["".join(word) for word in map(_spelled, reference._words(text))] == spelled


def _spelled(word: str) -> str:
    from quantizers.checkpoints.llama_cpp_tokens import _alphabet

    return "".join(_alphabet()[byte] for byte in word.encode())


def test_line_ends_before_a_digit_stay_together_with_smollm(tmp_path: Path, folder: Path) -> None:
    source = write_bpe(tmp_path / "a.gguf")
    proved(source, folder)
    tokens = read_vocabulary(source).tokens
    assert [tokens[token] for token in ids_of(folder, "b\n\n7")] == ["b", "ĊĊ", "7"]


def test_a_whole_word_goes_before_merges_where_the_rule_says_so(tmp_path: Path) -> None:
    whole, merged = (
        LlamaCpp(read_vocabulary(write_bpe(tmp_path / "a.gguf", pre=pre))) for pre in ("llama-bpe", "dbrx")
    )
    assert len(whole.ids("wholeword")) == 2  # BOS goes first.
    assert len(merged.ids("wholeword")) > 2


def test_special_texts_are_one_token_and_added_ones_too(tmp_path: Path, folder: Path) -> None:
    source = write_spm(tmp_path / "a.gguf", add_bos_token=False)
    proved(source, folder)
    tokens = read_vocabulary(source).tokens
    found = [tokens[token] for token in ids_of(folder, "a<turn>b  c</s>")]
    assert found == ["▁a", "<turn>", "▁b", "  ", "▁c", "</s>"]


def test_phi_3s_special_tokens_swallow_what_follows(tmp_path: Path, folder: Path) -> None:
    source = write_spm(tmp_path / "a.gguf", add_bos_token=False, **{"general.name": "Phi-3 mini"})
    proved(source, folder)
    assert ids_of(folder, "a<turn>\n b") == ids_of(folder, "a<turn>b")


def test_the_chat_template_and_the_ends_of_an_answer_come_along(tmp_path: Path, folder: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    source = write_spm(tmp_path / "a.gguf", eot_token_id=5, **{"tokenizer.chat_template": template})
    proved(source, folder)
    assert read_vocabulary(source).ends == [2, 5]
    assert (folder / "chat_template.jinja").read_text() == template


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"pre": "no-such-rule"}, "by the rule 'no-such-rule', which is not known here"),
        ({"pre": None}, "by the rule None"),
        ({"add_bos_token": True, "bos_token_id": None}, "there is no bos_token_id"),
        ({"bos_token_id": 70_000}, "bos_token_id is 70000, there are"),
        ({"add_eos_token": True}, "puts EOS after every text"),
    ],
)
def test_what_is_not_known_or_contradicts_itself_is_refused(
    tmp_path: Path, metadata: dict[str, Any], told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        read_vocabulary(write_bpe(tmp_path / "a.gguf", **metadata))


def test_another_kind_of_tokenizer_is_refused_from_the_header(tmp_path: Path) -> None:
    path = write_bpe(tmp_path / "a.gguf")
    check_vocabulary(path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<Q", 4) + b"gpt2", struct.pack("<Q", 4) + b"rwkv", 1))
    with pytest.raises(RequestError, match="of the kind 'rwkv'"):
        check_vocabulary(path)


def test_two_tokens_of_one_text_are_refused(tmp_path: Path) -> None:
    path = write_spm(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes().replace(b"<turn>", b"<0x0A>", 1))
    with pytest.raises(RequestError, match="contradicts itself"):
        read_vocabulary(path)


@pytest.mark.parametrize("change", ["pre_tokenizer", "post_processor", "merges", "normalizer"])
def test_a_tokenizer_that_was_written_otherwise_is_caught(tmp_path: Path, folder: Path, change: str) -> None:
    source = (
        write_spm(tmp_path / "a.gguf") if change == "normalizer" else write_bpe(tmp_path / "a.gguf", pre="llama-bpe")
    )
    proved(source, folder)
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    if change == "pre_tokenizer":
        plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        written["pre_tokenizer"] = plain
    elif change == "merges":
        del written["model"]["merges"][40:60]
    elif change == "normalizer":
        written["normalizer"]["normalizers"] = written["normalizer"]["normalizers"][1:]
    else:
        written["post_processor"] = None
    file.write_text(json.dumps(written))
    with pytest.raises(RequestError, match=r"the text .* is \[.* by the rules in .*a\.gguf and \["):
        prove_gguf(read_vocabulary(source), folder, source)


def test_another_bos_or_template_is_caught(tmp_path: Path, folder: Path) -> None:
    source = write_spm(tmp_path / "a.gguf")
    proved(source, folder)
    vocabulary = read_vocabulary(source)
    for change, told in (({"bos": 2}, "its bos token is 2"), ({"chat_template": "x"}, "its chat template is 'x'")):
        with pytest.raises(RequestError, match=told):
            prove_gguf(dataclasses.replace(vocabulary, **change), folder, source)


@pytest.mark.parametrize("kept_bytes", [30, 100, 2000])
def test_a_header_that_is_cut_off_is_refused(tmp_path: Path, kept_bytes: int) -> None:
    path = write_spm(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(RequestError, match=r"the header of .*a\.gguf is broken"):
        read_vocabulary(path)


def test_metadata_are_read_with_and_without_lists(tmp_path: Path) -> None:
    path = write_spm(tmp_path / "a.gguf", add_bos_token=True)
    short = gguf_header.metadata(path, ("tokenizer.",), lists=False)
    assert short["tokenizer.ggml.add_bos_token"] is True
    assert "tokenizer.ggml.tokens" not in short
    assert len(gguf_header.metadata(path, ("tokenizer.",), lists=True)["tokenizer.ggml.tokens"]) > 600
    assert gguf_vocabulary.read_vocabulary(path).kind == "spm"
