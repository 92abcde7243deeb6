"""The tokenizer of a folder is what its own files say, as transformers reads them, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from quantizers.checkpoints.gguf_tokenizer import write_tokenizer
from quantizers.checkpoints.gguf_vocabulary import read_vocabulary
from quantizers.checkpoints.tokenizer_proof import prove_folder
from registry.texts import TextEnding, opening_of, text_ids
from tests.tiny_gguf import train_sentencepiece, write_bpe
from tests.tiny_llama import make_tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """BOS is token 0, EOS 2; nothing begins a text."""
    make_tiny_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return tmp_path


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def begin_with(folder: Path, *tokens: str, end: tuple[str, ...] = ()) -> None:
    """The post-processor of tokenizer.json puts these around a text."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]

    def special(token: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = [*map(special, tokens), text, *map(special, end)]
    known = {one: {"id": one, "ids": [vocabulary[one]], "tokens": [one]} for one in (*tokens, *end)}
    processor = {"type": "TemplateProcessing", "single": template, "pair": template, "special_tokens": known}
    processor["pair"] = [*template, {"Sequence": {"id": "B", "type_id": 1}}]
    change(folder / "tokenizer.json", post_processor=processor)


def test_a_folder_without_bos_is_proved(folder: Path) -> None:
    proved = prove_folder(folder, folder)
    assert proved.opening == []
    assert "the token ids that tokenizer.json gives them" in proved.proof


@pytest.mark.parametrize("said", [True, None])
def test_bos_by_the_post_processor_and_by_the_config(folder: Path, said: bool | None) -> None:
    begin_with(folder, "<|endoftext|>")
    if said is not None:
        change(folder / "tokenizer_config.json", add_bos_token=said)
    assert prove_folder(folder, folder).opening == [0]


@pytest.mark.parametrize("said", [True, False])
def test_config_and_post_processor_that_contradict_each_other_are_refused(folder: Path, said: bool) -> None:
    if not said:
        begin_with(folder, "<|endoftext|>")
    change(folder / "tokenizer_config.json", add_bos_token=said)
    with pytest.raises(RequestError, match=f"says add_bos_token {said}, the post-processor"):
        prove_folder(folder, folder)


def test_an_end_after_every_text_is_refused(folder: Path) -> None:
    begin_with(folder, end=("<|im_end|>",))
    with pytest.raises(RequestError, match=r"puts \[2\] after every text"):
        prove_folder(folder, folder)
    change(folder / "tokenizer_config.json", add_eos_token=True)
    with pytest.raises(RequestError, match=r"puts \[2\] after every text"):
        prove_folder(folder, folder)


def test_a_setting_that_is_no_truth_value_is_refused(folder: Path) -> None:
    change(folder / "tokenizer_config.json", add_bos_token=1)
    with pytest.raises(RequestError, match="says add_bos_token: 1"):
        prove_folder(folder, folder)


def test_a_tokenizer_that_does_not_load_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match="does not read the tokenizer in"):
        prove_folder(folder, folder)


def cut_digits(folder: Path) -> None:
    """As SmolLM's file says: digits apart, then GPT-2's words."""
    write_tokenizer(read_vocabulary(write_bpe(folder / "a.gguf", pre="smollm")), folder)


def test_a_class_that_knows_other_rules_gives_way_to_the_file(folder: Path) -> None:
    from transformers import AutoTokenizer

    cut_digits(folder)
    change(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    before = AutoTokenizer.from_pretrained(folder)("x\n\n5").input_ids
    assert "not those of the class in tokenizer_config.json" in prove_folder(folder, folder).proof
    assert AutoTokenizer.from_pretrained(folder)("x\n\n5").input_ids != before


def test_a_class_that_the_model_forces_is_refused(folder: Path) -> None:
    cut_digits(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    change(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    with pytest.raises(RequestError, match=r"by the rules in .* by the tokenizer that the engines read"):
        prove_folder(folder, folder)


@pytest.mark.parametrize("said", [True, False, None])
def test_a_sentencepiece_model_needs_a_word_about_bos(tmp_path: Path, said: bool | None) -> None:
    train_sentencepiece(tmp_path, dummy_prefix=False)
    (tmp_path / "tokenizer.vocab").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}')
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    told = {"tokenizer_class": "GemmaTokenizer", **names} | ({} if said is None else {"add_bos_token": said})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    if said is None:
        with pytest.raises(RequestError, match="says whether a text begins with BOS"):
            prove_folder(tmp_path, tmp_path)
    else:
        proved = prove_folder(tmp_path, tmp_path)
        assert proved.opening == ([1] if said else [])
        assert "tokenizer.model gives them" in proved.proof


def test_texts_begin_once(folder: Path) -> None:
    from transformers import AutoTokenizer

    begin_with(folder, "<|endoftext|>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert opening_of(tokenizer) == [0]
    plain, begun, empty = text_ids(tokenizer, ["The dog", "<|endoftext|>The dog", ""])
    assert plain == begun
    assert plain[:1] == [0] and plain.count(0) == 1
    assert empty == [0]


def test_texts_of_a_model_without_bos_begin_with_themselves(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert opening_of(tokenizer) == []
    assert text_ids(tokenizer, ["", "<|endoftext|>a"]) == [[], [0, *tokenizer("a").input_ids]]


def test_what_stands_after_a_text_is_told(folder: Path) -> None:
    from transformers import AutoTokenizer

    begin_with(folder, "<|endoftext|>", end=("<|im_end|>",))
    with pytest.raises(TextEnding, match=r"\[2\]"):
        opening_of(AutoTokenizer.from_pretrained(folder))
