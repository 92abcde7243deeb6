"""Calibration rows from data: packing, exclusion, too little of it. No engine, and a tokenizer of one token a word."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from quantizers.calibration.calibration import pack_rows
from quantizers.calibration.config import FileCalibration, check_calibration
from quantizers.calibration.documents import check_documents, read_documents
from quantizers.calibration.exclusion import Exclusion
from tests.records import checkpoint_record

ITEM = "Which planet is known as the red planet?"


class WordTokenizer:
    """A token a word, its length; BOS is 99 for those that begin every text with it."""

    eos_token_id = 0

    def __init__(self, opening: list[int] | None = None) -> None:
        self.opening = opening or []

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list[Any]]:
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [99 if word == "<bos>" else len(word) for word in text.split()]
        return {"input_ids": self.opening + ids if add_special_tokens else ids}

    def decode(self, ids: list[int]) -> str:
        return " ".join("<bos>" for token in ids if token == 99)

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        return " ".join(f"<{message['role']}> {message['content']}" for message in messages)


def config(path: Path, **changes: object) -> FileCalibration:
    return FileCalibration.model_validate({"source": "file", "path": path, "samples": 2, "tokens": 16} | changes)


def test_documents_are_packed_end_to_end(tmp_path: Path) -> None:
    documents = ["a " * 20, "bb " * 20]
    rows, rejected = pack_rows(documents, WordTokenizer(), config(tmp_path / "a.txt"), Exclusion([]))
    assert rows == [[1] * 16, [1] * 4 + [0] + [2] * 11]
    assert rejected == 0


def test_every_row_and_document_begins_as_the_model_expects(tmp_path: Path) -> None:
    documents = ["a " * 20, "bb " * 30]
    rows, _ = pack_rows(documents, WordTokenizer([99]), config(tmp_path / "a.txt", samples=3), Exclusion([]))
    assert rows == [[99] + [1] * 15, [99] + [1] * 5 + [0, 99] + [2] * 8, [99] + [2] * 15]


def test_a_row_that_begins_with_a_document_has_one_opening(tmp_path: Path) -> None:
    documents = ["a " * 14, "bb " * 15]
    rows, _ = pack_rows(documents, WordTokenizer([99]), config(tmp_path / "a.txt"), Exclusion([]))
    assert rows == [[99] + [1] * 14 + [0], [99] + [2] * 15]


def test_a_template_that_writes_the_opening_gets_no_second_one(tmp_path: Path) -> None:
    class Template(WordTokenizer):
        def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
            return "<bos> " + super().apply_chat_template(messages, tokenize)

    for tokenizer in (Template([99]), WordTokenizer([99])):
        rows, _ = pack_rows(["a " * 40], tokenizer, config(tmp_path / "a.txt", chat_template=True), Exclusion([]))
        assert rows[0][:3] == [99, len("<user>"), 1]


def test_rows_that_hold_an_evaluation_item_are_left_out(tmp_path: Path) -> None:
    documents = [f"Quiz: which  PLANET is known as\nthe red planet? {'x ' * 40}", "a " * 40]
    rows, rejected = pack_rows(documents, WordTokenizer(), config(tmp_path / "a.txt"), Exclusion([ITEM]))
    assert rejected == 1
    assert rows == [[1] * 16] * 2


def test_short_evaluation_texts_exclude_nothing() -> None:
    assert not Exclusion(["yes"]).found_in("yes, of course")
    assert Exclusion([ITEM]).found_in(ITEM.upper())


def test_conversations_go_through_the_template(tmp_path: Path) -> None:
    document = [{"role": "user", "content": "hi " * 40}]
    rows, _ = pack_rows([document], WordTokenizer(), config(tmp_path / "a.txt", chat_template=True), Exclusion([]))
    assert rows[0][0] == len("<user>")


def test_documents_of_both_kinds_of_file(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("one\n\n\ntwo\nlines\n")
    lines.write_text('{"text": "one"}\n\n{"messages": [{"role": "user", "content": "two"}]}\n')
    assert read_documents(text) == (["one", "two\nlines"], 0)
    assert read_documents(lines) == (["one", [{"role": "user", "content": "two"}]], 0)


def test_mark_line_ends_and_separators_within_a_text_do_not_matter(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_bytes("\ufeffone\r\n\r\ntwo".encode())
    lines.write_bytes('\ufeff{"text": "one\u2028two"}\r\n{"text": " "}\r\n'.encode())
    assert read_documents(text) == (["one", "two"], 0)
    assert read_documents(lines) == (["one\u2028two"], 1)


def test_a_file_in_another_encoding_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(("Der Fluß läuft über die Brücke. " * 9).encode("latin-1"))
    with pytest.raises(RequestError) as caught:
        check_documents(config(path))
    assert str(caught.value) == (
        f"{path}:1: byte 7 (0xdf) is not UTF-8; the text looks like latin-1 (ISO 8859-1)\n"
        "  remedy: convert it to UTF-8: iconv -f ISO-8859-1 -t UTF-8 FILE > NEW"
    )


@pytest.mark.parametrize(
    ("texts", "fact"),
    [
        (["", " ", "a"], "holds no usable text: 3 documents, 2 of them blank, the longest of 1 characters"),
        (["", "\n"], "holds no usable text: 2 documents, 2 of them blank, the longest of 0 characters"),
        ([], "holds no usable text: 0 documents, 0 of them blank, the longest of 0 characters"),
        (["abcd"] * 2, "holds too little text: 2 documents, 0 of them blank, the longest of 4 characters"),
    ],
)
def test_too_little_text_is_told_before_work(tmp_path: Path, texts: list[str], fact: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.raises(RequestError) as caught:
        check_documents(config(path, samples=8, tokens=32))
    assert str(caught.value) == (
        f"the calibration file {path} {fact}, where 8 x 32 tokens are asked for\n"
        "  remedy: add text, name another file, or use `source: self`, which needs none"
    )


def test_what_may_be_enough_is_left_to_the_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one two three four"}) + "\n")
    check_documents(config(path, samples=2, tokens=64))
    path.write_text(json.dumps({"text": "a"}) + "\n")
    check_documents(config(path, samples=2, tokens=64, chat_template=True))


@pytest.mark.parametrize("line", ["{", "[]", '{"txt": "x"}', '{"messages": [{"role": "user"}]}', '{"text": 3}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + line + "\n")
    with pytest.raises(RequestError, match=r"a\.jsonl:2: "):
        read_documents(path)


def test_what_cannot_work_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    model = checkpoint_record("sha256:c").model_copy(update={"positions": 64})
    check_calibration(config(path), model)
    with pytest.raises(RequestError, match="128 tokens exceed the model's 64 positions"):
        check_calibration(config(path, tokens=128), model)
    with pytest.raises(RequestError, match="64 tokens are longer than the sliding window of 32"):
        check_calibration(config(path, tokens=64), model.model_copy(update={"sliding_window": 32}))
    with pytest.raises(RequestError, match="the model has none"):
        check_calibration(config(path, chat_template=True), model.model_copy(update={"has_chat_template": False}))
    with pytest.raises(RequestError, match=r"a\.txt: cannot be read: No such file"):
        check_documents(config(path))
    with pytest.raises(RequestError, match=r"neither \.jsonl nor \.txt"):
        check_documents(config(tmp_path / "a.parquet"))
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with pytest.raises(RequestError, match="is a device"):
        check_documents(config(tmp_path / "zero.txt"))
